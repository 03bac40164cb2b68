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

// Sixteen bytes in both halves.
inline __m256i Twice(__m128i bytes) { return _mm256_broadcastsi128_si256(bytes); }
inline __m128i LoadSixteen(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

// BF16 words of 32 E4M3 codes, unscaled, all bytes at once. High bytes by the upper half of the code, low bytes are its
// lower half; subnormals, the magnitudes below 8, are corrected by what a table adds.
inline I WordsOfE4m3(const uint8_t* codes) {
  constexpr char kSign = static_cast<char>(0x80);
  const __m256i of_upper = Twice(_mm_setr_epi8(60, 61, 62, 63, 64, 65, 66, 67, kSign | 60, kSign | 61, kSign | 62,
                                               kSign | 63, kSign | 64, kSign | 65, kSign | 66, kSign | 67));
  const __m256i add_high = Twice(_mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, -60, -1, -1, -1, 0, 0, 0, 0));
  const __m256i add_low = Twice(_mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 0, -16, 0x60, -0x70, -0x40, -0x30, -0x20, -0x10));
  // Columns 0 to 7 and 16 to 23 in the lower half, so that unpacking leaves them in order.
  const __m256i code =
      _mm256_permute4x64_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)), _MM_SHUFFLE(3, 1, 2, 0));
  const __m256i upper = _mm256_and_si256(_mm256_srli_epi16(code, 4), _mm256_set1_epi8(0x0F));
  const __m256i lower = _mm256_and_si256(_mm256_slli_epi16(code, 4), _mm256_set1_epi8(static_cast<char>(0xF0)));
  // 0x78 to 0x7F for the subnormals; beyond, a shuffle gives zero.
  const __m256i small = _mm256_adds_epu8(_mm256_and_si256(code, _mm256_set1_epi8(0x7F)), _mm256_set1_epi8(0x78));
  const __m256i high = _mm256_add_epi8(_mm256_shuffle_epi8(of_upper, upper), _mm256_shuffle_epi8(add_high, small));
  const __m256i low = _mm256_add_epi8(lower, _mm256_shuffle_epi8(add_low, small));
  return {_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)};
}

// For every scale the low, then the high bytes of the BF16 words of the sixteen FP4 values times it.
struct E2m1Bytes {
  alignas(64) uint8_t of_scale[256][32] = {};

  constexpr E2m1Bytes() {
    for (int scale = 0; scale < 256; ++scale) {
      for (int code = 0; code < 16; ++code) {
        of_scale[scale][code] = static_cast<uint8_t>(ScaledE2m1(code, scale));
        of_scale[scale][16 + code] = static_cast<uint8_t>(ScaledE2m1(code, scale) >> 8);
      }
    }
  }
};
constexpr E2m1Bytes kE2m1Bytes;

// 32 FP4 codes times their scale: sixteen bytes, low nibble = even column.
inline void SplitE2m1(const uint8_t* codes, uint8_t scale, F* odd, F* even) {
  // Bytes 0 to 3 and 8 to 11 in the lower half, each in a word of its own.
  const __m256i spread = _mm256_setr_epi8(0, -1, 1, -1, 2, -1, 3, -1, 8, -1, 9, -1, 10, -1, 11, -1,  //
                                          4, -1, 5, -1, 6, -1, 7, -1, 12, -1, 13, -1, 14, -1, 15, -1);
  const __m256i pairs = _mm256_shuffle_epi8(Twice(LoadSixteen(codes)), spread);
  const __m256i nibbles = _mm256_and_si256(_mm256_or_si256(pairs, _mm256_slli_epi16(pairs, 4)), _mm256_set1_epi8(0x0F));
  const uint8_t* table = kE2m1Bytes.of_scale[scale];
  const __m256i low = _mm256_shuffle_epi8(Twice(LoadSixteen(table)), nibbles);
  const __m256i high = _mm256_shuffle_epi8(Twice(LoadSixteen(table + 16)), nibbles);
  SplitWords({_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)}, odd, even);
}

}  // namespace
}  // namespace longshelf::engine
