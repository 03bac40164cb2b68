#pragma once

#include "absl/time/time.h"

namespace longshelf {

// Time as an argument. Now() is monotonic (steady) and only meaningful as a difference; WallNow() is for retention
// stamps and logs, never for deadlines.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;
  virtual absl::Time WallNow() const = 0;
};

class SystemClock final : public Clock {
 public:
  absl::Time Now() const override;
  absl::Time WallNow() const override;
};

// Moves only when told to.
class ManualClock final : public Clock {
 public:
  absl::Time Now() const override { return now_; }
  absl::Time WallNow() const override { return now_; }
  void Advance(absl::Duration d) { now_ += d; }

 private:
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
};

}  // namespace longshelf
