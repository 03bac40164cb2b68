#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "absl/time/clock.h"
#include "service_fixture.h"

namespace longshelf::kvstore {
namespace {

using ServiceTest = ServiceFixture;

constexpr uint64_t kRoot = 1 << 20;

TEST_F(ServiceTest, ObjectsOfManySizesComeBackAsTheyWere) {
  Start(256 << 20);
  std::vector<Object> objects;
  uint64_t id = 0;
  for (const size_t n : {size_t{1}, size_t{4096}, kMaxFrameBytes - 1, kMaxFrameBytes, kMaxFrameBytes + 1,
                         size_t{899648}, size_t{20} << 20, size_t{64} << 20}) {
    objects.push_back(MakeObject(++id, kRoot, 256, n));
  }
  std::vector<PutItem> puts;
  std::vector<GetItem> gets;
  for (const Object& object : objects) {
    puts.push_back(ItemOf(object));
    gets.push_back(WantOf(object));
  }
  for (const auto& outcome : client_->PutMany(puts, kTimeout)) {
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_FALSE(outcome->existed);
  }
  const auto got = client_->GetMany(FingerprintOf(1), gets, kTimeout);
  ASSERT_EQ(got.size(), objects.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_TRUE(got[i].ok()) << got[i].status();
    EXPECT_TRUE(*got[i] == objects[i].payload) << i;
  }
}

TEST_F(ServiceTest, ASecondPutSendsNothingAndTellsTheDigest) {
  Start(16 << 20);
  const Object object = MakeObject(1, kRoot, 256, 100000);
  ASSERT_TRUE(Put(object).ok());
  Object other = object;
  other.payload[5] ^= std::byte{4};
  const auto again = Put(other);
  ASSERT_TRUE(again.ok());
  EXPECT_TRUE(again->existed);
  EXPECT_TRUE(again->conflicts);
  EXPECT_EQ(again->digest, object.head.digest);
  EXPECT_EQ(*Get(object), object.payload);
  EXPECT_TRUE(Put(object)->existed);
  EXPECT_FALSE(Put(object)->conflicts);
}

TEST_F(ServiceTest, EveryObjectHasItsOwnStatus) {
  Start(16 << 20, {}, 0.1);
  const Object good = MakeObject(1, kRoot, 256, 1000);
  Object bad = MakeObject(2, kRoot, 256, 1000);
  bad.head.namespace_id.clear();
  const Object huge = MakeObject(3, kRoot, 256, 20 << 20);
  const Object parked = Parked(MakeObject(4, kRoot, 256, 5 << 20), absl::Now() + absl::Hours(1));
  const PutItem puts[] = {ItemOf(bad), ItemOf(huge), ItemOf(parked), {good.head, {}}, ItemOf(good)};
  const auto outcomes = client_->PutMany(puts, kTimeout);
  EXPECT_EQ(outcomes[0].status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(outcomes[1].status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(outcomes[2].status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(outcomes[3].status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(outcomes[4].ok());

  const GetItem gets[] = {WantOf(bad), WantOf(good), {good.head.key, 999}, WantOf(huge)};
  const auto got = client_->GetMany(FingerprintOf(1), gets, kTimeout);
  EXPECT_EQ(got[0].status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(got[1].ok());
  EXPECT_EQ(got[2].status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(got[3].status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(client_->GetMany(FingerprintOf(2), gets, kTimeout)[1].status(), got[0].status());
}

TEST_F(ServiceTest, LookupTouchDropAndStatsReachTheStore) {
  Start(16 << 20);
  const Object block = MakeObject(1, kRoot, 256, 1000);
  const Object checkpoint = MakeObject(2, 1, 300, 2000, ObjectKind::kCheckpoint);
  const Object tail = MakeObject(2, 1, 300, 500, ObjectKind::kTail);
  for (const Object& object : {block, checkpoint, tail}) ASSERT_TRUE(Put(object).ok());
  const auto found = client_->Lookup(
      {.fingerprint = FingerprintOf(1), .root = Hash(kRoot), .chain = {Hash(1), Hash(7)}, .probes = {Hash(2)}},
      kTimeout);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->n_present, 1u);
  ASSERT_EQ(found->checkpoints.size(), 2u);
  for (const CheckpointInfo& info : found->checkpoints) {
    EXPECT_EQ(info.hash, Hash(2));
    EXPECT_EQ(info.parent, Hash(1));
    EXPECT_EQ(info.depth_tokens, 300u);
    EXPECT_EQ(info.payload_bytes, 2000u);
    EXPECT_TRUE(info.has_tail);
    EXPECT_EQ(info.tail_bytes, 500u);
  }
  const PlacedKey keys[] = {{block.head.key}, {tail.head.key}, {BlockKeyOf(99)}};
  TouchQuery touch{.keys = {std::begin(keys), std::end(keys)}, .retain_until = absl::Now() + absl::Hours(1)};
  const auto touched = client_->Touch(touch, kTimeout);
  EXPECT_EQ(touched->n_present, 2u);
  EXPECT_EQ(touched->retained, (std::vector<bool>{true, true, false}));
  touch.ack = Ack::kDurableOne;
  EXPECT_EQ(client_->Touch(touch, kTimeout)->retained, std::vector<bool>(3)) << "there is no disk";
  const auto stats = client_->Stats(kTimeout);
  EXPECT_EQ(stats->n_objects, 3u);
  EXPECT_EQ(stats->parked_bytes, Store::ChargeOf(1000) + Store::ChargeOf(500));
  EXPECT_EQ(client_->DropCache(keys, kTimeout)->n_dropped, 0u) << "parked";
  EXPECT_EQ(client_->Drop(keys, kTimeout)->n_dropped, 2u);
  EXPECT_EQ(client_->DropNamespace({.id = "other"}, kTimeout)->n_dropped, 0u);
  EXPECT_EQ(client_->DropNamespace({.id = "ns"}, kTimeout)->n_dropped, 1u);
  EXPECT_EQ(client_->Stats(kTimeout)->used_bytes, 0u);
}

TEST_F(ServiceTest, ObjectsCorruptedInMemoryAreReportedAndTheRestIsServed) {
  Start(64 << 20);
  std::vector<Object> objects;
  std::vector<GetItem> gets;
  for (uint64_t id = 0; id < 20; ++id) {
    objects.push_back(MakeObject(id, kRoot, 256, 700000));
    ASSERT_TRUE(Put(objects.back()).ok());
    gets.push_back(WantOf(objects.back()));
    const bool flipped = id % 3 == 0 && store_->FlipBitForTest(objects.back().head.key, id * 100000);
    ASSERT_EQ(flipped, id % 3 == 0);
  }
  const auto got = client_->GetMany(FingerprintOf(1), gets, kTimeout);
  for (size_t i = 0; i < got.size(); ++i) {
    if (i % 3 == 0) {
      EXPECT_EQ(got[i].status().code(), absl::StatusCode::kDataLoss);
    } else {
      EXPECT_EQ(*got[i], objects[i].payload);
    }
  }
  EXPECT_EQ(Stats().n_quarantined, 7u);
}

TEST_F(ServiceTest, CallsBeyondTheLimitsAreRefusedBeforeTheyLeave) {
  Start(16 << 20);
  const std::vector<GetItem> gets(kMaxKeysPerCall + 1);
  EXPECT_EQ(client_->GetMany(FingerprintOf(1), gets, kTimeout)[0].status().code(), absl::StatusCode::kInvalidArgument);
  const std::vector<PutItem> puts(kMaxKeysPerCall + 1);
  EXPECT_EQ(client_->PutMany(puts, kTimeout)[0].status().code(), absl::StatusCode::kInvalidArgument);
  LookupQuery query;
  query.chain.resize(kMaxChainKeys + 1);
  EXPECT_EQ(client_->Lookup(query, kTimeout).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ServiceTest, ManifestsAreListedByHashInPages) {
  Start(16 << 20);
  std::vector<Object> manifests;
  for (uint64_t id = 1; id <= 40; ++id) {
    manifests.push_back(MakeObject(id, kRoot, 300, 100, ObjectKind::kManifest));
    manifests.back().head.extent = Hash(id % 3);
    ASSERT_TRUE(Put(manifests.back()).ok());
  }
  ASSERT_TRUE(Put(MakeObject(50, kRoot, 300, 100, ObjectKind::kCheckpoint)).ok());
  ASSERT_TRUE(Put(MakeObject(51, kRoot + 1, 300, 100, ObjectKind::kManifest)).ok());
  ListQuery query{.parent = Hash(kRoot), .limit = 15};
  std::vector<ObjectHead> heads;
  absl::StatusOr<ListResult> page;
  do {
    page = client_->List(query, kTimeout);
    ASSERT_TRUE(page.ok()) << page.status();
    EXPECT_EQ(page->heads.size(), heads.size() < 30 ? 15u : 10u);
    heads.insert(heads.end(), page->heads.begin(), page->heads.end());
    query.after = heads.back().key.hash;
  } while (page->more);
  ASSERT_EQ(heads.size(), 40u);
  for (uint64_t id = 1; id <= 40; ++id) {
    EXPECT_EQ(heads[id - 1].key, manifests[id - 1].head.key);
    EXPECT_EQ(heads[id - 1].extent, Hash(id % 3));
    EXPECT_EQ(heads[id - 1].digest, manifests[id - 1].head.digest);
  }
  EXPECT_EQ(client_->List({.parent = Hash(kRoot), .hash_prefix = std::string(1, 7)}, kTimeout)->heads.size(), 1u);
  EXPECT_EQ(client_->List({.parent = Hash(kRoot + 2)}, kTimeout)->heads.size(), 0u);
  for (const ListQuery& bad :
       {ListQuery{.limit = 0}, ListQuery{.limit = kMaxListed + 1}, ListQuery{.hash_prefix = std::string(33, 'x')}}) {
    EXPECT_EQ(client_->List(bad, kTimeout).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(ServiceTest, ADurablePutIsRefusedWithoutADiskAndKeptInMemory) {
  Start(16 << 20);
  const Object object = Parked(MakeObject(1, kRoot, 256, 100000), absl::Now() + absl::Hours(1));
  PutItem item = ItemOf(object);
  item.ack = Ack::kDurableOne;
  for (int i = 0; i < 2; ++i) {
    const auto outcome = client_->PutMany(std::span(&item, 1), kTimeout)[0];
    EXPECT_EQ(outcome.status().code(), absl::StatusCode::kFailedPrecondition) << outcome.status();
  }
  EXPECT_EQ(*Get(object), object.payload);
  item.head.object_class = ObjectClass::kCache;
  EXPECT_EQ(client_->PutMany(std::span(&item, 1), kTimeout)[0].status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ServiceTest, OnlyCallersWithTheTokenGetIn) {
  Start(16 << 20, {.token = "0123456789abcdef"});
  const Object object = MakeObject(1, kRoot, 256, 1000);
  ASSERT_TRUE(Put(object).ok());
  for (const char* token : {"", "0123456789abcdeX"}) {
    const auto stranger = Connect(token);
    const GetItem gets[] = {WantOf(object)};
    const PutItem puts[] = {ItemOf(object)};
    const PlacedKey keys[] = {{object.head.key}};
    constexpr auto kDenied = absl::StatusCode::kUnauthenticated;
    EXPECT_EQ(stranger->GetMany(FingerprintOf(1), gets, kTimeout)[0].status().code(), kDenied);
    EXPECT_EQ(stranger->PutMany(puts, kTimeout)[0].status().code(), kDenied);
    EXPECT_EQ(stranger->Lookup({}, kTimeout).status().code(), kDenied);
    EXPECT_EQ(stranger->Touch({.keys = {keys[0]}}, kTimeout).status().code(), kDenied);
    EXPECT_EQ(stranger->Drop(keys, kTimeout).status().code(), kDenied);
    EXPECT_EQ(stranger->DropNamespace({.id = "ns"}, kTimeout).status().code(), kDenied);
    EXPECT_EQ(stranger->List({}, kTimeout).status().code(), kDenied);
    EXPECT_EQ(stranger->Stats(kTimeout).status().code(), kDenied);
  }
  EXPECT_EQ(*Get(object), object.payload);
}

TEST_F(ServiceTest, AnOpenAddressNeedsATokenOrAnOverride) {
  Start(16 << 20);
  EXPECT_EQ(Server::Start({.listen = "0.0.0.0:0"}, *store_, clock_, metrics_).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Server::Start({.listen = "127.0.0.1:0", .token = "short"}, *store_, clock_, metrics_).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Server::Start({.listen = address_}, *store_, clock_, metrics_).status().code(),
            absl::StatusCode::kUnavailable)
      << "the port is taken";
}

TEST_F(ServiceTest, ADeadNodeIsUnavailableAtOnceAndUsableAgainAfterItsReturn) {
  Start(16 << 20);
  const Object object = MakeObject(1, kRoot, 256, 1000);
  ASSERT_TRUE(Put(object).ok());
  const std::string address = address_;
  server_.reset();
  const absl::Time before = clock_.Now();
  const absl::Status dead = Get(object).status();
  EXPECT_EQ(dead.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Put(object).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(client_->Stats(kTimeout).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_LT(clock_.Now() - before, absl::Seconds(3));

  auto again = Server::Start({.listen = address}, *store_, clock_, metrics_);
  ASSERT_TRUE(again.ok()) << again.status();
  const absl::Time deadline = clock_.Now() + absl::Seconds(20);
  while (!Get(object).ok() && clock_.Now() < deadline) std::this_thread::yield();
  EXPECT_EQ(*Get(object), object.payload);
}

TEST_F(ServiceTest, ANodeThatNeverAnswersCostsTheTimeoutAtMost) {
  // A listening socket that nobody accepts from: the connection is made by the kernel and stays silent.
  Start(16 << 20);
  const int silent = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  ASSERT_EQ(bind(silent, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(silent, 8), 0);
  ASSERT_EQ(getsockname(silent, reinterpret_cast<sockaddr*>(&address), &length), 0);
  address_ = absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
  const auto client = Connect();
  const absl::Time before = clock_.Now();
  const absl::StatusCode code = client->Stats(absl::Milliseconds(300)).status().code();
  EXPECT_TRUE(code == absl::StatusCode::kDeadlineExceeded || code == absl::StatusCode::kUnavailable);
  EXPECT_LT(clock_.Now() - before, absl::Seconds(2));
  close(silent);
}

TEST_F(ServiceTest, ManyClientsAtOnceSeeWholeObjectsInASmallStore) {
  Start(24 << 20);
  std::atomic<int> n_wrong = 0;
  std::atomic<int> n_read = 0;
  const auto run = [&](uint64_t seed) {
    const auto client = Connect();
    std::mt19937_64 random(seed);
    for (int step = 0; step < 30; ++step) {
      std::vector<Object> objects;
      std::vector<PutItem> puts;
      std::vector<GetItem> gets;
      for (int i = 0; i < 6; ++i) {
        const uint64_t id = random() % 64;
        objects.push_back(MakeObject(id, kRoot, 256, 300000 + id * 5000));
      }
      for (const Object& object : objects) {
        puts.push_back(ItemOf(object));
        gets.push_back(WantOf(object));
      }
      for (const auto& outcome : client->PutMany(puts, kTimeout)) {
        if (!outcome.ok() && outcome.status().code() != absl::StatusCode::kUnavailable) ++n_wrong;
      }
      const auto got = client->GetMany(FingerprintOf(1), gets, kTimeout);
      for (size_t i = 0; i < got.size(); ++i) {
        if (!got[i].ok() && got[i].status().code() != absl::StatusCode::kNotFound) ++n_wrong;
        if (got[i].ok() && *got[i] != objects[i].payload) ++n_wrong;
        if (got[i].ok()) ++n_read;
      }
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t seed = 1; seed <= 4; ++seed) threads.emplace_back(run, seed);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(n_wrong, 0);
  EXPECT_GT(n_read, 100);
  const StoreStats stats = Stats();
  EXPECT_LE(stats.used_bytes, stats.capacity_bytes);
  EXPECT_EQ(stats.n_reservations, 0u);
  EXPECT_GT(stats.n_evicted, 0u);
}

TEST(Client, NeedsAnAddressWithAPortAndAUsableToken) {
  EXPECT_FALSE(MakeClient({.address = ""}).ok());
  EXPECT_FALSE(MakeClient({.address = "localhost"}).ok());
  EXPECT_FALSE(MakeClient({.address = ":1"}).ok());
  EXPECT_FALSE(MakeClient({.address = "localhost:1", .token = "short"}).ok());
  EXPECT_TRUE(MakeClient({.address = "localhost:1"}).ok());
}

}  // namespace
}  // namespace longshelf::kvstore
