#pragma once

#include <mutex>

#include "absl/time/time.h"

namespace longshelf {

// Keeps callers away from a service that does not answer, or answers too slowly for what it is asked.
//
// After `n_failures` failures in a row it opens for a pause; then one caller at a time may try, and an answer closes
// it. A failed try doubles the pause up to a bound; failures of calls that began before it opened do not. How long
// answers take is remembered: a caller to whom an answer is worth less than that is kept away too, but for one in every
// first pause, whose answer tells whether the store is faster again. Any thread; the mutex guards a few numbers.
class Breaker {
 public:
  struct Options {
    int n_failures = 2;
    absl::Duration first_pause = absl::Milliseconds(500);
    absl::Duration longest_pause = absl::Seconds(10);
  };
  Breaker() : Breaker(Options()) {}
  explicit Breaker(const Options& options) : options_(options) {}

  // False: do not call now. True obliges the caller to report how the call went. `worth`: how long an answer may take
  // and still be of use.
  bool MayCall(absl::Time now, absl::Duration worth = absl::InfiniteDuration());
  void Answered(absl::Duration took);
  // No answer in time for this caller, which says nothing of others who can wait longer.
  void TooSlow(absl::Duration waited);
  void Failed(absl::Time now);
  bool is_open(absl::Time now) const;

 private:
  const Options options_;
  mutable std::mutex mutex_;
  int n_failed_ = 0;
  absl::Duration pause_ = absl::ZeroDuration();  // zero = closed
  bool is_tried_ = false;                        // half open: somebody's report is awaited
  absl::Time open_until_ = absl::InfinitePast();
  absl::Duration latency_ = absl::ZeroDuration();  // rises at once, falls slowly
  absl::Time try_again_ = absl::InfinitePast();    // who is kept away for latency
};

}  // namespace longshelf
