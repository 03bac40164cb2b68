#include "kvstore/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "objects.h"

namespace longshelf::kvstore {
namespace {

constexpr uint64_t kRoot = 1000000;
const absl::Time kNow = absl::FromUnixSeconds(1700000000);

class StoreTest : public ::testing::Test {
 protected:
  void Make(uint64_t capacity, double parked_share = 0.5, EvictionPolicy eviction = EvictionPolicy::kScanResistant) {
    auto store = Store::Create({.capacity_bytes = capacity, .parked_share = parked_share, .eviction = eviction});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::move(*store);
  }

  // OK with true when committed, with false when the key existed.
  absl::StatusOr<bool> Put(const Object& object, absl::Time now = kNow) {
    auto opened = store_->Open(object.head, now);
    if (!opened.ok()) return opened.status();
    if (std::holds_alternative<Store::Exists>(*opened)) return false;
    auto& reservation = std::get<Store::Reservation>(*opened);
    if (auto status = reservation.Append(0, object.payload); !status.ok()) return status;
    auto committed = store_->Commit(std::move(reservation), now);
    if (!committed.ok()) return committed.status();
    return std::holds_alternative<Store::Committed>(*committed);
  }

  absl::StatusOr<std::vector<std::byte>> Get(const ObjectKey& key, uint8_t fingerprint = 1, size_t piece = 1000) {
    auto reader = store_->Get(key, FingerprintOf(fingerprint));
    if (!reader.ok()) return reader.status();
    std::vector<std::byte> bytes(reader->head().payload_bytes);
    while (reader->offset() < bytes.size()) {
      const size_t n = std::min<size_t>(piece, bytes.size() - reader->offset());
      if (auto status = reader->Read(std::span(bytes).subspan(reader->offset(), n)); !status.ok()) return status;
    }
    return bytes;
  }

  bool Has(uint64_t id) { return store_->Get(BlockKeyOf(id), FingerprintOf(1)).ok(); }

  std::unique_ptr<Store> store_;
};

constexpr size_t kPayload = 100000;
// Room for exactly `n` objects of kPayload.
uint64_t RoomFor(uint64_t n) { return n * Store::ChargeOf(kPayload); }

TEST_F(StoreTest, GivesBackWhatWasPut) {
  Make(64 << 20);
  for (const size_t n : {size_t{1}, size_t{4095}, size_t{4096}, size_t{4097}, size_t{899648}, size_t{5000001}}) {
    const Object object = MakeObject(n, kRoot, 256, n);
    ASSERT_TRUE(*Put(object)) << n;
    for (const size_t piece : {size_t{777}, size_t{4096}, n}) {
      const auto got = Get(object.head.key, 1, piece);
      ASSERT_TRUE(got.ok()) << got.status();
      EXPECT_EQ(*got, object.payload);
    }
  }
}

TEST_F(StoreTest, FirstWriterWins) {
  Make(8 << 20);
  const Object first = MakeObject(1, kRoot, 256, 5000);
  Object second = first;
  second.payload[0] ^= std::byte{1};
  second.head.digest = DigestOf(second.payload);
  ASSERT_TRUE(*Put(first));
  auto opened = store_->Open(second.head, kNow);
  ASSERT_TRUE(opened.ok());
  EXPECT_EQ(std::get<Store::Exists>(*opened).digest, first.head.digest);
  EXPECT_EQ(*Get(first.head.key), first.payload);
}

TEST_F(StoreTest, OfTwoOpenPutsTheFirstCommitWinsAndTheOtherGivesItsMemoryBack) {
  Make(8 << 20);
  const Object object = MakeObject(1, kRoot, 256, 5000);
  auto a = store_->Open(object.head, kNow);
  auto b = store_->Open(object.head, kNow);
  auto& slow = std::get<Store::Reservation>(*a);
  auto& fast = std::get<Store::Reservation>(*b);
  ASSERT_TRUE(slow.Append(0, object.payload).ok());
  ASSERT_TRUE(fast.Append(0, object.payload).ok());
  EXPECT_TRUE(std::holds_alternative<Store::Committed>(*store_->Commit(std::move(fast), kNow)));
  EXPECT_TRUE(std::holds_alternative<Store::Exists>(*store_->Commit(std::move(slow), kNow)));
  const StoreStats stats = store_->Stats(kNow);
  EXPECT_EQ(stats.n_objects, 1u);
  EXPECT_EQ(stats.used_bytes, Store::ChargeOf(5000));
  EXPECT_EQ(stats.reserved_bytes, 0u);
  EXPECT_EQ(stats.n_reservations, 0u);
}

TEST_F(StoreTest, NothingIsVisibleBeforeCommit) {
  Make(8 << 20);
  const Object object = MakeObject(1, kRoot, 256, 5000);
  auto opened = store_->Open(object.head, kNow);
  ASSERT_TRUE(std::get<Store::Reservation>(*opened).Append(0, object.payload).ok());
  EXPECT_FALSE(Has(1));
  const LookupResult found =
      *store_->Lookup({.fingerprint = FingerprintOf(1), .root = Hash(kRoot), .chain = {Hash(1)}, .probes = {}});
  EXPECT_EQ(found.n_present, 0u);
}

TEST_F(StoreTest, BytesMustArriveInOrderAndWithinTheAnnouncedSize) {
  Make(8 << 20);
  const Object object = MakeObject(1, kRoot, 256, 5000);
  auto opened = store_->Open(object.head, kNow);
  auto& reservation = std::get<Store::Reservation>(*opened);
  const std::span<const std::byte> bytes(object.payload);
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  EXPECT_TRUE(reservation.Append(0, bytes.first(3000)).ok());
  for (const uint64_t offset : {uint64_t{0}, uint64_t{2999}, uint64_t{3001}, uint64_t{5000}, kMax, kMax - 99}) {
    EXPECT_EQ(reservation.Append(offset, bytes.first(100)).code(), absl::StatusCode::kInvalidArgument) << offset;
  }
  EXPECT_EQ(reservation.Append(3000, bytes.first(2001)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(reservation.Append(3000, bytes.subspan(3000)).ok());
  EXPECT_FALSE(reservation.Append(5000, bytes.first(1)).ok());
  EXPECT_TRUE(store_->Commit(std::move(reservation), kNow).ok());
  EXPECT_EQ(*Get(object.head.key), object.payload);
}

TEST_F(StoreTest, CommitRefusesMissingAndDamagedBytes) {
  Make(8 << 20);
  const Object object = MakeObject(1, kRoot, 256, 5000);
  {
    auto opened = store_->Open(object.head, kNow);
    auto& reservation = std::get<Store::Reservation>(*opened);
    ASSERT_TRUE(reservation.Append(0, std::span(object.payload).first(4999)).ok());
    EXPECT_EQ(store_->Commit(std::move(reservation), kNow).status().code(), absl::StatusCode::kInvalidArgument);
  }
  for (const size_t bit : {size_t{0}, size_t{7}, size_t{20001}, size_t{39999}}) {
    Object damaged = object;
    damaged.payload[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_EQ(Put(damaged).status().code(), absl::StatusCode::kDataLoss) << bit;
  }
  EXPECT_FALSE(Has(1));
  EXPECT_EQ(store_->Stats(kNow).used_bytes + store_->Stats(kNow).reserved_bytes, 0u);
}

TEST_F(StoreTest, RefusesHeadsOutsideTheLimits) {
  Make(256 << 20);
  const Object good = MakeObject(1, kRoot, 256, 100);
  const std::vector<std::pair<const char*, std::function<void(ObjectHead&)>>> cases = {
      {"kind 0", [](ObjectHead& h) { h.key.kind = static_cast<ObjectKind>(0); }},
      {"kind 5", [](ObjectHead& h) { h.key.kind = static_cast<ObjectKind>(5); }},
      {"no payload", [](ObjectHead& h) { h.payload_bytes = 0; }},
      {"payload too large", [](ObjectHead& h) { h.payload_bytes = kMaxPayloadBytes + 1; }},
      {"payload 2^64-1", [](ObjectHead& h) { h.payload_bytes = std::numeric_limits<uint64_t>::max(); }},
      {"depth 0", [](ObjectHead& h) { h.depth_tokens = 0; }},
      {"depth too large", [](ObjectHead& h) { h.depth_tokens = kMaxDepthTokens + 1; }},
      {"no namespace", [](ObjectHead& h) { h.namespace_id = ""; }},
      {"namespace too long", [](ObjectHead& h) { h.namespace_id = std::string(65, 'n'); }},
      {"class 2", [](ObjectHead& h) { h.object_class = static_cast<ObjectClass>(2); }},
      {"own parent", [](ObjectHead& h) { h.parent = h.key.hash; }},
  };
  for (const auto& [name, spoil] : cases) {
    ObjectHead head = good.head;
    spoil(head);
    EXPECT_EQ(store_->Open(head, kNow).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
  EXPECT_EQ(store_->Stats(kNow).reserved_bytes, 0u);
}

TEST_F(StoreTest, ChainsCannotBecomeCircles) {
  Make(8 << 20);
  ASSERT_TRUE(*Put(MakeObject(1, /*parent=*/2, 512, 100)));
  EXPECT_EQ(Put(MakeObject(2, /*parent=*/1, 1024, 100)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Put(MakeObject(2, /*parent=*/1, 256, 100)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(*Put(MakeObject(2, kRoot, 256, 100)));
}

TEST_F(StoreTest, AnotherFingerprintIsNotFoundAndSaysNothingElse) {
  Make(8 << 20);
  ASSERT_TRUE(*Put(MakeObject(1, kRoot, 256, 100)));
  const absl::Status absent = Get(BlockKeyOf(2)).status();
  const absl::Status foreign = Get(BlockKeyOf(1), 2).status();
  EXPECT_EQ(absent.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(absent, foreign);
  const LookupResult found =
      *store_->Lookup({.fingerprint = FingerprintOf(2), .root = Hash(kRoot), .chain = {Hash(1)}, .probes = {}});
  EXPECT_EQ(found.n_present, 0u);
  Object other = MakeObject(1, kRoot, 256, 100);
  other.head.fingerprint = FingerprintOf(2);
  EXPECT_EQ(Put(other).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(StoreTest, ReservationsCountAgainstTheLimitAndAreFreedAtOnce) {
  Make(RoomFor(12), 0);
  std::vector<Store::Reservation> open;
  for (uint64_t id = 0; id < 12; ++id) {
    auto opened = store_->Open(MakeObject(id, kRoot, 256, kPayload).head, kNow);
    ASSERT_TRUE(opened.ok()) << opened.status();
    open.push_back(std::move(std::get<Store::Reservation>(*opened)));
  }
  EXPECT_EQ(store_->Stats(kNow).reserved_bytes, RoomFor(12));
  EXPECT_EQ(store_->Open(MakeObject(12, kRoot, 256, 1).head, kNow).status().code(), absl::StatusCode::kUnavailable);
  open.pop_back();
  EXPECT_EQ(store_->Stats(kNow).n_reservations, 11u);
  EXPECT_TRUE(*Put(MakeObject(12, kRoot, 256, kPayload)));
}

TEST_F(StoreTest, AnObjectLargerThanTheStoreIsRefusedForGood) {
  Make(2 << 20);
  EXPECT_EQ(Put(MakeObject(1, kRoot, 256, 3 << 20)).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(StoreTest, EvictsTheLeastRecentlyUsed) {
  Make(RoomFor(12), 0, EvictionPolicy::kLru);
  for (uint64_t id = 0; id < 12; ++id) ASSERT_TRUE(*Put(MakeObject(id, kRoot + id, 256, kPayload)));
  ASSERT_TRUE(Get(BlockKeyOf(0)).ok());
  const ObjectKey touched[] = {BlockKeyOf(1)};
  EXPECT_EQ(store_->Touch(touched, absl::UnixEpoch(), kNow).n_present, 1u);
  ASSERT_TRUE(*Put(MakeObject(100, kRoot, 256, kPayload)));
  ASSERT_TRUE(*Put(MakeObject(101, kRoot, 256, kPayload)));
  EXPECT_TRUE(Has(0));
  EXPECT_TRUE(Has(1));
  EXPECT_FALSE(Has(2));
  EXPECT_FALSE(Has(3));
  EXPECT_EQ(store_->Stats(kNow).n_evicted, 2u);
}

TEST_F(StoreTest, ChildrenGoBeforeTheirParentsWhateverTheOrderOfArrival) {
  for (const bool parents_first : {true, false}) {
    Make(RoomFor(12), 0, EvictionPolicy::kLru);
    for (uint64_t i = 0; i < 12; ++i) {
      const uint64_t id = parents_first ? i : 11 - i;
      ASSERT_TRUE(*Put(MakeObject(id, id == 0 ? kRoot : id - 1, static_cast<uint32_t>(256 * (id + 1)), kPayload)));
    }
    for (uint64_t n_evicted = 1; n_evicted <= 11; ++n_evicted) {
      ASSERT_TRUE(*Put(MakeObject(100 + n_evicted, kRoot, 256, kPayload)));
      LookupQuery query{.fingerprint = FingerprintOf(1), .root = Hash(kRoot), .chain = {}, .probes = {}};
      for (uint64_t id = 0; id < 12; ++id) query.chain.push_back(Hash(id));
      EXPECT_EQ(store_->Lookup(query)->n_present, 12 - n_evicted);
      for (uint64_t other = 1; other <= n_evicted; ++other) ASSERT_TRUE(Has(100 + other)) << other;
    }
  }
}

TEST_F(StoreTest, AnObjectNeverPushesOutItsOwnParent) {
  Make(RoomFor(12), 0);
  for (uint64_t id = 0; id < 12; ++id) ASSERT_TRUE(*Put(MakeObject(id, kRoot + id, 256, kPayload)));
  ASSERT_TRUE(*Put(MakeObject(100, /*parent=*/0, 512, kPayload)));
  EXPECT_TRUE(Has(0)) << "the least recently used, but the parent";
  EXPECT_FALSE(Has(1));
}

TEST_F(StoreTest, ParkedObjectsStayUntilTheirTimeAndOnlyThenBecomeEvictable) {
  Make(RoomFor(12), 0.5, EvictionPolicy::kLru);
  const absl::Time until = kNow + absl::Seconds(10);
  for (uint64_t id = 0; id < 6; ++id) ASSERT_TRUE(*Put(Parked(MakeObject(id, kRoot, 256, kPayload), until)));
  EXPECT_EQ(store_->Stats(kNow).parked_bytes, RoomFor(6));
  EXPECT_EQ(Put(Parked(MakeObject(6, kRoot, 256, kPayload), until)).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(Has(6)) << "a refused parked object must not be kept as cache";
  for (uint64_t id = 100; id < 200; ++id) ASSERT_TRUE(*Put(MakeObject(id, kRoot, 256, kPayload)));
  for (uint64_t id = 0; id < 6; ++id) EXPECT_TRUE(Has(id)) << id;
  EXPECT_TRUE(Has(199));

  EXPECT_EQ(store_->Stats(until - absl::Nanoseconds(1)).parked_bytes, RoomFor(6));
  EXPECT_EQ(store_->Stats(until).parked_bytes, 0u);
  for (uint64_t id = 0; id < 6; ++id) EXPECT_TRUE(Has(id)) << "expiry alone removes nothing";
  for (uint64_t id = 200; id < 212; ++id) ASSERT_TRUE(*Put(MakeObject(id, kRoot, 256, kPayload), until));
  for (uint64_t id = 0; id < 6; ++id) EXPECT_FALSE(Has(id)) << id;
}

TEST_F(StoreTest, AParkedReservationAlreadyCountsAgainstTheShare) {
  Make(RoomFor(12), 0.5);
  std::vector<Store::Reservation> open;
  for (uint64_t id = 0; id < 6; ++id) {
    auto opened = store_->Open(Parked(MakeObject(id, kRoot, 256, kPayload), kNow + absl::Hours(1)).head, kNow);
    open.push_back(std::move(std::get<Store::Reservation>(*opened)));
  }
  const Object seventh = Parked(MakeObject(7, kRoot, 256, kPayload), kNow + absl::Hours(1));
  EXPECT_EQ(store_->Open(seventh.head, kNow).status().code(), absl::StatusCode::kResourceExhausted);
  open.clear();
  EXPECT_TRUE(*Put(seventh));
}

TEST_F(StoreTest, CacheThatIsUnderWayLeavesTheParkedShareFree) {
  Make(RoomFor(16), 0.5);
  std::vector<Store::Reservation> open;
  const auto is_opened = [&](const Object& object) {
    auto opened = store_->Open(object.head, kNow);
    if (opened.ok()) return open.push_back(std::move(std::get<Store::Reservation>(*opened))), true;
    EXPECT_EQ(opened.status().code(), absl::StatusCode::kUnavailable);
    return false;
  };
  for (uint64_t id = 0; id < 8; ++id) ASSERT_TRUE(is_opened(MakeObject(id, kRoot, 256, kPayload))) << id;
  EXPECT_FALSE(is_opened(MakeObject(8, kRoot, 256, kPayload)));
  for (uint64_t id = 20; id < 28; ++id) {
    EXPECT_TRUE(*Put(Parked(MakeObject(id, kRoot, 256, kPayload), kNow + absl::Hours(1)))) << id;
  }
  // Where all may be parked an eighth is left for cache, and one object whatever its size.
  open.clear();
  Make(RoomFor(16), 1.0);
  EXPECT_TRUE(is_opened(MakeObject(1, kRoot, 256, kPayload)));
  EXPECT_TRUE(is_opened(MakeObject(2, kRoot, 256, kPayload)));
  EXPECT_FALSE(is_opened(MakeObject(3, kRoot, 256, kPayload)));
  open.clear();
  EXPECT_TRUE(is_opened(MakeObject(4, kRoot, 256, 10 * kPayload)));
}

TEST_F(StoreTest, ParkingAPresentObjectRetainsItOrSaysNo) {
  Make(RoomFor(12), 1.0 / 12, EvictionPolicy::kLru);
  const absl::Time until = kNow + absl::Hours(1);
  ASSERT_TRUE(*Put(MakeObject(1, kRoot, 256, kPayload)));
  ASSERT_TRUE(*Put(MakeObject(2, kRoot, 256, kPayload)));
  EXPECT_FALSE(*Put(Parked(MakeObject(1, kRoot, 256, kPayload), until)));
  EXPECT_EQ(Put(Parked(MakeObject(2, kRoot, 256, kPayload), until)).status().code(),
            absl::StatusCode::kResourceExhausted);
  const ObjectKey both[] = {BlockKeyOf(1), BlockKeyOf(2), BlockKeyOf(3)};
  const TouchResult touched = store_->Touch(both, until + absl::Hours(1), kNow);
  EXPECT_EQ(touched.n_present, 2u);
  EXPECT_EQ(touched.n_refused, 1u);
  for (uint64_t id = 100; id < 120; ++id) ASSERT_TRUE(*Put(MakeObject(id, kRoot, 256, kPayload)));
  EXPECT_TRUE(Has(1));
  EXPECT_FALSE(Has(2));
  EXPECT_GT(store_->Stats(until).parked_bytes, 0u) << "Touch extended the retention";
  // A shorter retention never shortens a promise.
  const ObjectKey first[] = {BlockKeyOf(1)};
  EXPECT_EQ(store_->Touch(first, kNow + absl::Seconds(1), kNow).n_refused, 0u);
  EXPECT_GT(store_->Stats(until).parked_bytes, 0u);
}

TEST_F(StoreTest, ARetentionInThePastParksNothing) {
  Make(RoomFor(12), 0);
  ASSERT_TRUE(*Put(Parked(MakeObject(1, kRoot, 256, kPayload), kNow)));
  EXPECT_EQ(store_->Stats(kNow).parked_bytes, 0u);
}

TEST_F(StoreTest, AncestorsOfParkedObjectsCannotFillTheStoreForEver) {
  Make(RoomFor(12), 1.0 / 12, EvictionPolicy::kLru);
  for (uint64_t id = 0; id < 11; ++id) {
    ASSERT_TRUE(*Put(MakeObject(id, id == 0 ? kRoot : id - 1, static_cast<uint32_t>(256 * (id + 1)), kPayload)));
  }
  ASSERT_TRUE(*Put(Parked(MakeObject(11, 10, 256 * 12, kPayload), kNow + absl::Hours(1))));
  for (uint64_t id = 100; id < 111; ++id) ASSERT_TRUE(*Put(MakeObject(id, kRoot, 256, kPayload))) << id;
  EXPECT_TRUE(Has(11));
  EXPECT_FALSE(Has(0));
}

TEST_F(StoreTest, AncestorsOfParkedObjectsOutliveEveryLeaf) {
  Make(RoomFor(12), 0.5);
  ASSERT_TRUE(*Put(MakeObject(1, kRoot, 256, kPayload)));
  ASSERT_TRUE(*Put(Parked(MakeObject(2, 1, 512, kPayload), kNow + absl::Hours(1))));
  // Each is more recent than the ancestor, and makes one of those before it go.
  for (uint64_t id = 100; id < 130; ++id) ASSERT_TRUE(*Put(MakeObject(id, kRoot, 256, kPayload))) << id;
  EXPECT_TRUE(Has(1)) << "without it what is parked cannot be used";
  EXPECT_TRUE(Has(2));
}

TEST_F(StoreTest, DroppingCacheLeavesWhatIsRetained) {
  Make(RoomFor(12), 0.5);
  ASSERT_TRUE(*Put(MakeObject(1, kRoot, 256, kPayload)));
  ASSERT_TRUE(*Put(Parked(MakeObject(2, 1, 512, kPayload), kNow + absl::Hours(1))));
  const ObjectKey keys[] = {BlockKeyOf(1), BlockKeyOf(2), BlockKeyOf(3)};
  EXPECT_EQ(store_->DropCache(keys, kNow).n_dropped, 1u);
  EXPECT_FALSE(Has(1));
  EXPECT_TRUE(Has(2));
  EXPECT_EQ(store_->DropCache(keys, kNow + absl::Hours(1)).n_dropped, 1u) << "its time is over";
  EXPECT_FALSE(Has(2));
}

TEST_F(StoreTest, AReaderKeepsItsBytesThroughEvictionDropAndReuse) {
  Make(RoomFor(12), 0);
  const Object object = MakeObject(1, kRoot, 256, kPayload);
  ASSERT_TRUE(*Put(object));
  auto reader = store_->Get(object.head.key, FingerprintOf(1));
  std::vector<std::byte> bytes(kPayload);
  ASSERT_TRUE(reader->Read(std::span(bytes).first(10)).ok());
  for (uint64_t id = 100; id < 130; ++id) ASSERT_TRUE(*Put(MakeObject(id, kRoot, 256, kPayload)));
  EXPECT_TRUE(Has(1)) << "pinned";
  const ObjectKey keys[] = {object.head.key};
  EXPECT_EQ(store_->Drop(keys).n_dropped, 1u);
  EXPECT_FALSE(Has(1));
  EXPECT_EQ(store_->Stats(kNow).used_bytes, RoomFor(12)) << "dropped bytes count until the reader is done";
  for (uint64_t id = 200; id < 230; ++id) ASSERT_TRUE(*Put(MakeObject(id, kRoot, 256, kPayload)));
  ASSERT_TRUE(reader->Read(std::span(bytes).subspan(10)).ok());
  EXPECT_EQ(bytes, object.payload);
  reader = absl::UnknownError("done");
  EXPECT_EQ(store_->Stats(kNow).used_bytes, RoomFor(11));
}

TEST_F(StoreTest, LookupListsCheckpointsOfThePresentPrefixDeepestFirst) {
  Make(64 << 20);
  for (uint64_t id = 0; id < 4; ++id) {
    ASSERT_TRUE(*Put(MakeObject(id, id == 0 ? kRoot : id - 1, static_cast<uint32_t>(256 * (id + 1)), 1000)));
  }
  const auto put_checkpoint = [this](uint64_t id, uint64_t parent, uint32_t depth) {
    ASSERT_TRUE(*Put(MakeObject(id, parent, depth, 2000 + depth, ObjectKind::kCheckpoint)));
  };
  put_checkpoint(50, kRoot, 7);  // shorter than a block
  put_checkpoint(1, 1, 512);     // on a block boundary: its own hash is its parent
  put_checkpoint(51, 1, 600);
  put_checkpoint(52, 1, 700);
  put_checkpoint(3, 3, 1024);
  put_checkpoint(53, 77, 9000);  // hangs off something else
  ASSERT_TRUE(*Put(MakeObject(52, 1, 700, 321, ObjectKind::kTail)));

  LookupQuery query{.fingerprint = FingerprintOf(1), .root = Hash(kRoot), .chain = {}, .probes = {}};
  query.chain = {Hash(0), Hash(1), Hash(999), Hash(3)};
  query.probes = {Hash(53), Hash(54)};
  const LookupResult found = *store_->Lookup(query);
  EXPECT_EQ(found.n_present, 2u);
  std::vector<uint32_t> depths;
  for (const CheckpointInfo& info : found.checkpoints) depths.push_back(info.depth_tokens);
  EXPECT_THAT(depths, ::testing::ElementsAre(700, 600, 512, 7, 9000));
  EXPECT_TRUE(found.checkpoints[0].has_tail);
  EXPECT_EQ(found.checkpoints[0].tail_bytes, 321u);
  EXPECT_EQ(found.checkpoints[0].payload_bytes, 2700u);
  EXPECT_EQ(found.checkpoints[0].parent, Hash(1));
  EXPECT_FALSE(found.checkpoints[1].has_tail);
  query.want_checkpoints = false;
  EXPECT_TRUE(store_->Lookup(query)->checkpoints.empty());
}

TEST_F(StoreTest, LookupListsABoundedNumberOfCheckpointsAndFindsProbesBeyondIt) {
  Make(64 << 20);
  for (uint64_t id = 0; id < 500; ++id) {
    ASSERT_TRUE(*Put(MakeObject(id, kRoot, static_cast<uint32_t>(id % 255 + 1), 10, ObjectKind::kCheckpoint)));
  }
  const LookupResult found = *store_->Lookup(
      {.fingerprint = FingerprintOf(1), .root = Hash(kRoot), .chain = {}, .probes = {Hash(0), Hash(5000)}});
  ASSERT_EQ(found.checkpoints.size(), kMaxListedTails + 1);
  EXPECT_EQ(found.checkpoints.back().hash, Hash(0));
}

TEST_F(StoreTest, ContinuationsOfAPopularPrefixDoNotHideItsOwnEnd) {
  Make(64 << 20);
  for (uint64_t id = 0; id < 3; ++id) {
    const auto depth = static_cast<uint32_t>(256 * (id + 1));
    ASSERT_TRUE(*Put(MakeObject(id, id == 0 ? kRoot : id - 1, depth, 1000)));
    ASSERT_TRUE(*Put(MakeObject(id, id, depth, 10, ObjectKind::kCheckpoint)));
  }
  for (uint64_t id = 100; id < 300; ++id) {
    ASSERT_TRUE(*Put(MakeObject(id, 2, static_cast<uint32_t>(769 + id % 200), 10, ObjectKind::kCheckpoint)));
  }
  const LookupResult found = *store_->Lookup(
      {.fingerprint = FingerprintOf(1), .root = Hash(kRoot), .chain = {Hash(0), Hash(1), Hash(2)}, .probes = {}});
  ASSERT_EQ(found.checkpoints.size(), kMaxListedTails + 3);
  for (uint64_t id = 0; id < 3; ++id) EXPECT_EQ(found.checkpoints[kMaxListedTails + 2 - id].hash, Hash(id));
}

TEST_F(StoreTest, LookupRefusesQueriesBeyondTheLimits) {
  Make(8 << 20);
  LookupQuery query;
  query.chain.resize(kMaxChainKeys + 1);
  EXPECT_EQ(store_->Lookup(query).status().code(), absl::StatusCode::kInvalidArgument);
  query.chain.clear();
  query.probes.resize(kMaxProbes + 1);
  EXPECT_EQ(store_->Lookup(query).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(StoreTest, DropsANamespaceAndNothingElse) {
  Make(64 << 20);
  for (uint64_t id = 0; id < 20; ++id) {
    Object object = MakeObject(id, kRoot, 256, 5000);
    object.head.namespace_id = id % 2 == 0 ? "even" : "odd";
    if (id % 4 == 0) object = Parked(object, kNow + absl::Hours(1));
    ASSERT_TRUE(*Put(object));
  }
  EXPECT_EQ(store_->StatsOf("even", kNow).n_objects, 10u);
  const DropResult dropped = store_->DropNamespace("even");
  EXPECT_EQ(dropped.n_dropped, 10u);
  EXPECT_EQ(dropped.bytes_dropped, 10 * Store::ChargeOf(5000));
  for (uint64_t id = 0; id < 20; ++id) EXPECT_EQ(Has(id), id % 2 == 1) << id;
  EXPECT_EQ(store_->DropNamespace("even").n_dropped, 0u);
  EXPECT_EQ(store_->StatsOf("even", kNow).used_bytes, 0u);
  EXPECT_EQ(store_->Stats(kNow).parked_bytes, 0u);
}

TEST_F(StoreTest, ABitFlippedInMemoryIsNeverServed) {
  Make(64 << 20);
  std::mt19937_64 random(7);
  for (uint64_t id = 0; id < 1000; ++id) {
    const size_t n = 1 + random() % 20000;
    const Object object = MakeObject(id, kRoot, 256, n);
    ASSERT_TRUE(*Put(object));
    ASSERT_TRUE(store_->FlipBitForTest(object.head.key, random() % (n * 8)));
  }
  for (uint64_t id = 0; id < 1000; ++id) {
    EXPECT_EQ(Get(BlockKeyOf(id)).status().code(), absl::StatusCode::kDataLoss) << id;
    EXPECT_EQ(Get(BlockKeyOf(id)).status().code(), absl::StatusCode::kNotFound) << "quarantined";
  }
  const StoreStats stats = store_->Stats(kNow);
  EXPECT_EQ(stats.n_quarantined, 1000u);
  EXPECT_EQ(stats.used_bytes, 0u);
}

TEST_F(StoreTest, AnObjectQuarantinedByTwoReadersCountsOnce) {
  Make(8 << 20);
  const Object object = MakeObject(1, kRoot, 256, 5000);
  ASSERT_TRUE(*Put(object));
  ASSERT_TRUE(store_->FlipBitForTest(object.head.key, 12345));
  auto a = store_->Get(object.head.key, FingerprintOf(1));
  auto b = store_->Get(object.head.key, FingerprintOf(1));
  std::vector<std::byte> bytes(5000);
  EXPECT_EQ(a->Read(bytes).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(b->Read(bytes).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(store_->Stats(kNow).n_quarantined, 1u);
  EXPECT_TRUE(*Put(object)) << "a quarantined object may be put again";
}

TEST(StoreOptionsCheck, RefusesTinyCapacitiesAndImpossibleShares) {
  EXPECT_FALSE(Store::Create({.capacity_bytes = 0}).ok());
  EXPECT_FALSE(Store::Create({.capacity_bytes = 1000}).ok());
  EXPECT_FALSE(Store::Create({.capacity_bytes = 8 << 20, .parked_share = -0.1}).ok());
  EXPECT_FALSE(Store::Create({.capacity_bytes = 8 << 20, .parked_share = 1.1}).ok());
  EXPECT_FALSE(Store::Create({.capacity_bytes = std::numeric_limits<uint64_t>::max()}).ok());
}

}  // namespace
}  // namespace longshelf::kvstore
