#include "step_rows.h"

namespace longshelf::engine {

void StepRows::Clear() {
  parts_.clear();
  tokens_.clear();
}

void StepRows::Add(std::span<const uint32_t> tokens, int64_t n_past, std::span<std::byte* const> blocks,
                   std::byte* state) {
  parts_.push_back({n(), static_cast<int64_t>(tokens.size()), n_past, blocks, state});
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
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
