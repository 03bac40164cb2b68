#pragma once

#include "quantize_rows.h"

// The parts of the index scores that every table shares.
namespace longshelf::engine {
namespace {

constexpr int64_t kIndexBlock = 32;  // columns per scale
constexpr int kKeyOffset = 12;       // makes a doubled FP4 code non-negative

// Twice the nearest FP4 magnitude, ties to the even code.
inline I DoubledE2m1(F magnitude) {
  const auto above = [&](float bound, int step) { return SelectI(Less(Set(bound), magnitude), SetI(step), SetI(0)); };
  const auto from = [&](float bound, int step) { return SelectI(Less(magnitude, Set(bound)), SetI(0), SetI(step)); };
  const I small = AddI(AddI(above(0.25F, 1), from(0.75F, 1)), AddI(above(1.25F, 1), from(1.75F, 1)));
  return AddI(small, AddI(AddI(above(2.5F, 2), from(3.5F, 2)), above(5.0F, 4)));
}

inline uint8_t ScaleCodeE2m1(float largest) {
  constexpr float kSmallest = 6.0F * 0x1p-126F;
  return CeilPowerOfTwoCode((largest > kSmallest ? largest : kSmallest) * (1.0F / 6.0F));
}

void PackIndexQuery(const float* q, const float* weights, int64_t n_heads, int64_t width, const IndexQuery& out) {
  const int64_t n_blocks = width / kIndexBlock;
  for (int64_t b = 0; b < n_heads * n_blocks; ++b) {
    const float* v = q + b * kIndexBlock;
    int8_t* codes = out.codes + b * kIndexBlock;
    const float scale = E8m0ToFloat(ScaleCodeE2m1(LargestMagnitude(v, kIndexBlock)));
    const F down = Set(1.0F / scale);
    for (int64_t i = 0; i < kIndexBlock; i += kLanes) {
      const F value = Load(v + i);
      const I doubled = DoubledE2m1(Magnitude(Mul(value, down)));
      const I code = SelectI(LessI(Bits(value), SetI(0)), SubI(SetI(0), doubled), doubled);
      StoreU8(AndI(code, SetI(0xFF)), reinterpret_cast<uint8_t*>(codes + i));
    }
    int32_t sum = 0;
    for (int64_t i = 0; i < kIndexBlock; ++i) sum += codes[i];
    out.offsets[b] = -kKeyOffset * sum;
    out.scales[b] = 0.25F * scale;
  }
  for (int64_t h = 0; h < n_heads; ++h) out.weights[h] = weights[h];
}

int64_t IndicesAbove(const float* scores, int64_t begin, int64_t end, float threshold, int32_t* out) {
  int64_t n = 0;
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    for (uint32_t bits = LaneBits(Less(Set(threshold), Load(scores + i))); bits != 0; bits &= bits - 1) {
      out[n++] = static_cast<int32_t>(i) + __builtin_ctz(bits);
    }
  }
  for (; i < end; ++i) {
    if (scores[i] > threshold) out[n++] = static_cast<int32_t>(i);
  }
  return n;
}

}  // namespace
}  // namespace longshelf::engine
