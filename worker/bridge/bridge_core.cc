#include "bridge_core.h"

#include <algorithm>

namespace longshelf::worker {

bool FetchSpeed::IsWorth(uint64_t n_bytes, absl::Duration compute_time, absl::Time now) {
  if (absl::Seconds(seconds_per_byte_ * static_cast<double>(n_bytes)) <= compute_time) return true;
  if (now < try_again_) return false;
  try_again_ = now + kPause;
  return true;
}

void FetchSpeed::Observe(uint64_t n_bytes, absl::Duration took) {
  const double seconds = absl::ToDoubleSeconds(took) / static_cast<double>(std::max<uint64_t>(n_bytes, 1));
  seconds_per_byte_ = seconds_per_byte_ == 0.0 ? seconds : (seconds_per_byte_ + seconds) / 2;
}

void FetchSpeed::TooSlow(uint64_t n_bytes, absl::Duration took, absl::Time now) {
  Observe(n_bytes, took);
  try_again_ = now + kPause;
}

void DeletedNamespaces::Add(const std::string& id) {
  if (!ids_.insert(id).second) return;
  order_.push_back(id);
  if (order_.size() <= kMax) return;
  ids_.erase(order_.front());
  order_.pop_front();
}

absl::Duration BridgeCore::ComputeTime(int64_t n_past, int64_t n_tokens) const {
  const engine::PrefillSpeed speed{prefill_seconds_per_token.load(), prefill_per_position.load()};
  return speed.seconds_per_token > 0.0 ? speed.TimeOf(n_past, n_tokens) : absl::InfiniteDuration();
}

std::string ReasonOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return "missing";
    case absl::StatusCode::kDataLoss:
      return "digest_mismatch";
    case absl::StatusCode::kFailedPrecondition:
      return "bad_size";
    case absl::StatusCode::kDeadlineExceeded:
      return "store_timeout";
    case absl::StatusCode::kUnavailable:
      return "store_unreachable";
    default:
      return "other";
  }
}

bool IsStoreDown(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsUnauthenticated(status);
}

}  // namespace longshelf::worker
