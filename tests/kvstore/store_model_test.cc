// Random operations on the store, each checked against a model made of std::map, plus the two properties a model of
// contents cannot say: the memory limit and the order of eviction.
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <random>

#include "kvstore/store.h"
#include "objects.h"

namespace longshelf::kvstore {
namespace {

constexpr uint64_t kRoot = 1u << 30;
constexpr uint64_t kCapacity = 1 << 20;
constexpr int kChains = 12;
constexpr int kDepth = 12;

struct Known {
  Object object;
  bool held = false;
  absl::Time retain_until;
};

class StoreModel {
 public:
  StoreModel(uint64_t seed, EvictionPolicy eviction) : random_(seed) {
    store_ = std::move(*Store::Create({.capacity_bytes = kCapacity, .parked_share = 0.4, .eviction = eviction}));
  }

  // Reconciled before time moves on: what was held when it happened must not look expired.
  void Step() {
    now_ += absl::Milliseconds(random_() % 50);
    Act();
    Reconcile();
  }

  void Check() {
    const StoreStats stats = store_->Stats(now_);
    ASSERT_LE(stats.used_bytes + stats.reserved_bytes, kCapacity);
    ASSERT_LE(stats.parked_bytes, stats.parked_limit_bytes);
    ASSERT_EQ(stats.n_reservations, 0u);
    Reconcile();
    uint64_t charge = 0;
    uint64_t held = 0;
    for (const auto& [key, known] : known_) {
      charge += Store::ChargeOf(known.object.head.payload_bytes);
      if (known.held && known.retain_until > now_) held += Store::ChargeOf(known.object.head.payload_bytes);
    }
    ASSERT_EQ(stats.used_bytes, charge);
    ASSERT_EQ(stats.n_objects, known_.size());
    ASSERT_EQ(stats.parked_bytes, held);
  }

 private:
  void Act() {
    switch (random_() % 16) {
      case 0:
        return Drop();
      case 1:
        return DropNamespace();
      case 2:
      case 3:
        return TouchSome();
      case 4:
        return AbandonAPut();
      case 5:
      case 6:
        return LookupChain();
      case 7:
        return CorruptAndRead();
      case 8:
      case 9:
      case 10:
        return ReadSome();
      default:
        return PutSome();
    }
  }

  // Chain c, position d; kinds other than block hang off position d.
  Object ObjectAt(int chain, int depth, ObjectKind kind) {
    const uint64_t id = static_cast<uint64_t>(chain * 100 + depth) + 1;
    const uint64_t parent = depth == 0 ? kRoot + static_cast<uint64_t>(chain) : id - 1;
    const size_t n_bytes = 1 + (id * 7919 + static_cast<uint64_t>(kind) * 104729) % 30000;
    Object object = MakeObject(id, kind == ObjectKind::kBlock ? parent : id, static_cast<uint32_t>(256 * (depth + 1)),
                               n_bytes, kind);
    object.head.namespace_id = chain % 3 == 0 ? "a" : "b";
    return object;
  }

  Object RandomObject() {
    const auto kind = static_cast<ObjectKind>(random_() % 5 < 3 ? 1 : 2 + random_() % 2);
    return ObjectAt(static_cast<int>(random_() % kChains), static_cast<int>(random_() % kDepth), kind);
  }

  bool Present(const ObjectKey& key) { return store_->Get(key, FingerprintOf(1)).ok(); }

  // Forgets what the store evicted, and checks that it was allowed to.
  void Reconcile() {
    std::vector<ObjectKey> gone;
    for (const auto& [key, known] : known_) {
      const LookupQuery query{
          .fingerprint = FingerprintOf(1), .chain = {key.hash}, .want_checkpoints = false, .probes = {}};
      // Lookup only knows blocks; the rest is probed by Get.
      const bool present = key.kind == ObjectKind::kBlock ? store_->Lookup(query)->n_present == 1 : Present(key);
      if (present) continue;
      ASSERT_FALSE(known.held && known.retain_until > now_) << "a parked object was evicted";
      gone.push_back(key);
    }
    for (const ObjectKey& key : gone) known_.erase(key);
    for (const ObjectKey& key : gone) {
      if (key.kind != ObjectKind::kBlock) continue;
      for (const auto& [child, known] : known_) {
        const bool is_child = known.object.head.parent == key.hash;
        const bool held = known.held && known.retain_until > now_;
        ASSERT_FALSE(is_child && !held) << "a parent was evicted before its child";
      }
    }
  }

  void PutSome() {
    Object object = RandomObject();
    if (random_() % 4 == 0) object = Parked(object, now_ + absl::Milliseconds(random_() % 2000));
    auto opened = store_->Open(object.head, now_);
    const auto known = known_.find(object.head.key);
    if (!opened.ok()) {
      ASSERT_TRUE(opened.status().code() == absl::StatusCode::kResourceExhausted ||
                  opened.status().code() == absl::StatusCode::kUnavailable)
          << opened.status();
      if (opened.status().code() == absl::StatusCode::kResourceExhausted) {
        ASSERT_EQ(object.head.object_class, ObjectClass::kParked);
      }
      return;
    }
    if (std::holds_alternative<Store::Exists>(*opened)) {
      ASSERT_NE(known, known_.end());
      NoteHold(known->second, object.head);
      return;
    }
    ASSERT_EQ(known, known_.end());
    auto& reservation = std::get<Store::Reservation>(*opened);
    for (size_t at = 0; at < object.payload.size();) {
      const size_t n = std::min<size_t>(1 + random_() % 9000, object.payload.size() - at);
      ASSERT_TRUE(reservation.Append(at, std::span(object.payload).subspan(at, n)).ok());
      at += n;
    }
    ASSERT_TRUE(std::holds_alternative<Store::Committed>(*store_->Commit(std::move(reservation), now_)));
    Known fresh{object, false, {}};
    NoteHold(fresh, object.head);
    known_.emplace(object.head.key, std::move(fresh));
    Reconcile();
  }

  void NoteHold(Known& known, const ObjectHead& head) {
    if (head.object_class == ObjectClass::kParked) NoteHold(known, head.retain_until);
  }
  void NoteHold(Known& known, absl::Time until) {
    if (until <= now_) return;
    known.retain_until = known.held ? std::max(known.retain_until, until) : until;
    known.held = true;
  }

  void AbandonAPut() {
    const Object object = RandomObject();
    auto opened = store_->Open(object.head, now_);
    if (!opened.ok() || !std::holds_alternative<Store::Reservation>(*opened)) return;
    ASSERT_TRUE(std::get<Store::Reservation>(*opened).Append(0, std::span(object.payload).first(1)).ok());
    ASSERT_EQ(store_->Stats(now_).n_reservations, 1u);
  }

  void ReadSome() {
    const Object object = RandomObject();
    auto reader = store_->Get(object.head.key, FingerprintOf(1));
    if (!reader.ok()) return Reconcile();
    ASSERT_TRUE(known_.contains(object.head.key)) << "a dropped object came back";
    std::vector<std::byte> bytes(reader->head().payload_bytes);
    ASSERT_TRUE(reader->Read(bytes).ok());
    ASSERT_EQ(bytes, object.payload);
  }

  void CorruptAndRead() {
    if (known_.empty()) return;
    const auto it = std::next(known_.begin(), static_cast<int64_t>(random_() % known_.size()));
    if (!store_->FlipBitForTest(it->first, random_() % (it->second.object.payload.size() * 8))) return Reconcile();
    auto reader = store_->Get(it->first, FingerprintOf(1));
    std::vector<std::byte> bytes(reader->head().payload_bytes);
    ASSERT_EQ(reader->Read(bytes).code(), absl::StatusCode::kDataLoss);
    known_.erase(it);
  }

  void Drop() {
    const Object object = RandomObject();
    const ObjectKey keys[] = {object.head.key};
    const DropResult dropped = store_->Drop(keys);
    if (dropped.n_dropped == 1) {
      ASSERT_EQ(known_.erase(object.head.key), 1u);
    }
  }

  void DropNamespace() {
    if (random_() % 8 != 0) return;
    Reconcile();
    const std::string name = random_() % 2 == 0 ? "a" : "b";
    const uint64_t n_dropped = store_->DropNamespace(name).n_dropped;
    ASSERT_EQ(n_dropped,
              std::erase_if(known_, [&](const auto& entry) { return entry.second.object.head.namespace_id == name; }));
  }

  void TouchSome() {
    const Object object = RandomObject();
    const ObjectKey keys[] = {object.head.key};
    const absl::Time until = random_() % 2 == 0 ? absl::UnixEpoch() : now_ + absl::Milliseconds(random_() % 1000);
    const TouchResult touched = store_->Touch(keys, until, now_);
    if (touched.n_present == 1 && touched.n_refused == 0) NoteHold(known_.at(object.head.key), until);
  }

  void LookupChain() {
    Reconcile();
    const int chain = static_cast<int>(random_() % kChains);
    LookupQuery query{.fingerprint = FingerprintOf(1), .root = Hash(kRoot), .chain = {}, .probes = {}};
    uint32_t n_expected = 0;
    bool broken = false;
    std::multimap<uint32_t, BlockKey> checkpoints;
    for (int depth = 0; depth < kDepth; ++depth) {
      const ObjectKey key = ObjectAt(chain, depth, ObjectKind::kBlock).head.key;
      query.chain.push_back(key.hash);
      broken = broken || !known_.contains(key);
      if (broken) continue;
      ++n_expected;
      const auto checkpoint = known_.find({key.hash, ObjectKind::kCheckpoint});
      if (checkpoint != known_.end()) checkpoints.emplace(checkpoint->second.object.head.depth_tokens, key.hash);
    }
    const LookupResult found = *store_->Lookup(query);
    ASSERT_EQ(found.n_present, n_expected);
    ASSERT_EQ(found.checkpoints.size(), checkpoints.size());
    auto expected = checkpoints.rbegin();
    for (const CheckpointInfo& info : found.checkpoints) {
      ASSERT_EQ(info.hash, expected->second);
      ASSERT_EQ(info.has_tail, known_.contains({info.hash, ObjectKind::kTail}));
      ++expected;
    }
  }

  std::mt19937_64 random_;
  absl::Time now_ = absl::FromUnixSeconds(1700000000);
  std::unique_ptr<Store> store_;
  std::map<ObjectKey, Known> known_;
};

TEST(StoreAgainstAModel, AgreesOnEveryStepOfRandomHistories) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    StoreModel model(seed, seed % 2 == 0 ? EvictionPolicy::kLru : EvictionPolicy::kScanResistant);
    for (int step = 0; step < 1500; ++step) {
      model.Step();
      if (step % 10 == 0) model.Check();
      if (::testing::Test::HasFatalFailure()) FAIL() << "seed " << seed << " step " << step;
    }
  }
}

}  // namespace
}  // namespace longshelf::kvstore
