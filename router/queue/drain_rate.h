#pragma once

#include <cstdint>
#include <optional>

#include "absl/time/time.h"

namespace longshelf::router::internal {

// How many tokens the workers take from a backlog in a second: counted only while there is one, and per slot, so that
// it is right at once when workers come or go. Weighs the last placements: those of some seconds at least, and some of
// them however long that took. Owner: the router loop.
class DrainRate {
 public:
  // From now on somebody waits, or nobody does.
  void SetBusy(bool busy, uint32_t n_slots, absl::Time now);
  // Who waited was given to a worker.
  void OnPlaced(uint64_t n_tokens);
  // Empty until enough were placed to say.
  std::optional<double> TokensPerSecond(uint32_t n_slots) const;

 private:
  bool busy_ = false;
  uint32_t n_slots_ = 0;
  absl::Time counted_to_;
  // Of what is remembered.
  double n_placed_ = 0;
  double n_tokens_ = 0;
  double seconds_ = 0;
  double slot_seconds_ = 0;
};

}  // namespace longshelf::router::internal
