#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace longshelf::engine {

// e^x in fp32, within one ulp: reduction by ln 2 in two parts, then a polynomial of degree 6, every step one fused
// multiply-add. Written out so that its bits depend on no library and no machine, and because the published inference
// evaluates its sigmoids and softmaxes by exactly these steps.
inline float ExpFp32(float x) {
  if (!(x > -104.0F)) return std::isnan(x) ? x : 0.0F;
  if (x > 88.72F) return HUGE_VALF;
  const float q = std::nearbyint(x * 1.44269504088896340736F);
  float r = std::fma(q, -0.693145751953125F, x);
  r = std::fma(q, -1.428606765330187045e-06F, r);
  float p = 0.000198527617612853646F;
  p = std::fma(p, r, 0.00139304355252534151F);
  p = std::fma(p, r, 0.00833336077630519867F);
  p = std::fma(p, r, 0.0416664853692054749F);
  p = std::fma(p, r, 0.166666671633720398F);
  p = std::fma(p, r, 0.5F);
  p = 1.0F + std::fma(r * r, p, r);
  // Two steps keep the scale a normal number where the result is subnormal or near the largest.
  const int exponent = static_cast<int>(q);
  const int half = exponent / 2;
  const auto scale = [](int e) { return std::bit_cast<float>(static_cast<uint32_t>(e + 127) << 23); };
  return p * scale(half) * scale(exponent - half);
}

inline float Sigmoid(float x) { return 1.0F / (1.0F + ExpFp32(-x)); }

inline float Silu(float x) { return x / (1.0F + ExpFp32(-x)); }

}  // namespace longshelf::engine
