#pragma once

#include <algorithm>

#include "absl/time/time.h"
#include "common/clock.h"

namespace longshelf::router {

// Times that versions of sessions are told apart by, in milliseconds: each is later than all that were given or seen
// before. Owner: the router loop.
class VersionClock {
 public:
  explicit VersionClock(Clock& clock) : clock_(clock) {}

  absl::Time Next() {
    const absl::Time now = absl::FromUnixMillis(absl::ToUnixMillis(clock_.WallNow()));
    last_ = std::max(now, last_ + absl::Milliseconds(1));
    return last_;
  }
  // In the store: another router made it.
  void Saw(absl::Time version) { last_ = std::max(last_, version); }

 private:
  Clock& clock_;
  absl::Time last_ = absl::UnixEpoch();
};

}  // namespace longshelf::router
