#include "restart_policy.h"

#include <algorithm>

namespace longshelf::worker {

std::optional<absl::Duration> RestartPolicy::AfterEnd(std::optional<absl::Duration> served) {
  n_failed_starts_ = served.has_value() ? 0 : n_failed_starts_ + 1;
  if (n_failed_starts_ >= options_.failed_starts_max) return std::nullopt;
  if (served.has_value() && *served >= options_.sound_after) next_ = absl::ZeroDuration();
  const absl::Duration delay = std::max(next_, options_.delay_min);
  next_ = std::min(2 * delay, options_.delay_max);
  return delay;
}

}  // namespace longshelf::worker
