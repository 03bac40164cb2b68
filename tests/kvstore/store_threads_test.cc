// Many threads on one store; meant for the thread sanitizer.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "kvstore/store.h"
#include "objects.h"

namespace longshelf::kvstore {
namespace {

TEST(StoreThreads, ReadersSeeWholeObjectsWhileOthersPutDropAndEvict) {
  constexpr int kThreads = 6;
  constexpr int kSteps = 400;
  constexpr uint64_t kObjects = 40;
  auto store = std::move(*Store::Create({.capacity_bytes = 1 << 20, .parked_share = 0.3}));
  std::atomic<int> n_read = 0;
  std::atomic<int> n_wrong = 0;
  const auto run = [&](uint64_t seed) {
    std::mt19937_64 random(seed);
    for (int step = 0; step < kSteps; ++step) {
      const absl::Time now = absl::FromUnixSeconds(1000 + step / 50);
      const uint64_t id = random() % kObjects;
      Object object =
          MakeObject(id, id % 8 == 0 ? 1000 : id - 1, static_cast<uint32_t>(256 * (id % 8 + 1)), 20000 + id * 500);
      if (random() % 4 == 0) object = Parked(object, now + absl::Seconds(2));
      switch (random() % 4) {
        case 0: {
          auto opened = store->Open(object.head, now);
          if (!opened.ok() || !std::holds_alternative<Store::Reservation>(*opened)) break;
          auto& reservation = std::get<Store::Reservation>(*opened);
          if (!reservation.Append(0, object.payload).ok()) ++n_wrong;
          if (random() % 8 != 0 && !store->Commit(std::move(reservation), now).ok()) ++n_wrong;
          break;
        }
        case 1: {
          const ObjectKey keys[] = {object.head.key};
          if (random() % 8 == 0) store->Drop(keys);
          store->Touch(keys, now + absl::Seconds(1), now);
          break;
        }
        case 2: {
          LookupQuery query{.fingerprint = FingerprintOf(1), .root = Hash(1000), .chain = {}, .probes = {}};
          for (uint64_t i = id / 8 * 8; i < id / 8 * 8 + 8; ++i) query.chain.push_back(Hash(i));
          if (!store->Lookup(query).ok()) ++n_wrong;
          const StoreStats stats = store->Stats(now);
          if (stats.used_bytes + stats.reserved_bytes > stats.capacity_bytes) ++n_wrong;
          break;
        }
        default: {
          auto reader = store->Get(object.head.key, FingerprintOf(1));
          if (!reader.ok()) break;
          std::vector<std::byte> bytes(reader->head().payload_bytes);
          for (size_t at = 0; at < bytes.size();) {
            const size_t n = std::min<size_t>(7000, bytes.size() - at);
            if (!reader->Read(std::span(bytes).subspan(at, n)).ok()) ++n_wrong;
            at += n;
          }
          if (bytes != object.payload) ++n_wrong;
          ++n_read;
        }
      }
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(run, static_cast<uint64_t>(i) + 1);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(n_wrong, 0);
  EXPECT_GT(n_read, 50);
  const StoreStats stats = store->Stats(absl::InfiniteFuture());
  EXPECT_EQ(stats.reserved_bytes, 0u);
  EXPECT_EQ(stats.n_reservations, 0u);
  EXPECT_EQ(stats.parked_bytes, 0u);
}

}  // namespace
}  // namespace longshelf::kvstore
