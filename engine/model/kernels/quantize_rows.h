#pragma once

#include "rows.h"

// Activation quantisation to FP8 (kernel.py of the published inference: act_quant).
namespace longshelf::engine {
namespace {

// Of |x| <= 448 in units of the scale: the nearest E4M3 value, ties to even.
inline F SnapE4m3(F magnitude) {
  const F subnormal = Sub(Add(magnitude, Set(0x1p14F)), Set(0x1p14F));
  const I bits = Bits(magnitude);
  const I rounded = AddI(AddI(bits, SetI(0x0007FFFF)), AndI(Shr<20>(bits), SetI(1)));
  const F normal = OfBits(AndI(rounded, SetI(static_cast<int32_t>(0xFFF00000U))));
  return Select(Less(magnitude, Set(0x1p-6F)), subnormal, normal);
}

// Code of a snapped magnitude.
inline I CodeE4m3(F snapped) {
  const I subnormal = ToInt(Mul(snapped, Set(0x1p9F)));
  const I normal = SubI(Shr<20>(Bits(snapped)), SetI(120 << 3));
  return SelectI(Less(snapped, Set(0x1p-6F)), subnormal, normal);
}

inline float LargestMagnitude(const float* x, int64_t n) {
  F largest = Zero();
  for (int64_t i = 0; i < n; i += kLanes) largest = Max(Magnitude(LoadSome(x + i, n - i)), largest);
  return Largest(largest);
}

// UE8M0 code of the scale of a group with this largest magnitude.
inline uint8_t ScaleCodeE4m3(float largest) {
  return CeilPowerOfTwoCode((largest > 1e-4F ? largest : 1e-4F) * (1.0F / 448.0F));
}

void QuantizeRow(float* x, int64_t n, int64_t group) {
  for (int64_t begin = 0; begin < n; begin += group) {
    float* v = x + begin;
    const int64_t width = Least(group, n - begin);
    const float scale = E8m0ToFloat(ScaleCodeE4m3(LargestMagnitude(v, width)));
    const F down = Set(1.0F / scale);
    const F up = Set(scale);
    MapRow(v, width, v, [&](int64_t, F value) {
      const F snapped = SnapE4m3(Min(Magnitude(Mul(value, down)), Set(448.0F)));
      const F quantized = OfBits(OrI(Bits(Mul(snapped, up)), SignOf(value)));
      return Select(IsNan(value), value, quantized);
    });
  }
}

uint8_t EncodeE4m3Group(const float* x, int64_t n, uint8_t* codes) {
  const uint8_t scale_code = ScaleCodeE4m3(LargestMagnitude(x, n));
  const F down = Set(1.0F / E8m0ToFloat(scale_code));
  for (int64_t i = 0; i < n; i += kLanes) {
    const F value = LoadSome(x + i, n - i);
    const F snapped = SnapE4m3(Min(Magnitude(Mul(value, down)), Set(448.0F)));
    const I code = OrI(CodeE4m3(snapped), AndI(Shr<24>(Bits(value)), SetI(0x80)));
    const I stored = SelectI(IsNan(value), SetI(0x7F), code);
    if (n - i >= kLanes) {
      StoreU8(stored, codes + i);
    } else {
      uint8_t padded[kLanes];
      StoreU8(stored, padded);
      for (int64_t l = 0; l < n - i; ++l) codes[i + l] = padded[l];
    }
  }
  return scale_code;
}

inline F ValueE4m3(I code) {
  const I magnitude = AndI(code, SetI(0x7F));
  const Mask subnormal = LessI(magnitude, SetI(8));
  const F scaled = Mul(FromInt(magnitude), Set(0x1p-9F));
  const F normal = OfBits(AddI(Shl<20>(magnitude), SetI(120 << 23)));
  const F value = Select(subnormal, scaled, normal);
  return OfBits(OrI(Bits(value), Shl<24>(AndI(code, SetI(0x80)))));
}

void DecodeE4m3Row(const uint8_t* codes, int64_t n, float scale, float* out) {
  const F up = Set(scale);
  for (int64_t i = 0; i < n; i += kLanes) {
    if (n - i >= kLanes) {
      Store(Mul(ValueE4m3(LoadU8(codes + i)), up), out + i);
    } else {
      uint8_t padded[kLanes] = {};
      for (int64_t l = 0; l < n - i; ++l) padded[l] = codes[i + l];
      StoreSome(Mul(ValueE4m3(LoadU8(padded)), up), n - i, out + i);
    }
  }
}

}  // namespace
}  // namespace longshelf::engine
