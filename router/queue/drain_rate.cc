#include "drain_rate.h"

#include <cmath>
#include <utility>

namespace longshelf::router::internal {
namespace {

constexpr double kMemorySeconds = 2.0;
constexpr double kSecondsEnough = 0.25;

}  // namespace

void DrainRate::SetBusy(bool busy, uint32_t n_slots, absl::Time now) {
  if (busy_) {
    const double seconds = absl::ToDoubleSeconds(now - counted_to_);
    const double kept = std::exp(-seconds / kMemorySeconds);
    n_tokens_ *= kept;
    slot_seconds_ = slot_seconds_ * kept + seconds * n_slots_;
    seconds_ = seconds_ * kept + seconds;
  }
  busy_ = busy;
  n_slots_ = n_slots;
  counted_to_ = now;
}

std::optional<double> DrainRate::TokensPerSecond(uint32_t n_slots) const {
  if (seconds_ < kSecondsEnough || slot_seconds_ <= 0 || n_tokens_ <= 0) return std::nullopt;
  return n_tokens_ / slot_seconds_ * n_slots;
}

}  // namespace longshelf::router::internal
