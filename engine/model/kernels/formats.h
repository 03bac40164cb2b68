#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "engine/model/weights.h"

// Scalar conversions of the stored formats. Exact, except where a name says Round or Encode. Internal to each file that
// includes them: files of different instruction sets must not share a copy.
namespace longshelf::engine {
namespace {

constexpr float Bf16ToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// Round to nearest even. NaN stays NaN.
inline uint16_t FloatToBf16(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  if ((u & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<uint16_t>((u >> 16) | 0x40U);
  return static_cast<uint16_t>((u + 0x7FFFU + ((u >> 16) & 1U)) >> 16);
}

inline float RoundBf16(float value) { return Bf16ToFloat(FloatToBf16(value)); }

// 2^(exponent) for exponent in [-126, 127].
inline float PowerOfTwo(int exponent) { return std::bit_cast<float>(static_cast<uint32_t>(exponent + 127) << 23); }

// UE8M0. 0 is 2^-127 (a subnormal), 255 is NaN.
inline float E8m0ToFloat(uint8_t code) {
  if (code == 0) return std::bit_cast<float>(0x00400000U);
  if (code == 255) return std::numeric_limits<float>::quiet_NaN();
  return std::bit_cast<float>(static_cast<uint32_t>(code) << 23);
}

inline float E4m3ToFloat(uint8_t code) {
  const int exponent = (code >> 3) & 15;
  const int mantissa = code & 7;
  if ((code & 0x7F) == 0x7F) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude = exponent == 0 ? static_cast<float>(mantissa) * 0x1p-9F
                                        : (1.0F + static_cast<float>(mantissa) * 0.125F) * PowerOfTwo(exponent - 7);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

// Round to nearest even of a value in [-448, 448]; larger magnitudes saturate. NaN gives 0x7F.
inline uint8_t EncodeE4m3(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>((u >> 24) & 0x80U);
  const float a = std::fabs(value);
  if (!(a <= 464.0F)) return std::isnan(value) ? 0x7F : static_cast<uint8_t>(sign | 0x7EU);
  if (a < 0x1p-6F) {
    // Subnormal grid of 2^-9; adding and removing 2^14 rounds to it, ties to even.
    const float snapped = (a + 0x1p14F) - 0x1p14F;
    return static_cast<uint8_t>(sign | static_cast<uint8_t>(snapped * 0x1p9F));
  }
  uint32_t bits = std::bit_cast<uint32_t>(a);
  bits += 0x0007FFFFU + ((bits >> 20) & 1U);
  const uint32_t code = (bits >> 20) - (120U << 3);
  return static_cast<uint8_t>(sign | (code > 0x7EU ? 0x7EU : code));
}

inline float E2m1ToFloat(uint8_t code) {
  constexpr float kValues[8] = {0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F};
  const float magnitude = kValues[code & 7];
  return (code & 8) != 0 ? -magnitude : magnitude;
}

// BF16 word of an FP4 code times its scale: zero, with its sign, where that is no normal number.
constexpr uint16_t ScaledE2m1(int code, int scale) {
  const int sign = (code & 8) << 12;
  const int magnitude = code & 7;
  const int exponent = scale + (magnitude < 2 ? -1 : magnitude / 2 - 1);
  if (scale == 255) return 0x7FC0;
  if (magnitude == 0 || scale == 0 || exponent < 1) return static_cast<uint16_t>(sign);
  if (exponent > 254) return static_cast<uint16_t>(sign | 0x7F80);
  const int mantissa = magnitude < 2 ? 0 : (magnitude & 1) << 6;
  return static_cast<uint16_t>(sign | exponent << 7 | mantissa);
}

// Round to nearest even code of a value in [-6, 6]; larger magnitudes saturate.
inline uint8_t EncodeE2m1(float value) {
  const uint8_t sign = std::signbit(value) ? 8 : 0;
  const float a = std::fabs(value);
  uint8_t code = 0;
  if (a <= 0.25F) {
    code = 0;
  } else if (a < 0.75F) {
    code = 1;
  } else if (a <= 1.25F) {
    code = 2;
  } else if (a < 1.75F) {
    code = 3;
  } else if (a <= 2.5F) {
    code = 4;
  } else if (a < 3.5F) {
    code = 5;
  } else if (a <= 5.0F) {
    code = 6;
  } else {
    code = 7;
  }
  return sign | code;
}

// Smallest power of two at or above a positive normal value, as its UE8M0 code.
inline uint8_t CeilPowerOfTwoCode(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  return static_cast<uint8_t>((u >> 23) + ((u & 0x7FFFFFU) != 0 ? 1U : 0U));
}

// Widest head that is decoded in scratch on the stack.
inline constexpr int64_t kMaxKeyWidth = 4096;

// One weight, whatever its format.
inline float WeightAt(const Matrix& w, int64_t row, int64_t column) {
  switch (w.format) {
    case Matrix::Format::kFp8:
      return E4m3ToFloat(w.data[row * w.cols + column]) * E8m0ToFloat(w.scale[row / 128 * w.scale_cols + column / 128]);
    case Matrix::Format::kFp4: {
      const uint8_t pair = w.data[row * (w.cols / 2) + column / 2];
      return E2m1ToFloat(column % 2 != 0 ? pair >> 4 : pair & 15) *
             E8m0ToFloat(w.scale[row * w.scale_cols + column / 32]);
    }
    case Matrix::Format::kBf16: {
      uint16_t bits;
      std::memcpy(&bits, w.data + 2 * (row * w.cols + column), sizeof bits);
      return Bf16ToFloat(bits);
    }
    case Matrix::Format::kF32:
      break;
  }
  float value;
  std::memcpy(&value, w.data + 4 * (row * w.cols + column), sizeof value);
  return value;
}

// A packed entry or window row: FP8 in groups of 64 with their scales, then BF16.
inline void DecodeRecord(const uint8_t* codes, int64_t n_codes, const uint8_t* bf16, int64_t n_bf16,
                         const uint8_t* scales, float* out) {
  for (int64_t i = 0; i < n_codes; ++i) out[i] = E4m3ToFloat(codes[i]) * E8m0ToFloat(scales[i / 64]);
  for (int64_t i = 0; i < n_bf16; ++i) {
    uint16_t bits;
    std::memcpy(&bits, bf16 + 2 * i, sizeof bits);
    out[n_codes + i] = Bf16ToFloat(bits);
  }
}

}  // namespace
}  // namespace longshelf::engine
