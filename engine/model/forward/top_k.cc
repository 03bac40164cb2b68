#include "top_k.h"

#include <bit>
#include <cstring>

namespace longshelf::engine {
namespace {

// Order of the scores as order of unsigned integers.
inline uint32_t KeyOf(float score) {
  const auto bits = std::bit_cast<uint32_t>(score + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

}  // namespace

void TopK(const float* scores, int64_t n, int64_t k, int32_t* out) {
  // The k-th largest key, found a byte at a time from the top: `prefix` holds the bytes known so far.
  uint32_t prefix = 0;
  uint32_t known = 0;  // mask of the bytes known
  int64_t wanted = k;  // of the keys that share the prefix
  for (int shift = 24; shift >= 0; shift -= 8) {
    // Four histograms: neighbours often share a bin.
    uint32_t count[4][256];
    std::memset(count, 0, sizeof count);
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t key = KeyOf(scores[i]);
      if ((key & known) == prefix) ++count[i & 3][(key >> shift) & 255U];
    }
    int bin = 255;
    int64_t in_bin = 0;
    while (true) {
      const auto at = static_cast<size_t>(bin);
      in_bin = int64_t{count[0][at]} + count[1][at] + count[2][at] + count[3][at];
      if (in_bin >= wanted) break;
      wanted -= in_bin;
      --bin;
    }
    prefix |= static_cast<uint32_t>(bin) << shift;
    known |= 255U << shift;
    if (in_bin == wanted) break;
  }
  // Everything above the known prefix, and the first `wanted` that share it.
  const uint32_t highest = prefix | ~known;
  int64_t n_out = 0;
  for (int64_t i = 0; n_out < k; ++i) {
    const uint32_t key = KeyOf(scores[i]);
    if (key > highest) {
      out[n_out++] = static_cast<int32_t>(i);
    } else if ((key & known) == prefix && wanted > 0) {
      --wanted;
      out[n_out++] = static_cast<int32_t>(i);
    }
  }
}

}  // namespace longshelf::engine
