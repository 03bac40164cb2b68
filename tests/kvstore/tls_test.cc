// The store's edge with TLS: who is answered, who is believed, and what others do to the port.
#include <gmock/gmock.h>

#include <atomic>
#include <thread>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "kvstore/cluster_client.h"
#include "kvstore/peers.h"
#include "service_fixture.h"
#include "test_authority.h"
#include "tls_peer.h"

namespace longshelf::kvstore {
namespace {

using net::Role;
using ::testing::HasSubstr;

constexpr uint64_t kRoot = 1 << 20;

class TlsTest : public ServiceFixture {
 protected:
  using Identity = std::shared_ptr<net::TlsIdentity>;

  void StartWithTls(ServerOptions options = {}, Role role = Role::kKvstore) {
    store_identity_ = authority_.Identity("store", role, nullptr, {"localhost", "127.0.0.1"});
    options.tls = store_identity_;
    Start(64 << 20, options);
    worker_ = authority_.Identity("worker", Role::kWorker);
    client_ = ConnectAs(worker_);
  }
  Connection ConnectAs(const Identity& identity, const std::string& tls_name = "") {
    return Connection({.address = address_, .token = "", .tls = identity, .tls_name = tls_name});
  }
  absl::Status StatusAs(const Identity& identity, const std::string& tls_name = "") {
    return ConnectAs(identity, tls_name)->Stats(absl::Seconds(5)).status();
  }
  absl::Status StatusAs(Role role) { return StatusAs(authority_.Identity("caller", role)); }

  net::TestAuthority authority_;
  Identity store_identity_;
  Identity worker_;
};

TEST_F(TlsTest, ObjectsComeBackAsTheyWere) {
  StartWithTls();
  for (const size_t n : {size_t{1}, size_t{100'000}, kMaxFrameBytes + 1, size_t{20} << 20}) {
    const Object object = MakeObject(n, kRoot, 256, n);
    ASSERT_TRUE(Put(object).ok());
    EXPECT_TRUE(*Get(object) == object.payload) << n;
  }
}

TEST_F(TlsTest, AnswersThePartsOfAClusterAndOperatorsOnly) {
  StartWithTls();
  for (const Role role : {Role::kRouter, Role::kWorker, Role::kKvstore, Role::kOperator}) {
    EXPECT_TRUE(StatusAs(role).ok()) << net::RoleName(role);
  }
  const absl::Status refused = StatusAs(Role::kClient);
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("longshelf://role/client"));
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("longshelf_kvstore_unauthenticated_total 1\n"));
}

TEST_F(TlsTest, EveryCallLooksAtTheRole) {
  StartWithTls();
  const Object object = MakeObject(1, kRoot, 256, 1000);
  ASSERT_TRUE(Put(object).ok());
  const Connection client = ConnectAs(authority_.Identity("caller", Role::kClient));
  const PutItem put[] = {ItemOf(MakeObject(2, kRoot, 256, 1000))};
  const GetItem get[] = {WantOf(object)};
  const PlacedKey key[] = {{object.head.key, {}}};
  const auto denied = absl::StatusCode::kPermissionDenied;
  EXPECT_EQ(client->PutMany(put, kTimeout)[0].status().code(), denied);
  EXPECT_EQ(client->GetMany(FingerprintOf(1), get, kTimeout)[0].status().code(), denied);
  EXPECT_EQ(client->Lookup({}, kTimeout).status().code(), denied);
  EXPECT_EQ(client->Touch({.keys = {key[0]}}, kTimeout).status().code(), denied);
  EXPECT_EQ(client->Drop(key, kTimeout).status().code(), denied);
  EXPECT_EQ(client->DropCache(key, kTimeout).status().code(), denied);
  EXPECT_EQ(client->DropNamespace({.id = "ns"}, kTimeout).status().code(), denied);
  EXPECT_EQ(client->List({}, kTimeout).status().code(), denied);
  EXPECT_EQ(client->Stats(kTimeout).status().code(), denied);
  EXPECT_TRUE(*Get(object) == object.payload) << "others are not disturbed";
}

TEST_F(TlsTest, ATokenCanBeAskedForBesides) {
  const std::string token = "0123456789abcdef";
  StartWithTls({.token = token});
  EXPECT_EQ(StatusAs(worker_).code(), absl::StatusCode::kUnauthenticated);
  const Connection with_token({.address = address_, .token = token, .tls = worker_});
  EXPECT_TRUE(with_token->Stats(kTimeout).ok());
  const Connection public_user(
      {.address = address_, .token = token, .tls = authority_.Identity("caller", Role::kClient)});
  EXPECT_EQ(public_user->Stats(kTimeout).status().code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(TlsTest, NobodyWithoutACertificateOfOurAuthorityGetsIn) {
  StartWithTls();
  EXPECT_EQ(Connect()->Stats(absl::Seconds(5)).status().code(), absl::StatusCode::kUnavailable) << "plain";
  net::TlsPeer without(server_->port(), authority_.CallerContext());
  EXPECT_EQ(without.ReadToEnd(), "");
  // He believes our authority, and another one has signed for him.
  net::TestAuthority stranger;
  net::TlsFiles files = stranger.Write("caller", Role::kWorker);
  files.authority = authority_.files().authority;
  EXPECT_EQ(StatusAs(authority_.Load(files)).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(StatusAs(worker_).ok());
}

TEST_F(TlsTest, ACertificateThatExpiresWhileItIsUsedIsRefused) {
  StartWithTls();
  // As old as it can get: it is loaded while it is good.
  const net::TlsFiles files = authority_.Write("caller", Role::kWorker, absl::Seconds(2));
  const Identity caller = authority_.Load(files);
  const absl::Time end = caller->certificate().not_after;
  absl::Status status = StatusAs(caller);
  while (status.ok() && absl::Now() < end + absl::Seconds(10)) status = StatusAs(caller);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_GE(absl::Now(), end);
}

TEST_F(TlsTest, AClientBelievesOnlyTheCertificateOfAStoreForTheHostItCalls) {
  StartWithTls();
  const absl::Status other_name = StatusAs(worker_, "store.example");
  EXPECT_EQ(other_name.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(other_name.message()), HasSubstr("store.example is not for that name or address"));
  EXPECT_TRUE(StatusAs(worker_, "localhost").ok());
  net::TestAuthority stranger;
  EXPECT_EQ(StatusAs(stranger.Identity("caller", Role::kWorker)).code(), absl::StatusCode::kUnavailable);
}

TEST_F(TlsTest, AClientDoesNotTalkToAServerOfAnotherRole) {
  StartWithTls({}, Role::kWorker);
  const absl::Status status = StatusAs(worker_);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("is not that of a kvstore"));
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("longshelf_kvstore_unauthenticated_total 0\n")) << "nothing was sent";
}

TEST_F(TlsTest, OneListOfStoresAndANameAreClientsWithTlsToo) {
  StartWithTls();
  for (const std::string& stores : {address_, absl::StrCat("dns:localhost:", server_->port())}) {
    auto cluster = MakeClusterClient({.stores = stores, .tls = worker_}, clock_, nullptr);
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    BlockingClient blocking(**cluster);
    absl::Status status;
    const absl::Time patience = clock_.Now() + absl::Seconds(20);
    do {
      status = blocking.Stats(absl::Seconds(5)).status();
    } while (!status.ok() && clock_.Now() < patience);
    EXPECT_TRUE(status.ok()) << stores << " " << status;
  }
}

TEST_F(TlsTest, StoresBringEachOtherWhatIsParked) {
  StartWithTls();
  auto other = *Store::Create({.capacity_bytes = 16 << 20});
  Metrics metrics("other");
  const Identity other_identity = authority_.Identity("other", Role::kKvstore);
  ServerOptions options;
  options.tls = other_identity;
  auto other_server = *Server::Start(options, *other, clock_, metrics);
  const std::string other_address = absl::StrCat("127.0.0.1:", other_server->port());
  const Object object = Parked(MakeObject(1, kRoot, 256, 5000), clock_.WallNow() + absl::Hours(1));
  ASSERT_TRUE(Put(object).ok());
  PeerOptions peers;
  peers.stores = absl::StrCat(address_, ",", other_address);
  peers.advertise = address_;
  peers.tls = store_identity_;
  const auto started = Peers::Start(peers, *store_, clock_, metrics_);
  ASSERT_TRUE(started.ok()) << started.status();
  const Connection client({.address = other_address, .token = "", .tls = worker_});
  const GetItem want[] = {WantOf(object)};
  const absl::Time patience = clock_.Now() + absl::Seconds(30);
  while (!client->GetMany(FingerprintOf(1), want, kTimeout)[0].ok()) ASSERT_LT(clock_.Now(), patience);
}

TEST_F(TlsTest, NewConnectionsSeeTheNewCertificateAndRunningStreamsGoOn) {
  StartWithTls();
  const Object object = MakeObject(1, kRoot, 256, size_t{8} << 20);
  ASSERT_TRUE(Put(object).ok());
  // A read that stands still at its first object until the certificate is another one.
  std::atomic<int> n_objects = 0;
  std::atomic<bool> ended = false;
  absl::Status end;
  const Object second = MakeObject(2, kRoot, 512, size_t{8} << 20);
  ASSERT_TRUE(Put(second).ok());
  Client::GetRequest request{FingerprintOf(1), {WantOf(object), WantOf(second)}, kTimeout};
  request.window_bytes = 1 << 20;
  const auto call = client_.client().Get(
      request, {[&](size_t, absl::StatusOr<FetchedObject> fetched) { n_objects += fetched.ok() ? 1 : 0; },
                [&](const absl::Status& status) {
                  end = status;
                  ended = true;
                }});
  while (n_objects == 0) std::this_thread::yield();
  const std::string first = store_identity_->certificate().serial;
  authority_.Write("store", Role::kKvstore);
  net::AwaitAnother(*store_identity_, first);
  const std::string next = store_identity_->certificate().serial;
  // gRPC reads what the identity shows once a second.
  const absl::Time patience = clock_.Now() + absl::Seconds(20);
  std::string shown;
  while (shown != next && clock_.Now() < patience) {
    shown = net::TlsPeer(server_->port(), worker_->client_context()).serial();
  }
  EXPECT_EQ(shown, next);
  EXPECT_FALSE(ended);
  while (!ended) {
    call->Release(object.payload.size());
    std::this_thread::yield();
  }
  EXPECT_TRUE(end.ok()) << end;
  EXPECT_EQ(n_objects, 2);
  EXPECT_TRUE(StatusAs(worker_).ok());
}

TEST_F(TlsTest, AMismatchedPairInTheFilesDisturbsNeitherOldNorNewConnections) {
  StartWithTls();
  const net::TlsFiles other = authority_.Write("other", Role::kKvstore);
  net::ReplaceFile(authority_.directory() / "store.key", net::ContentOf(other.key));
  const std::string first = store_identity_->certificate().serial;
  // Longer than gRPC takes to read files again.
  const absl::Time until = clock_.Now() + absl::Milliseconds(2500);
  while (clock_.Now() < until) {
    EXPECT_EQ(net::TlsPeer(server_->port(), worker_->client_context()).serial(), first);
    ASSERT_TRUE(client_->Stats(kTimeout).ok());
  }
}

TEST_F(TlsTest, GarbageAndPlainHttpOnThePortDisturbNobody) {
  StartWithTls();
  const std::string garbage(5000, '\x16');
  std::vector<std::unique_ptr<net::TlsPeer>> silent;
  for (int i = 0; i < 20; ++i) {
    silent.push_back(std::make_unique<net::TlsPeer>(server_->port()));
    net::TlsPeer peer(server_->port());
    peer.Send(i % 2 == 0 ? garbage : "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    const Object object = MakeObject(static_cast<uint64_t>(i) + 1, kRoot, 256, 100'000);
    ASSERT_TRUE(Put(object).ok());
    EXPECT_TRUE(*Get(object) == object.payload);
    EXPECT_FALSE(absl::StrContains(peer.ReadToEnd(), "HTTP/1"));
  }
  EXPECT_TRUE(StatusAs(worker_).ok());
}

TEST_F(TlsTest, BeyondLoopbackTlsIsEnough) {
  ServerOptions options;
  options.listen = "0.0.0.0:0";
  auto store = Store::Create({.capacity_bytes = 1 << 20});
  Metrics other("other");
  EXPECT_EQ(Server::Start(options, **store, clock_, other).status().code(), absl::StatusCode::kFailedPrecondition);
  options.tls = authority_.Identity("store", Role::kKvstore);
  EXPECT_TRUE(Server::Start(options, **store, clock_, metrics_).ok());
}

}  // namespace
}  // namespace longshelf::kvstore
