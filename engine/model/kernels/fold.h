#pragma once

#include <immintrin.h>

// The one tree that sums sixteen lanes: l with l + 8, then l + 4, l + 2, l + 1. For the vector tables, after FoldOnce.
namespace longshelf::engine {
namespace {

inline float Fold(F a) {
  const __m256 eight = FoldOnce(a);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// Four sums at once, in order.
inline __m128 Fold4(F a, F b, F c, F d) {
  const __m256 a8 = FoldOnce(a);
  const __m256 b8 = FoldOnce(b);
  const __m256 c8 = FoldOnce(c);
  const __m256 d8 = FoldOnce(d);
  const __m256 ab = _mm256_add_ps(_mm256_permute2f128_ps(a8, b8, 0x20), _mm256_permute2f128_ps(a8, b8, 0x31));
  const __m256 cd = _mm256_add_ps(_mm256_permute2f128_ps(c8, d8, 0x20), _mm256_permute2f128_ps(c8, d8, 0x31));
  // [a a c c | b b d d]
  const __m256 pairs = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xEE));
  const __m128 ac = _mm256_castps256_ps128(pairs);
  const __m128 bd = _mm256_extractf128_ps(pairs, 1);
  // [a b c d] of the first and of the second of each pair.
  const __m128 first = _mm_blend_ps(_mm_shuffle_ps(ac, ac, 0xA0), _mm_shuffle_ps(bd, bd, 0xA0), 0xA);
  const __m128 second = _mm_blend_ps(_mm_shuffle_ps(ac, ac, 0xF5), _mm_shuffle_ps(bd, bd, 0xF5), 0xA);
  return _mm_add_ps(first, second);
}

// To BF16, nearest even; NaN stays NaN.
inline __m128 RoundFour(__m128 x) {
  const __m128i bits = _mm_castps_si128(x);
  const __m128i upper = _mm_set1_epi32(static_cast<int>(0xFFFF0000U));
  const __m128i odd = _mm_and_si128(_mm_srli_epi32(bits, 16), _mm_set1_epi32(1));
  const __m128i rounded = _mm_and_si128(_mm_add_epi32(_mm_add_epi32(bits, _mm_set1_epi32(0x7FFF)), odd), upper);
  const __m128i nan = _mm_or_si128(_mm_and_si128(bits, upper), _mm_set1_epi32(0x00400000));
  return _mm_blendv_ps(_mm_castsi128_ps(rounded), _mm_castsi128_ps(nan), _mm_cmpunord_ps(x, x));
}

}  // namespace
}  // namespace longshelf::engine
