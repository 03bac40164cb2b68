#include "activation_quant.h"

#include <algorithm>
#include <cmath>

#include "float_formats.h"

namespace longshelf::engine {
namespace {

constexpr int64_t kE2m1Block = 32;

float MaxAbs(const float* x, int64_t n) {
  float m = 0.0F;
  for (int64_t i = 0; i < n; ++i) m = std::max(m, std::fabs(x[i]));
  return m;
}

}  // namespace

uint8_t QuantizeE4m3Group(const float* x, int64_t n, uint8_t* codes) {
  const float a = std::max(MaxAbs(x, n), 1e-4F);
  const uint8_t scale_code = CeilPowerOfTwoCode(a * (1.0F / 448.0F));
  const float scale = E8m0ToFloat(scale_code);
  for (int64_t i = 0; i < n; ++i) codes[i] = EncodeE4m3(std::clamp(x[i] / scale, -448.0F, 448.0F));
  return scale_code;
}

uint8_t QuantizeE2m1Group(const float* x, int64_t n, uint8_t* codes) {
  const float a = std::max(MaxAbs(x, n), 6.0F * 0x1p-126F);
  const uint8_t scale_code = CeilPowerOfTwoCode(a * (1.0F / 6.0F));
  const float scale = E8m0ToFloat(scale_code);
  for (int64_t i = 0; i < n; ++i) codes[i] = EncodeE2m1(std::clamp(x[i] / scale, -6.0F, 6.0F));
  return scale_code;
}

void FakeQuantE4m3(float* x, int64_t n, int64_t block) {
  uint8_t codes[128];
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t width = std::min(block, n - begin);
    const float scale = E8m0ToFloat(QuantizeE4m3Group(x + begin, width, codes));
    for (int64_t i = 0; i < width; ++i) x[begin + i] = E4m3ToFloat(codes[i]) * scale;
  }
}

void FakeQuantE2m1(float* x, int64_t n) {
  uint8_t codes[kE2m1Block];
  for (int64_t begin = 0; begin < n; begin += kE2m1Block) {
    const int64_t width = std::min(kE2m1Block, n - begin);
    const float scale = E8m0ToFloat(QuantizeE2m1Group(x + begin, width, codes));
    for (int64_t i = 0; i < width; ++i) x[begin + i] = E2m1ToFloat(codes[i]) * scale;
  }
}

void Hadamard(float* x, int64_t n) {
  for (int64_t half = 1; half < n; half *= 2) {
    for (int64_t begin = 0; begin < n; begin += 2 * half) {
      for (int64_t i = begin; i < begin + half; ++i) {
        const float a = x[i];
        const float b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
  const float scale = 1.0F / std::sqrt(static_cast<float>(n));
  for (int64_t i = 0; i < n; ++i) x[i] *= scale;
}

}  // namespace longshelf::engine
