#pragma once

#include <mutex>

#include "absl/time/time.h"

namespace longshelf::worker {

// Keeps callers away from a KV store that does not answer. Closed: everybody may call. After `n_failures` failures in a
// row it opens for a pause that doubles up to a bound; then one caller at a time may try, and a success closes it.
// Any thread; the mutex guards three numbers that several bridge threads change.
class Breaker {
 public:
  struct Options {
    int n_failures = 2;
    absl::Duration first_pause = absl::Milliseconds(500);
    absl::Duration longest_pause = absl::Seconds(10);
  };
  Breaker() : Breaker(Options()) {}
  explicit Breaker(const Options& options) : options_(options) {}

  // False: do not call now. True obliges the caller to report how the call went.
  bool MayCall(absl::Time now);
  void Succeeded();
  void Failed(absl::Time now);
  bool is_open(absl::Time now) const;

 private:
  const Options options_;
  mutable std::mutex mutex_;
  int n_failed_ = 0;
  absl::Duration pause_ = absl::ZeroDuration();  // zero = closed
  absl::Time open_until_ = absl::InfinitePast();
};

}  // namespace longshelf::worker
