#include "drain_rate.h"

#include <algorithm>

namespace longshelf::router::internal {
namespace {

constexpr double kSecondsKept = 2.0;
constexpr double kPlacedKept = 32;
constexpr double kSecondsEnough = 0.25;
constexpr double kPlacedEnough = 4;

}  // namespace

void DrainRate::SetBusy(bool busy, uint32_t n_slots, absl::Time now) {
  if (busy_) {
    const double seconds = absl::ToDoubleSeconds(now - counted_to_);
    seconds_ += seconds;
    slot_seconds_ += seconds * n_slots_;
  }
  busy_ = busy;
  n_slots_ = n_slots;
  counted_to_ = now;
  if (seconds_ <= kSecondsKept || n_placed_ <= kPlacedKept) return;
  const double kept = std::max(kSecondsKept / seconds_, kPlacedKept / n_placed_);
  n_placed_ *= kept;
  n_tokens_ *= kept;
  seconds_ *= kept;
  slot_seconds_ *= kept;
}

void DrainRate::OnPlaced(uint64_t n_tokens) {
  if (!busy_) return;  // it did not wait
  n_placed_ += 1;
  n_tokens_ += static_cast<double>(n_tokens);
}

std::optional<double> DrainRate::TokensPerSecond(uint32_t n_slots) const {
  if (seconds_ < kSecondsEnough || n_placed_ < kPlacedEnough || slot_seconds_ <= 0) return std::nullopt;
  return n_tokens_ / slot_seconds_ * n_slots;
}

}  // namespace longshelf::router::internal
