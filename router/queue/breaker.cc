#include "breaker.h"

#include <algorithm>

namespace longshelf::router::internal {

bool Breaker::Allows(absl::Time now, bool is_last) const {
  if (!is_open()) return true;
  if (n_probes_ > 0) return false;
  return now - failed_at_ >= (is_last ? std::min(pause_, kPauseOfLast) : pause_);
}

void Breaker::OnSuccess() {
  n_failures_ = 0;
  n_probes_ = 0;
  pause_ = kPause;
}

bool Breaker::OnFailure(absl::Time now) {
  failed_at_ = now;
  if (is_open()) {
    pause_ = std::min(pause_ * 2, kPauseMax);
    n_probes_ = 0;
    return false;
  }
  return ++n_failures_ == kFailures;
}

}  // namespace longshelf::router::internal
