#include "step_rows.h"

namespace longshelf::engine {

void StepRows::Clear() {
  parts_.clear();
  tokens_.clear();
  n_ = 0;
}

void StepRows::Add(std::span<const uint32_t> tokens, SequenceRows rows) {
  AddPositions(static_cast<int64_t>(tokens.size()), rows);
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
}

void StepRows::AddPositions(int64_t n_rows, SequenceRows rows) {
  rows.row_begin = n_;
  rows.n_rows = n_rows;
  parts_.push_back(rows);
  n_ += n_rows;
}

StepRotations StepRows::Rotations(Ops& ops, const RopeTable& rope) const {
  const int64_t n_pairs = rope.n_pairs();
  auto* cos = ops.memory().Take<float>(n() * n_pairs);
  auto* sin = ops.memory().Take<float>(n() * n_pairs);
  for (const SequenceRows& rows : parts_) {
    ops.pool().Run(rows.n_rows, [&](int64_t i, int) {
      const int64_t at = (rows.row_begin + i) * n_pairs;
      rope.Angles(rows.n_past + i, cos + at, sin + at);
    });
  }
  return {cos, sin, n_pairs};
}

}  // namespace longshelf::engine
