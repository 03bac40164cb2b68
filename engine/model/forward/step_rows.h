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

  // The rows in two halves, the second at most as large as the first: a long chunk may be cut, and then the second half
  // goes on behind the first. Short ones are whole in one of them.
  void Halve(StepRows& first, StepRows& second) const;

  // The rotation of every row by its position, in the step's memory.
  StepRotations Rotations(Ops& ops, const RopeTable& rope) const;

 private:
  std::vector<SequenceRows> parts_;
  std::vector<uint32_t> tokens_;
  int64_t n_ = 0;
};

}  // namespace longshelf::engine
