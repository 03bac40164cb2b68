#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/check.h"
#include "disk/disk_tier.h"
#include "memory_file_system.h"
#include "objects.h"

namespace longshelf::kvstore::disk {

// Time passes; the date stands still until it is moved.
class DatedClock final : public Clock {
 public:
  absl::Time Now() const override { return steady_.Now(); }
  absl::Time WallNow() const override { return absl::FromUnixSeconds(seconds_); }
  void Advance(int64_t seconds) { seconds_ += seconds; }

 private:
  SystemClock steady_;
  std::atomic<int64_t> seconds_ = 1'700'000'000;
};

// The answer to one request. Copies share it, so it may come after the one who asked is gone.
class Answer {
 public:
  DiskTier::Done Done() {
    return [state = state_](const absl::Status& status) {
      std::lock_guard lock(state->mutex);
      LONGSHELF_CHECK(!state->status.has_value());
      state->status = status;
      state->arrived.notify_all();
    };
  }
  absl::Status Wait() {
    std::unique_lock lock(state_->mutex);
    state_->arrived.wait(lock, [this] { return state_->status.has_value(); });
    return *state_->status;
  }
  // Whether it came within that time.
  bool CameWithin(std::chrono::milliseconds time) const {
    std::unique_lock lock(state_->mutex);
    return state_->arrived.wait_for(lock, time, [this] { return state_->status.has_value(); });
  }
  bool IsThere() const {
    std::lock_guard lock(state_->mutex);
    return state_->status.has_value();
  }
  bool IsOk() const {
    std::lock_guard lock(state_->mutex);
    return state_->status.has_value() && state_->status->ok();
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable arrived;
    std::optional<absl::Status> status;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

// Operations of one kind stop here, as many as have not been let through. What they share outlives this.
class Gate {
 public:
  explicit Gate(MemoryFileSystem::Operation stopped) : stopped_(stopped) {}

  MemoryFileSystem::Fault Fault() {
    return [state = state_, stopped = stopped_](MemoryFileSystem::Operation operation) {
      if (operation != stopped) return absl::OkStatus();
      std::unique_lock lock(state->mutex);
      const uint64_t number = state->n_arrived++;
      state->changed.notify_all();
      state->changed.wait(lock, [&] { return number < state->n_let; });
      return state->status;
    };
  }
  // Until so many have come here.
  void Await(uint64_t n_arrived) {
    std::unique_lock lock(state_->mutex);
    state_->changed.wait(lock, [&] { return state_->n_arrived >= n_arrived; });
  }
  void LetOne() { Let(1, absl::OkStatus()); }
  // With what all of them return from now on.
  void LetAll(const absl::Status& status = absl::OkStatus()) { Let(1 << 30, status); }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    uint64_t n_arrived = 0;
    uint64_t n_let = 0;
    absl::Status status;
  };

  void Let(uint64_t n, const absl::Status& status) {
    std::lock_guard lock(state_->mutex);
    state_->n_let += n;
    state_->status = status;
    state_->changed.notify_all();
  }

  const MemoryFileSystem::Operation stopped_;
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

inline void Put(DiskTier& tier, const Object& object, DiskTier::Done done) {
  AlignedBuffer buffer = tier.BufferFor(object.payload.size());
  std::memcpy(DiskTier::PayloadOf(buffer, object.payload.size()).data(), object.payload.data(), object.payload.size());
  tier.Put(object.head, std::move(buffer), std::move(done));
}

inline absl::Status PutAndWait(DiskTier& tier, const Object& object) {
  Answer answer;
  Put(tier, object, answer.Done());
  return answer.Wait();
}

inline absl::StatusOr<std::vector<std::byte>> Get(DiskTier& tier, const ObjectKey& key) {
  auto stored = tier.Read(key, FingerprintOf(1));
  if (!stored.ok()) return stored.status();
  const auto payload = stored->payload();
  return std::vector<std::byte>(payload.begin(), payload.end());
}

inline absl::Status TouchAndWait(DiskTier& tier, const ObjectKey& key, absl::Time until) {
  Answer answer;
  const absl::Status status = tier.Touch(key, until, answer.Done());
  return status.ok() ? answer.Wait() : status;
}

inline DiskOptions SmallDisk(uint64_t n_segments = 6) {
  DiskOptions options;
  options.directory = "/disk";
  options.segment_bytes = 256 << 10;
  options.quota_bytes = n_segments * options.segment_bytes;
  options.sync_interval = absl::Milliseconds(1);
  options.scrub_bytes_per_s = 0;
  return options;
}

// A master key made of a number.
inline std::unique_ptr<const SecretKey> MasterKey(uint8_t id) {
  std::array<uint8_t, SecretKey::kBytes> bytes;
  bytes.fill(id);
  return std::make_unique<SecretKey>(bytes);
}

inline absl::StatusOr<std::unique_ptr<DiskTier>> OpenTier(const DiskOptions& options, FileSystem& files,
                                                          const Clock& clock,
                                                          std::unique_ptr<const SecretKey> master = nullptr) {
  return DiskTier::Open(options, files, clock, NodeId{1, 2, 3}, std::move(master));
}

}  // namespace longshelf::kvstore::disk
