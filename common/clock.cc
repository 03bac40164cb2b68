#include "common/clock.h"

#include <chrono>

#include "absl/time/clock.h"

namespace longshelf {

absl::Time SystemClock::Now() const {
  const auto since_boot = std::chrono::steady_clock::now().time_since_epoch();
  return absl::UnixEpoch() + absl::FromChrono(since_boot);
}

absl::Time SystemClock::WallNow() const { return absl::Now(); }

}  // namespace longshelf
