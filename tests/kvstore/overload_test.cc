// More than a store can do is asked of it, by clients that do not let go of what they have, and are killed at last.
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "connection.h"
#include "node_process.h"
#include "objects.h"
#include "resident_bytes.h"

namespace longshelf::kvstore {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kRoot = uint64_t{1} << 40;
constexpr absl::Duration kTimeout = absl::Seconds(30);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // memory and time are the sanitizer's
#else
constexpr bool kSanitized = false;
#endif

class OverloadTest : public ::testing::Test {
 protected:
  void Start(uint64_t memory_bytes, std::vector<std::string> more = {}) {
    std::vector<std::string> args = {"--listen",    "127.0.0.1:0", "--admin-listen",
                                     "127.0.0.1:0", "--memory",    absl::StrCat(memory_bytes / kMiB, "MiB")};
    args.insert(args.end(), more.begin(), more.end());
    store_ = std::make_unique<NodeProcess>(args);
    ASSERT_TRUE(store_->WaitFor("admin http://127.0.0.1:"));
    ASSERT_TRUE(store_->WaitFor("\n"));
    port_ = store_->NumberAfter("serving on port ");
    client_ = Connect();
    resident_at_start_ = PeakResidentBytes(store_->pid());
  }

  Connection Connect() const { return Connection({.address = absl::StrCat("127.0.0.1:", port_)}); }

  // A client that holds streams until it is killed.
  std::unique_ptr<NodeProcess> HalfOpen(std::vector<std::string> args, const std::string& says) {
    args.insert(args.begin(), port_);
    auto process = std::make_unique<NodeProcess>(args, HALF_OPEN_CLIENT_BINARY);
    EXPECT_TRUE(process->WaitFor(says)) << process->log();
    EXPECT_TRUE(process->WaitFor("\n"));
    return process;
  }

  absl::Status Put(const Object& object) {
    const PutItem items[] = {ItemOf(object)};
    return client_->PutMany(items, kTimeout)[0].status();
  }
  void Fill(uint64_t n_bytes) {
    constexpr size_t kBatch = 64;
    const Object object = MakeObject(0, kRoot, 256, kMiB);
    for (uint64_t id = 100; id < 100 + n_bytes / kMiB;) {
      std::vector<PutItem> items(kBatch, ItemOf(object));
      for (PutItem& item : items) item.head.key.hash = Hash(id++);
      for (const auto& outcome : client_->PutMany(items, kTimeout)) EXPECT_TRUE(outcome.ok()) << outcome.status();
    }
  }
  // As a worker does that was told to try later.
  absl::Status PutPatiently(const Object& object, int* n_busy) {
    const absl::Time deadline = absl::Now() + kTimeout;
    while (true) {
      const absl::Status status = Put(object);
      if (!absl::IsUnavailable(status) || absl::Now() > deadline) return status;
      ++*n_busy;
    }
  }
  bool IsServed(const Object& object) {
    const GetItem items[] = {WantOf(object)};
    const auto got = client_->GetMany(FingerprintOf(1), items, kTimeout);
    EXPECT_TRUE(got[0].ok()) << got[0].status();
    return got[0].ok() && got[0]->size() == object.payload.size() &&
           std::memcmp(got[0]->data(), object.payload.data(), object.payload.size()) == 0;
  }
  StoreStats Stats() { return *client_->Stats(kTimeout); }

  // How long it takes until the store says so, at most ten seconds.
  absl::Duration TimeUntil(const std::function<bool(const StoreStats&)>& holds) {
    const absl::Time begun = absl::Now();
    while (!holds(Stats()) && absl::Now() - begun < absl::Seconds(10)) {
    }
    return absl::Now() - begun;
  }
  uint64_t Growth() const { return PeakResidentBytes(store_->pid()) - resident_at_start_; }

  std::unique_ptr<NodeProcess> store_;
  std::string port_;
  Connection client_;
  uint64_t resident_at_start_ = 0;
};

// A second on a machine that does nothing else.
constexpr absl::Duration kSoon = absl::Seconds(5);

TEST_F(OverloadTest, AThousandHalfOpenStreamsStayWithinTheMemoryAndGiveItBackWhenTheirClientIsKilled) {
  constexpr uint64_t kMemory = (kSanitized ? 256 : 1024) * kMiB;
  constexpr uint64_t kReservedEach = 128 << 10;
  Start(kMemory, {"--streams-max", "1050"});
  // All of the memory is in use first, so that what the streams take comes on top.
  Fill(kMemory);
  const Object read[] = {MakeObject(1, kRoot, 256, 2 * kMiB), MakeObject(2, kRoot, 256, 2 * kMiB)};
  for (const Object& object : read) ASSERT_TRUE(Put(object).ok());
  const StoreStats baseline = Stats();
  EXPECT_EQ(baseline.reserved_bytes, 0u);
  EXPECT_GT(baseline.n_evicted, 0u);

  const auto readers = HalfOpen({"gets", "500", "1", "2"}, "held 500 refused 0");
  const auto writers = HalfOpen({"puts", "10000", "500", absl::StrCat(kReservedEach)}, "held 500 refused 0");
  EXPECT_EQ(Stats().n_reservations, 500u);
  const Object other = MakeObject(3, kRoot, 256, kMiB);
  EXPECT_TRUE(Put(other).ok());
  EXPECT_TRUE(IsServed(other)) << "others are served meanwhile";

  const auto more = HalfOpen({"puts", "20000", "60", absl::StrCat(kReservedEach)}, "held 50 refused 10");
  EXPECT_NE(more->log().find("code 8 message more than 1050 streams at once"), std::string::npos) << more->log();
  const absl::Status refused = Put(MakeObject(4, kRoot, 256, 1));
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_GE(Stats().reserved_bytes, 550 * kReservedEach) << "and what is no stream is still answered";
  if (!kSanitized) {
    EXPECT_LE(Growth(), kMemory + kMemory / 20);
    RecordProperty("growth_mib", static_cast<int>(Growth() / kMiB));
  }

  const PlacedKey read_keys[] = {{read[0].head.key}, {read[1].head.key}};
  ASSERT_TRUE(client_->Drop(read_keys, kTimeout).ok());
  const uint64_t used = Stats().used_bytes;
  for (const NodeProcess* client : {readers.get(), writers.get(), more.get()}) client->Signal(SIGKILL);
  EXPECT_LT(TimeUntil([&](const StoreStats& stats) { return stats.reserved_bytes == 0 && stats.n_reservations == 0; }),
            kSoon);
  EXPECT_LT(TimeUntil([&](const StoreStats& stats) { return stats.used_bytes < used; }), kSoon)
      << "what was dropped goes with its last reader";
  EXPECT_TRUE(Put(MakeObject(5, kRoot, 256, kMiB)).ok());
}

// Nobody has seen a token or a deadline yet when a request is not complete, and it counts as no stream.
TEST_F(OverloadTest, RequestsThatDoNotEndTakeABoundedPartOfTheMemoryAndDoNotStopOthers) {
  Start(64 * kMiB, {"--streams-max", "16"});
  const Object before = MakeObject(1, kRoot, 256, kMiB);
  ASSERT_TRUE(Put(before).ok());
  const auto hostile = HalfOpen({"requests", "300", "2000000"}, "begun 300");
  for (uint64_t id = 10; id < 30; ++id) {
    const Object object = MakeObject(id, kRoot, 256, kMiB);
    EXPECT_TRUE(Put(object).ok());
    EXPECT_TRUE(IsServed(object));
  }
  EXPECT_TRUE(IsServed(before));
  if (!kSanitized) {
    EXPECT_LE(Growth(), 240 * kMiB) << "600 MB were offered";
    RecordProperty("growth_mib", static_cast<int>(Growth() / kMiB));
  }
}

TEST_F(OverloadTest, CacheObjectsThatAreOpenedAndNeverSentDoNotStopParks) {
  Start(64 * kMiB, {"--parked-share", "0.5"});
  const auto writers = HalfOpen({"puts", "10000", "130", absl::StrCat(kMiB / 2)}, "held 63 refused 67");
  for (uint64_t id = 1; id <= 24; ++id) {
    const Object object = Parked(MakeObject(id, kRoot, 256, kMiB), absl::Now() + absl::Hours(1));
    const absl::Status status = Put(object);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(IsServed(object));
  }
}

TEST_F(OverloadTest, AFloodOfCacheObjectsLeavesEveryParkAsItIs) {
  constexpr uint64_t kMemory = 64 * kMiB;
  constexpr uint64_t kParked = 24;
  Start(kMemory, {"--parked-share", "0.5"});
  std::atomic<bool> is_over = false;
  std::atomic<uint64_t> n_flooded = 0;
  std::vector<std::thread> flood;
  for (uint64_t t = 0; t < 8; ++t) {
    flood.emplace_back([&, t] {
      const Connection client = Connect();
      const Object object = MakeObject(t, kRoot, 256, kMiB / 2);
      for (uint64_t id = (t + 1) << 20; !is_over || n_flooded < 8 * kMemory / (kMiB / 2);) {
        std::vector<PutItem> items(24, ItemOf(object));
        for (PutItem& item : items) item.head.key.hash = Hash(id++);
        for (const auto& outcome : client->PutMany(items, kTimeout)) {
          EXPECT_TRUE(outcome.ok() || absl::IsUnavailable(outcome.status())) << outcome.status();
          n_flooded += outcome.ok() ? 1 : 0;
        }
      }
    });
  }
  const absl::Time until = absl::Now() + absl::Hours(1);
  std::vector<Object> parked;
  int n_busy = 0;
  for (uint64_t id = 1; id <= kParked; ++id) {
    parked.push_back(Parked(MakeObject(id, kRoot, 256, kMiB), until));
    const absl::Status status = PutPatiently(parked.back(), &n_busy);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(IsServed(parked.back()));
  }
  is_over = true;
  for (std::thread& thread : flood) thread.join();
  RecordProperty("busy", n_busy);
  for (const Object& object : parked) EXPECT_TRUE(IsServed(object));
  const StoreStats stats = Stats();
  EXPECT_GE(stats.parked_bytes, kParked * kMiB);
  EXPECT_GT(stats.n_evicted, 0u);
  EXPECT_LE(stats.used_bytes + stats.reserved_bytes, stats.capacity_bytes);
}

}  // namespace
}  // namespace longshelf::kvstore
