#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace longshelf::router::internal {

// Keeps streams from a worker that fails them although it is up. Some failures in a row open it; after a pause one
// stream at a time is let through, and one that begins there closes it. Owner: the router loop.
class Breaker {
 public:
  // `is_last`: there is no other worker. Then a short pause must do.
  bool Allows(absl::Time now, bool is_last) const;
  bool is_open() const { return n_failures_ >= kFailures; }

  // A stream was given to it.
  void OnPlaced() { n_probes_ += is_open() ? 1 : 0; }
  // It has begun a stream.
  void OnSuccess();
  // True: this failure has opened it.
  bool OnFailure(absl::Time now);
  // A stream there ended for reasons of its own.
  void OnAbandoned() { n_probes_ = 0; }

 private:
  static constexpr uint32_t kFailures = 5;
  static constexpr absl::Duration kPause = absl::Seconds(1);
  static constexpr absl::Duration kPauseMax = absl::Seconds(16);
  static constexpr absl::Duration kPauseOfLast = absl::Milliseconds(250);

  uint32_t n_failures_ = 0;  // in a row
  uint32_t n_probes_ = 0;    // streams let through while it is open
  absl::Duration pause_ = kPause;
  absl::Time failed_at_;
};

}  // namespace longshelf::router::internal
