#pragma once

#include <immintrin.h>

#include <cstdint>

// Sixteen fp32 or int32 lanes with AVX-512 (F, BW, VL, DQ). lanes_portable.h says what each operation computes.
namespace longshelf::engine {
namespace {

using F = __m512;
using I = __m512i;
using Mask = __mmask16;

inline F Load(const float* p) { return _mm512_loadu_ps(p); }
inline void Store(F a, float* p) { _mm512_storeu_ps(p, a); }
inline F Set(float x) { return _mm512_set1_ps(x); }
inline F Zero() { return _mm512_setzero_ps(); }
inline F Add(F a, F b) { return _mm512_add_ps(a, b); }
inline F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F Div(F a, F b) { return _mm512_div_ps(a, b); }
inline F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F Max(F a, F b) { return _mm512_max_ps(a, b); }
inline F Min(F a, F b) { return _mm512_min_ps(a, b); }
inline F NearestInteger(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

inline I SetI(int32_t x) { return _mm512_set1_epi32(x); }
inline I LoadI(const int32_t* p) { return _mm512_loadu_si512(p); }
inline void StoreI(I a, int32_t* p) { _mm512_storeu_si512(p, a); }
inline I AddI(I a, I b) { return _mm512_add_epi32(a, b); }
inline I SubI(I a, I b) { return _mm512_sub_epi32(a, b); }
inline I AndI(I a, I b) { return _mm512_and_si512(a, b); }
inline I OrI(I a, I b) { return _mm512_or_si512(a, b); }
template <int kBits>
inline I Shl(I a) {
  return _mm512_slli_epi32(a, kBits);
}
template <int kBits>
inline I Shr(I a) {
  return _mm512_srli_epi32(a, kBits);
}
inline I MaxI(I a, I b) { return _mm512_max_epi32(a, b); }
inline I MinI(I a, I b) { return _mm512_min_epi32(a, b); }
inline I HalfI(I a) { return _mm512_srai_epi32(a, 1); }
inline I ToInt(F a) { return _mm512_cvtps_epi32(a); }
inline F FromInt(I a) { return _mm512_cvtepi32_ps(a); }
inline I Bits(F a) { return _mm512_castps_si512(a); }
inline F OfBits(I a) { return _mm512_castsi512_ps(a); }

inline Mask Less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline Mask LessI(I a, I b) { return _mm512_cmplt_epi32_mask(a, b); }
inline uint32_t LaneBits(Mask m) { return m; }
inline Mask IsNan(F a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
inline F Select(Mask m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }
inline I SelectI(Mask m, I a, I b) { return _mm512_mask_blend_epi32(m, b, a); }

inline I LoadU8(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline I LoadU16(const uint16_t* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void StoreU8(I a, uint8_t* p) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a)); }
inline void StoreU16(I a, uint16_t* p) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a)); }

// Lanes 2l+1 and 2l of the 32 values a, b.
inline F OddOf(F a, F b) {
  const I at = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return _mm512_permutex2var_ps(a, at, b);
}
inline F EvenOf(F a, F b) {
  const I at = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return _mm512_permutex2var_ps(a, at, b);
}
// The inverse: natural columns of the pair (odd, even).
inline void Interleave(F odd, F even, F* first, F* second) {
  const I low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const I high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  *first = _mm512_permutex2var_ps(even, low, odd);
  *second = _mm512_permutex2var_ps(even, high, odd);
}

// a[l] + a[l + 8], in eight lanes.
inline __m256 FoldOnce(F a) { return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)); }

}  // namespace
}  // namespace longshelf::engine

#include "fold.h"
