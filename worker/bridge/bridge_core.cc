#include "bridge_core.h"

#include <algorithm>
#include <utility>

namespace longshelf::worker {

bool FetchSpeed::IsWorth(uint64_t n_bytes, absl::Duration compute_time, absl::Time now) {
  const bool is_fast = n_bytes < n_bytes_telling_ || TimeOf(n_bytes) <= compute_time;
  if (is_fast && 2 * waited_in_vain_ <= compute_time) return true;
  if (now < try_again_) return false;
  try_again_ = now + kPause;
  is_in_doubt_ = true;
  return true;
}

void FetchSpeed::Observe(uint64_t n_bytes, absl::Duration took) {
  if (n_bytes == 0) return;
  waited_in_vain_ = absl::ZeroDuration();
  const double seconds = absl::ToDoubleSeconds(took) / static_cast<double>(n_bytes);
  // Of few bytes it is the least that is known.
  if (n_bytes < n_bytes_telling_ && seconds >= seconds_per_byte_) return;
  Learn(seconds, /*replaces=*/std::exchange(is_in_doubt_, false));
}

void FetchSpeed::TooSlow(uint64_t n_bytes, absl::Duration took, absl::Time now) {
  waited_in_vain_ = std::max(waited_in_vain_, took);
  try_again_ = now + kPause;
  if (n_bytes < n_bytes_telling_) return;
  Learn(absl::ToDoubleSeconds(took) / static_cast<double>(n_bytes), /*replaces=*/false);
}

void FetchSpeed::Learn(double seconds, bool replaces) {
  replaces = replaces || seconds_per_byte_ == 0.0;
  seconds_per_byte_ = replaces ? seconds : (seconds_per_byte_ + seconds) / 2;
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
