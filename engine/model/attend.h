#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops.h"

namespace longshelf::engine {

// Keys per softmax tile, as in the published attention kernel.
inline constexpr int64_t kAttendTile = 64;

// A query's keys in the fixed order of fixed tiles that defines its bits: the running maximum, the rounding of the
// probabilities and the order of sums all follow the tiles.
struct AttendKeyTiles {
  std::vector<const float*> keys;   // rows of [width], tile after tile
  std::vector<int64_t> tile_sizes;  // sum = keys.size(); none empty
  // Cuts the keys added since the last call into tiles of kAttendTile.
  void CloseGroup();

 private:
  size_t n_closed_ = 0;
};

// One query over its keys, which are also its values: softmax with a per-head sink in the denominator (spec section 3).
// q, out: [n_heads, width]. out is rounded in native numerics.
void AttendKeys(const KernelTable& kernels, Numerics numerics, const float* q, int64_t n_heads, int64_t width,
                const AttendKeyTiles& tiles, std::span<const float> sink, float* out);

}  // namespace longshelf::engine
