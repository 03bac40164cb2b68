// The byte limit is a limit of the process, not of a counter.
#include <gtest/gtest.h>

#include <functional>

#include "kvstore/store.h"
#include "objects.h"
#include "resident_bytes.h"

namespace longshelf::kvstore {
namespace {

// Floods a store with four times its capacity and returns how much the process grew at most.
uint64_t GrowthUnderFlood(uint64_t capacity, size_t payload_bytes) {
  auto store = std::move(*Store::Create({.capacity_bytes = capacity, .parked_share = 0.5}));
  const uint64_t before = ResidentBytes();
  uint64_t peak = 0;
  const uint64_t n_objects = 4 * capacity / Store::ChargeOf(payload_bytes);
  Object object = MakeObject(0, 1u << 30, 256, payload_bytes);
  for (uint64_t id = 0; id < n_objects; ++id) {
    object.head.key.hash = Hash(id);
    // Chains of ten, so that the index's trees are in use.
    object.head.parent = Hash(id % 10 == 0 ? (1u << 30) + id : id - 1);
    object.head.depth_tokens = static_cast<uint32_t>(256 * (id % 10 + 1));
    object.head.namespace_id = std::string(60, static_cast<char>('a' + id % 26)) + std::to_string(id % 1000);
    auto opened = store->Open(object.head, absl::FromUnixSeconds(1));
    EXPECT_TRUE(opened.ok()) << opened.status();
    auto& reservation = std::get<Store::Reservation>(*opened);
    EXPECT_TRUE(reservation.Append(0, object.payload).ok());
    EXPECT_TRUE(store->Commit(std::move(reservation), absl::FromUnixSeconds(1)).ok());
    const StoreStats stats = store->Stats(absl::FromUnixSeconds(1));
    EXPECT_LE(stats.used_bytes + stats.reserved_bytes, capacity);
    if (id % 256 == 0) peak = std::max(peak, ResidentBytes());
  }
  peak = std::max(peak, ResidentBytes());
  EXPECT_GT(store->Stats(absl::FromUnixSeconds(1)).n_evicted, n_objects / 2);
  return peak - std::min(before, peak);
}

TEST(StoreMemory, TheProcessStaysWithinTheLimitUnderAFloodOfLargeObjects) {
  constexpr uint64_t kCapacity = 96 << 20;
  const uint64_t growth = GrowthUnderFlood(kCapacity, 899648);
  EXPECT_LE(growth, kCapacity + kCapacity / 20);
  EXPECT_GE(growth, kCapacity / 2) << "the measurement must see the store at all";
}

TEST(StoreMemory, TheProcessStaysWithinTheLimitUnderAFloodOfTinyObjects) {
  constexpr uint64_t kCapacity = 96 << 20;
  const uint64_t growth = GrowthUnderFlood(kCapacity, 1);
  EXPECT_LE(growth, kCapacity + kCapacity / 20);
  EXPECT_GE(growth, kCapacity / 2);
}

}  // namespace
}  // namespace longshelf::kvstore
