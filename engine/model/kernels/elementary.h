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

// log(1 + e^x), rounded once from double.
inline float Softplus(float x) {
  if (!(x <= 20.0F)) return x;
  // e^x = 2^q e^r
  const auto wide = static_cast<double>(x);
  const double q = std::nearbyint(wide * 1.4426950408889634074);
  const double r = std::fma(q, -1.90821492927058770002e-10, std::fma(q, -6.93147180369123816490e-01, wide));
  double p = 1.0 / 6227020800.0;
  for (const double c : {1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0,
                         1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0}) {
    p = std::fma(p, r, c);
  }
  const double e = p * std::bit_cast<double>(static_cast<uint64_t>(static_cast<int64_t>(q) + 1023) << 52);
  // 1 + e = 2^k (1 + f)
  double k = 0.0;
  double f = e;
  if (e > 0.4) {
    const auto bits = std::bit_cast<uint64_t>(1.0 + e);
    const auto exponent = static_cast<int64_t>(bits >> 52) - 1023;
    double m = std::bit_cast<double>((bits & 0xFFFFFFFFFFFFFULL) | (uint64_t{1023} << 52));
    k = static_cast<double>(exponent);
    if (m > 1.4142135623730951) {
      m *= 0.5;
      k += 1.0;
    }
    f = m - 1.0;
  }
  const double s = f / (2.0 + f);
  const double z = s * s;
  double sum = 1.0 / 23.0;
  for (const double c : {1.0 / 21.0, 1.0 / 19.0, 1.0 / 17.0, 1.0 / 15.0, 1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0,
                         1.0 / 5.0, 1.0 / 3.0, 1.0}) {
    sum = std::fma(sum, z, c);
  }
  return static_cast<float>(std::fma(k, 0.69314718055994530942, 2.0 * s * sum));
}

// Cosine and sine of an fp32 angle up to some 2^30, each rounded once from double: reduction by pi / 2 in two parts,
// then the two polynomials on [-pi/4, pi/4].
inline void CosSin(float angle, float* cosine, float* sine) {
  const auto x = static_cast<double>(angle);
  const double q = std::nearbyint(x * 0.63661977236758134308);
  const double r = std::fma(q, -6.12323399573676603587e-17, std::fma(q, -1.57079632679489655800, x));
  const double z = r * r;
  double s = 1.58969099521155010221e-10;
  s = std::fma(s, z, -2.50507602534068634195e-08);
  s = std::fma(s, z, 2.75573137070700676789e-06);
  s = std::fma(s, z, -1.98412698298579493134e-04);
  s = std::fma(s, z, 8.33333333332248946124e-03);
  s = std::fma(s, z, -1.66666666666666324348e-01);
  const double sin_r = std::fma(r * z, s, r);
  double c = -1.13596475577881948265e-11;
  c = std::fma(c, z, 2.08757232129817482790e-09);
  c = std::fma(c, z, -2.75573143513906633035e-07);
  c = std::fma(c, z, 2.48015872894767294178e-05);
  c = std::fma(c, z, -1.38888888888741095749e-03);
  c = std::fma(c, z, 4.16666666666666019037e-02);
  const double cos_r = std::fma(z * z, c, std::fma(z, -0.5, 1.0));
  const auto quadrant = static_cast<int64_t>(q) & 3;
  const double swapped_cos = (quadrant & 1) != 0 ? sin_r : cos_r;
  const double swapped_sin = (quadrant & 1) != 0 ? cos_r : sin_r;
  *cosine = static_cast<float>(quadrant == 1 || quadrant == 2 ? -swapped_cos : swapped_cos);
  *sine = static_cast<float>(quadrant >= 2 ? -swapped_sin : swapped_sin);
}

}  // namespace longshelf::engine
