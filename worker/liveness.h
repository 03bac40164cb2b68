#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "absl/time/time.h"

namespace longshelf::worker {

// Whether a supervisor still does its work, for /livez: whoever asks restarts it, and the group with it, when not. A
// group that starts, fails, or is waited for is that work; these are not:
// - its loop has not turned for kLoopLimit;
// - the group serves, but its engine has not turned for kEngineLimit, and yet was not ended for that;
// - it has given up.
// Written by the supervisor's thread, read by any.
class Liveness {
 public:
  static constexpr absl::Duration kLoopLimit = absl::Minutes(1);
  static constexpr absl::Duration kEngineLimit = absl::Minutes(5);

  explicit Liveness(absl::Time now) : loop_at_(now), engine_at_(now) {}
  void LoopTurns(absl::Time now) { loop_at_.store(now); }
  // `n_turns` so far of the engine of a group that serves; nullopt: none serves, or it does not say.
  void EngineTurns(bool serves, std::optional<uint64_t> n_turns, absl::Time now) {
    if (!serves || n_turns != engine_turns_) engine_at_.store(now);
    engine_turns_ = serves ? n_turns : std::nullopt;
  }
  void GiveUp() { gave_up_.store(true); }

  bool live(absl::Time now) const {
    return !gave_up_.load() && now - loop_at_.load() <= kLoopLimit && now - engine_at_.load() <= kEngineLimit;
  }

 private:
  std::atomic<absl::Time> loop_at_;
  std::atomic<absl::Time> engine_at_;
  std::atomic<bool> gave_up_{false};
  std::optional<uint64_t> engine_turns_;  // supervisor's thread
};

}  // namespace longshelf::worker
