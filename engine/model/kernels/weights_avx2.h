#pragma once

#include "formats.h"
#include "lanes_avx2.h"

// Stored weights and keys to values, 32 columns at a time, with AVX2.
namespace longshelf::engine {
namespace {

inline I LoadWords(const uint16_t* p) { return LoadI(reinterpret_cast<const int32_t*>(p)); }
inline void SplitWords(I words, F* odd, F* even) {
  *odd = OfBits(AndI(words, SetI(static_cast<int32_t>(0xFFFF0000U))));
  *even = OfBits(Shl<16>(words));
}

// BF16 words of sixteen E4M3 codes, unscaled.
inline __m256i WordsOfSixteenE4m3(const uint8_t* codes) {
  const __m256i code = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  const __m256i magnitude = _mm256_and_si256(code, _mm256_set1_epi16(0x7F));
  const __m256i normal = _mm256_add_epi16(_mm256_slli_epi16(magnitude, 4), _mm256_set1_epi16(120 << 7));
  // Bytes 0 to 7: low bytes of BF16 m * 2^-9, the subnormals, for m = 0 to 7; then their high bytes.
  const __m256i bytes =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0x00, 0x00, static_cast<char>(0x80), static_cast<char>(0xC0), 0x00,
                                                0x20, 0x40, 0x60, 0x00, 0x3B, 0x3B, 0x3B, 0x3C, 0x3C, 0x3C, 0x3C));
  const __m256i at =
      _mm256_or_si256(_mm256_or_si256(magnitude, _mm256_slli_epi16(magnitude, 8)), _mm256_set1_epi16(0x0800));
  const __m256i is_subnormal = _mm256_cmpgt_epi16(_mm256_set1_epi16(8), magnitude);
  const __m256i value = _mm256_blendv_epi8(normal, _mm256_shuffle_epi8(bytes, at), is_subnormal);
  return _mm256_or_si256(value, _mm256_and_si256(_mm256_slli_epi16(code, 8), _mm256_set1_epi16(-0x8000)));
}
inline I WordsOfE4m3(const uint8_t* codes) { return {WordsOfSixteenE4m3(codes), WordsOfSixteenE4m3(codes + 16)}; }

// Eight codes times their scale: `values` are the eight magnitudes, bit 3 of each code is its sign.
inline __m256 SignedE2m1(__m256 values, __m256i code) {
  const __m256i sign = _mm256_and_si256(_mm256_slli_epi32(code, 28), _mm256_set1_epi32(static_cast<int>(0x80000000U)));
  return _mm256_xor_ps(_mm256_permutevar8x32_ps(values, code), _mm256_castsi256_ps(sign));
}
// 32 FP4 codes times their scale: sixteen bytes, low nibble = even column.
inline void SplitE2m1(const uint8_t* codes, float scale, F* odd, F* even) {
  const I pairs = LoadU8(codes);
  const __m256 values =
      _mm256_mul_ps(_mm256_setr_ps(0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F), _mm256_set1_ps(scale));
  *even = {SignedE2m1(values, pairs.lo), SignedE2m1(values, pairs.hi)};
  *odd = {SignedE2m1(values, _mm256_srli_epi32(pairs.lo, 4)), SignedE2m1(values, _mm256_srli_epi32(pairs.hi, 4))};
}

}  // namespace
}  // namespace longshelf::engine
