#include "step_rows.h"

#include <algorithm>

namespace longshelf::engine {
namespace {

// Rows of a chunk that are worth two passes of attention.
constexpr int64_t kShortestCut = 32;

}  // namespace

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

void StepRows::Halve(StepRows& first, StepRows& second) const {
  first.Clear();
  second.Clear();
  const int64_t middle = n_ - n_ / 2;
  for (const SequenceRows& rows : parts_) {
    const std::span<const uint32_t> own =
        tokens().subspan(static_cast<size_t>(rows.row_begin), static_cast<size_t>(rows.n_rows));
    int64_t n_first = std::clamp<int64_t>(middle - rows.row_begin, 0, rows.n_rows);
    if (n_first > 0 && rows.n_rows < kShortestCut) n_first = rows.n_rows;
    if (n_first > 0) first.Add(own.first(static_cast<size_t>(n_first)), rows);
    if (n_first == rows.n_rows) continue;
    SequenceRows rest = rows;
    rest.n_past += n_first;
    second.Add(own.subspan(static_cast<size_t>(n_first)), rest);
  }
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
