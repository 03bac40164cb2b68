#pragma once

#include <optional>

#include "absl/time/time.h"

namespace longshelf::worker {

struct RestartOptions {
  absl::Duration delay_min = absl::Milliseconds(200);
  absl::Duration delay_max = absl::Seconds(30);
  // A group that served this long was sound; the next failure starts from delay_min again.
  absl::Duration sound_after = absl::Seconds(10);
  // So many starts in a row that never served: nothing will change by itself.
  int failed_starts_max = 5;
};

// How long to wait before the next start. Pure.
class RestartPolicy {
 public:
  explicit RestartPolicy(const RestartOptions& options) : options_(options) {}
  // A group ended after having served for `served` (nullopt: it never became ready). nullopt: give up.
  std::optional<absl::Duration> AfterEnd(std::optional<absl::Duration> served);

 private:
  const RestartOptions options_;
  absl::Duration next_ = absl::ZeroDuration();
  int n_failed_starts_ = 0;
};

}  // namespace longshelf::worker
