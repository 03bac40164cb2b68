#pragma once

#include "formats.h"
#include "lanes_avx512.h"

// Stored weights and keys to values, 32 columns at a time, with AVX-512.
namespace longshelf::engine {
namespace {

inline I LoadWords(const uint16_t* p) { return _mm512_loadu_si512(p); }
inline void SplitWords(I words, F* odd, F* even) {
  *odd = OfBits(AndI(words, SetI(static_cast<int32_t>(0xFFFF0000U))));
  *even = OfBits(Shl<16>(words));
}

// BF16 of m * 2^-9, the subnormals of E4M3, for m = 0 to 7.
inline I SubnormalWords() {
  return _mm512_broadcast_i32x4(_mm_setr_epi16(0x0000, 0x3B00, 0x3B80, 0x3BC0, 0x3C00, 0x3C20, 0x3C40, 0x3C60));
}

// BF16 words of 32 E4M3 codes, unscaled.
inline I WordsOfE4m3(const uint8_t* codes) {
  const I code = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
  const I magnitude = _mm512_slli_epi16(_mm512_and_si512(code, _mm512_set1_epi16(0x7F)), 4);
  const I normal = _mm512_add_epi16(magnitude, _mm512_set1_epi16(120 << 7));
  const __mmask32 subnormal = _mm512_testn_epi16_mask(code, _mm512_set1_epi16(0x78));
  const I value = _mm512_mask_permutexvar_epi16(normal, subnormal, code, SubnormalWords());
  // value | ((code << 8) & sign)
  return _mm512_ternarylogic_epi32(value, _mm512_slli_epi16(code, 8), _mm512_set1_epi16(-0x8000), 0xF8);
}

// For every scale the sixteen FP4 values times it.
struct E2m1Values {
  alignas(64) float of_scale[256][16] = {};

  constexpr E2m1Values() {
    for (int scale = 0; scale < 256; ++scale) {
      for (int code = 0; code < 16; ++code) of_scale[scale][code] = Bf16ToFloat(ScaledE2m1(code, scale));
    }
  }
};
constexpr E2m1Values kE2m1Values;

// 32 FP4 codes times their scale: sixteen bytes, low nibble = even column.
inline void SplitE2m1(const uint8_t* codes, uint8_t scale, F* odd, F* even) {
  const I pairs = LoadU8(codes);
  const F values = Load(kE2m1Values.of_scale[scale]);
  *even = _mm512_permutexvar_ps(pairs, values);
  *odd = _mm512_permutexvar_ps(Shr<4>(pairs), values);
}

}  // namespace
}  // namespace longshelf::engine
