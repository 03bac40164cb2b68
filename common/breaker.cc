#include "common/breaker.h"

#include <algorithm>
#include <utility>

namespace longshelf {

bool Breaker::MayCall(absl::Time now, absl::Duration worth) {
  std::lock_guard lock(mutex_);
  if (pause_ != absl::ZeroDuration()) {
    if (now < open_until_) return false;
    // Half open: this caller tries; the others wait one more pause for its report.
    open_until_ = now + pause_;
    is_tried_ = true;
    return true;
  }
  if (latency_ <= worth) return true;
  if (now < try_again_) return false;
  try_again_ = now + options_.first_pause;
  return true;
}

void Breaker::Answered(absl::Duration took) {
  std::lock_guard lock(mutex_);
  n_failed_ = 0;
  pause_ = absl::ZeroDuration();
  is_tried_ = false;
  open_until_ = absl::InfinitePast();
  latency_ = took >= latency_ ? took : (latency_ + took) / 2;
}

void Breaker::TooSlow(absl::Duration waited) {
  std::lock_guard lock(mutex_);
  latency_ = std::max(latency_, 2 * waited);
}

void Breaker::Failed(absl::Time now) {
  std::lock_guard lock(mutex_);
  if (++n_failed_ < options_.n_failures) return;
  const bool is_open = pause_ != absl::ZeroDuration();
  if (is_open && !std::exchange(is_tried_, false)) return;
  pause_ = is_open ? std::min(2 * pause_, options_.longest_pause) : options_.first_pause;
  open_until_ = now + pause_;
}

bool Breaker::is_open(absl::Time now) const {
  std::lock_guard lock(mutex_);
  return pause_ != absl::ZeroDuration() && now < open_until_;
}

}  // namespace longshelf
