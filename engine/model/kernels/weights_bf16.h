#pragma once

#include "dot_split.h"
#include "weights_avx512.h"

// Stored weights as BF16 words for AVX512_BF16, 32 columns at a time, fetched ahead of their use.
namespace longshelf::engine {
namespace {

// Weight rows: Load gives kSteps steps from `step` on. Enter comes before the first Load of each run of four steps;
// Ask<n> comes before every Load, for the first of n rows that lie one after another.
struct DecodedWords {
  static constexpr int kSteps = 1;
  const uint16_t* values;
  template <int kRows>
  void Ask(int64_t) const {}
  void Enter(int64_t) {}
  void Load(int64_t step, I* out) const { *out = LoadWords(values + step * kStepColumns); }
};

struct Bf16Words {
  static constexpr int kSteps = 1;
  const uint16_t* values;
  Bf16Words(const Matrix& w, int64_t row) : values(reinterpret_cast<const uint16_t*>(w.data) + row * w.cols) {}
  template <int kRows>
  void Ask(int64_t step) const {
    PrefetchTile<kRows, 64>(reinterpret_cast<const uint8_t*>(values), step);
  }
  void Enter(int64_t) {}
  void Load(int64_t step, I* out) const { *out = LoadWords(values + step * kStepColumns); }
};

// E4M3 codes times 2^(scale - 127) by adding to the exponent, where every product is a normal number.
struct E4m3Scale {
  I add;        // to the words of normal codes
  I subnormal;  // words of the subnormal codes, scaled
  bool extreme = false;
  float value = 1.0F;

  void Enter(uint8_t scale) {
    const auto exponents = static_cast<int16_t>((static_cast<int>(scale) - 127) * 128);
    extreme = scale < 10 || scale > 245;
    value = E8m0ToFloat(scale);
    add = _mm512_set1_epi16(static_cast<int16_t>(exponents + (120 << 7)));
    const I words = SubnormalWords();
    subnormal = _mm512_mask_add_epi16(words, _mm512_test_epi16_mask(words, words), words, _mm512_set1_epi16(exponents));
  }
  I Words(const uint8_t* codes) const {
    if (extreme) [[unlikely]] {
      return ExtremeWords(codes);
    }
    const I code = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
    const I magnitude = _mm512_slli_epi16(_mm512_and_si512(code, _mm512_set1_epi16(0x7F)), 4);
    const I normal = _mm512_add_epi16(magnitude, add);
    const __mmask32 is_subnormal = _mm512_testn_epi16_mask(code, _mm512_set1_epi16(0x78));
    const I word = _mm512_mask_permutexvar_epi16(normal, is_subnormal, code, subnormal);
    return _mm512_ternarylogic_epi32(word, _mm512_slli_epi16(code, 8), _mm512_set1_epi16(-0x8000), 0xF8);
  }
  I ExtremeWords(const uint8_t* codes) const {
    uint16_t words[kStepColumns];
    for (int i = 0; i < kStepColumns; ++i) words[i] = FloatToBf16(E4m3ToFloat(codes[i]) * value);
    return LoadWords(words);
  }
};

struct Fp8Words {
  static constexpr int kSteps = 1;
  const uint8_t* codes;
  const uint8_t* scales;
  E4m3Scale scale;
  Fp8Words(const Matrix& w, int64_t row) : codes(w.data + row * w.cols), scales(w.scale + row / 128 * w.scale_cols) {}
  template <int kRows>
  void Ask(int64_t step) const {
    PrefetchTile<kRows, 32>(codes, step);
  }
  void Enter(int64_t step) { scale.Enter(scales[step / 4]); }
  void Load(int64_t step, I* out) const { *out = scale.Words(codes + step * kStepColumns); }
};

// The same without the scale, which went into the operands (ScaleOperands): two steps at a time, bytes by table.
struct E4m3Bytes {
  I low[2];   // low bytes of the BF16 words of the 128 magnitudes
  I high[2];  // high bytes

  E4m3Bytes() {
    alignas(64) uint8_t bytes[2][128];
    for (int code = 0; code < 128; ++code) {
      const uint16_t word = FloatToBf16(E4m3ToFloat(static_cast<uint8_t>(code)));
      bytes[0][code] = static_cast<uint8_t>(word);
      bytes[1][code] = static_cast<uint8_t>(word >> 8);
    }
    for (int half = 0; half < 2; ++half) {
      low[half] = _mm512_load_si512(bytes[0] + 64 * half);
      high[half] = _mm512_load_si512(bytes[1] + 64 * half);
    }
  }
};
struct Fp8Unscaled {
  static constexpr int kSteps = 2;
  const uint8_t* codes;
  const E4m3Bytes* bytes;
  template <int kRows>
  void Ask(int64_t step) const {
    PrefetchTile<kRows, 32, kSteps>(codes, step);
  }
  void Enter(int64_t) {}
  void Load(int64_t step, I* out) const {
    // Eight columns of the first step beside eight of the second in every 128 bits.
    const I code = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7),
                                            _mm512_loadu_si512(codes + step * kStepColumns));
    const I low = _mm512_permutex2var_epi8(bytes->low[0], code, bytes->low[1]);
    const I magnitude = _mm512_permutex2var_epi8(bytes->high[0], code, bytes->high[1]);
    const I high = _mm512_ternarylogic_epi32(magnitude, code, _mm512_set1_epi8(-0x80), 0xF8);
    out[0] = _mm512_unpacklo_epi8(low, high);
    out[1] = _mm512_unpackhi_epi8(low, high);
  }
};

// out = x times the scale of each 128 columns, exact; false when a product is no normal number.
inline bool ScaleOperands(const uint16_t* x, const uint8_t* scales, int64_t steps, uint16_t* out) {
  __mmask32 outside = 0;
  for (int64_t s = 0; s < steps; ++s) {
    const int scale = scales[s / 4];
    if (scale < 10 || scale > 245) return false;
    const I words = LoadWords(x + s * kStepColumns);
    const __mmask32 nonzero = _mm512_test_epi16_mask(words, _mm512_set1_epi16(0x7FFF));
    const I exponent = _mm512_add_epi16(_mm512_and_si512(_mm512_srli_epi16(words, 7), _mm512_set1_epi16(0xFF)),
                                        _mm512_set1_epi16(static_cast<int16_t>(scale - 127)));
    outside |= _mm512_mask_cmplt_epi16_mask(nonzero, exponent, _mm512_set1_epi16(1)) |
               _mm512_mask_cmpgt_epi16_mask(nonzero, exponent, _mm512_set1_epi16(254));
    const I add = _mm512_set1_epi16(static_cast<int16_t>((scale - 127) * 128));
    _mm512_storeu_si512(out + s * kStepColumns, _mm512_mask_add_epi16(words, nonzero, words, add));
  }
  return outside == 0;
}

// For every scale the BF16 words of the sixteen FP4 values times it, twice: 32 words, one register.
struct E2m1Words {
  alignas(64) uint16_t of_scale[256][kStepColumns] = {};

  constexpr E2m1Words() {
    for (int scale = 0; scale < 256; ++scale) {
      for (int i = 0; i < kStepColumns; ++i) of_scale[scale][i] = ScaledE2m1(i & 15, scale);
    }
  }
};
constexpr E2m1Words kE2m1Words;

struct Fp4Words {
  static constexpr int kSteps = 1;
  const uint8_t* codes;
  const uint8_t* scales;
  Fp4Words(const Matrix& w, int64_t row) : codes(w.data + row * (w.cols / 2)), scales(w.scale + row * w.scale_cols) {}
  void Enter(int64_t) {}
  void Load(int64_t step, I* out) const {
    const I pairs = LoadU8(codes + step * (kStepColumns / 2));
    // Low word: the whole byte, of which five bits count; high word: the high nibble.
    *out = _mm512_permutexvar_epi16(OrI(pairs, Shl<12>(pairs)), LoadWords(kE2m1Words.of_scale[scales[step]]));
  }
};

// The same in fewer instructions: every 64 bits of a register take four codes from the same half of the sixteen bytes,
// so two lanes at a time stand in the order 0, 8, 2, 10, 4, 12, 6, 14, and the operands must (OrderForFp4).
struct Fp4Shuffled {
  static constexpr int kSteps = 1;
  Fp4Words words;
  Fp4Shuffled(const Matrix& w, int64_t row) : words(w, row) {}
  template <int kRows>
  void Ask(int64_t step) const {
    PrefetchTile<kRows, 16>(words.codes, step);
  }
  void Enter(int64_t) {}
  void Load(int64_t step, I* out) const {
    // Of each word five bits count. Its code starts at bit 16 k, + 4, + 8, + 12 in the k-th 128 bits.
    const I at =
        _mm512_setr_epi64(0x000C'0008'0004'0000, 0x000C'0008'0004'0000, 0x001C'0018'0014'0010, 0x001C'0018'0014'0010,
                          0x002C'0028'0024'0020, 0x002C'0028'0024'0020, 0x003C'0038'0034'0030, 0x003C'0038'0034'0030);
    const auto* codes = reinterpret_cast<const __m128i*>(words.codes + step * (kStepColumns / 2));
    const I index = _mm512_multishift_epi64_epi8(at, _mm512_broadcast_i32x4(_mm_loadu_si128(codes)));
    *out = _mm512_permutexvar_epi16(index, LoadWords(kE2m1Words.of_scale[words.scales[step]]));
  }
  static F InOrder(F sum) {
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15), sum);
  }
};

// One operand row in that order.
inline void OrderForFp4(const uint16_t* x, int64_t steps, uint16_t* out) {
  const I from = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  for (int64_t s = 0; s < steps; ++s) {
    _mm512_storeu_si512(out + s * kStepColumns, _mm512_permutexvar_epi64(from, LoadWords(x + s * kStepColumns)));
  }
}

}  // namespace
}  // namespace longshelf::engine
