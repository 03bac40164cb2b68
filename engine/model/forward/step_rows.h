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
  // rows: all but what follows from the tokens.
  void Add(std::span<const uint32_t> tokens, SequenceRows rows);
  // Rows of which only the positions matter.
  void AddPositions(int64_t n_rows, SequenceRows rows);

  int64_t n() const { return n_; }
  std::span<const uint32_t> tokens() const { return tokens_; }
  std::span<const SequenceRows> parts() const { return parts_; }

  // The rotation of every row by its position, in the step's memory.
  StepRotations Rotations(Ops& ops, const RopeTable& rope) const;

 private:
  std::vector<SequenceRows> parts_;
  std::vector<uint32_t> tokens_;
  int64_t n_ = 0;
};

}  // namespace longshelf::engine
