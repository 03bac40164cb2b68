#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention.h"
#include "compressor.h"
#include "engine/model/model.h"
#include "rope.h"

namespace longshelf::engine {

// The rows of one step, all sequences after one another. Kept from step to step, so that its lists stop growing.
class StepRows {
 public:
  void Clear();
  void Add(std::span<const uint32_t> tokens, int64_t n_past, std::span<std::byte* const> blocks, std::byte* state);

  int64_t n() const { return static_cast<int64_t>(tokens_.size()); }
  std::span<const uint32_t> tokens() const { return tokens_; }
  std::span<const SequenceRows> parts() const { return parts_; }

  // The rotation of every row by its position, in the step's memory.
  StepRotations Rotations(Ops& ops, const RopeTable& rope) const;

 private:
  std::vector<SequenceRows> parts_;
  std::vector<uint32_t> tokens_;
};

}  // namespace longshelf::engine
