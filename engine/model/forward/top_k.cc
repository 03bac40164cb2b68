#include "top_k.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

// One pass over the scores with a bound that rises: what is not above the k-th largest so far is not looked at again.
namespace longshelf::engine {
namespace {

// Scores compared between two looks at how full the candidates are.
constexpr int64_t kStretch = 1024;

// Candidates that are kept before the bound is raised: several times k, so that this is rare.
int64_t Capacity(int64_t k) { return std::max<int64_t>(4 * k, 256); }

// Order of the scores as order of unsigned integers, and back.
inline uint32_t KeyOf(float score) {
  const auto bits = std::bit_cast<uint32_t>(score + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
inline float ScoreOf(uint32_t key) { return std::bit_cast<float>((key & 0x80000000U) != 0 ? key & 0x7FFFFFFFU : ~key); }

// Reduces n >= k candidates, ascending, to the k best of them; returns the least score of these.
float KeepBest(const float* scores, int32_t* candidates, int64_t n, int64_t k) {
  // The k-th largest key, found a byte at a time from the top: `prefix` holds the bytes known so far.
  uint32_t prefix = 0;
  uint32_t known = 0;  // mask of the bytes known
  int64_t wanted = k;  // of the keys that share the prefix
  for (int shift = 24; shift >= 0; shift -= 8) {
    // Four histograms: neighbours often share a bin.
    uint32_t count[4][256];
    std::memset(count, 0, sizeof count);
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t key = KeyOf(scores[candidates[i]]);
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
  uint32_t least = UINT32_MAX;
  int64_t n_kept = 0;
  for (int64_t i = 0; n_kept < k; ++i) {
    const uint32_t key = KeyOf(scores[candidates[i]]);
    if (key <= highest) {
      if ((key & known) != prefix || wanted == 0) continue;
      --wanted;
    }
    least = std::min(least, key);
    candidates[n_kept++] = candidates[i];
  }
  return ScoreOf(least);
}

}  // namespace

int64_t TopKScratchBytes(int64_t k) { return (Capacity(k) + kStretch) * static_cast<int64_t>(sizeof(int32_t)); }

void TopK(const KernelTable& kernels, const float* scores, int64_t n, int64_t k, int32_t* out, std::byte* scratch) {
  auto* candidates = reinterpret_cast<int32_t*>(scratch);
  const int64_t capacity = Capacity(k);
  int64_t n_candidates = std::min(n, capacity);
  std::iota(candidates, candidates + n_candidates, 0);
  float bound = 0.0F;
  for (int64_t begin = n_candidates; begin < n; begin += kStretch) {
    if (n_candidates >= capacity) {
      bound = KeepBest(scores, candidates, n_candidates, k);
      n_candidates = k;
    }
    // Whoever equals the bound comes too late: k lower indices are no smaller.
    n_candidates +=
        kernels.indices_above(scores, begin, std::min(begin + kStretch, n), bound, candidates + n_candidates);
  }
  KeepBest(scores, candidates, n_candidates, k);
  std::copy_n(candidates, k, out);
}

}  // namespace longshelf::engine
