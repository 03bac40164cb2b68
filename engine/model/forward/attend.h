#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops.h"

namespace longshelf::engine {

// Keys per softmax tile, as in the published attention kernel.
inline constexpr int64_t kAttendTile = 64;

// At most kAttendTile keys, one after another: rows [n, width].
struct KeyTile {
  const float* rows = nullptr;
  int64_t n = 0;
};

// Cuts n adjacent keys into tiles and appends them.
void AppendTiles(const float* rows, int64_t n, int64_t width, std::vector<KeyTile>& tiles);

// One query over its keys, which are also its values: softmax with a per-head sink in the denominator
// (kernel.py: sparse_attn).
// q, out: [n_heads, width]. The tiles, in order, define the bits: the running maximum, the rounding of the
// probabilities and the order of sums all follow them. out is rounded in native numerics.
// lane_scores: score in the order of LaneDot (ReferenceCall).
void AttendKeys(const KernelTable& kernels, Numerics numerics, bool lane_scores, const float* q, int64_t n_heads,
                int64_t width, std::span<const KeyTile> tiles, std::span<const float> sink, float* out);

}  // namespace longshelf::engine
