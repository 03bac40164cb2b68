#pragma once

#include "prefetch.h"
#include "rows.h"

// Rows of stored weights as odd and even columns, 32 columns at a time. Enter(s) comes before the first Load of each
// run of four steps that starts at a multiple of four; Ask<n> comes before every Load, for the first of n rows that lie
// one after another. Include the weights header of an instruction set first.
namespace longshelf::engine {
namespace {

struct DecodedSplit {
  const float* values;
  template <int kRows>
  void Ask(int64_t) const {}
  void Enter(int64_t) {}
  void Load(int64_t step, F* odd, F* even) const {
    *odd = longshelf::engine::Load(values + step * kStepColumns);
    *even = longshelf::engine::Load(values + step * kStepColumns + kLanes);
  }
};

struct Bf16Row {
  static constexpr int64_t kStepBytes = 64;
  const uint16_t* values;
  Bf16Row(const Matrix& w, int64_t row) : values(reinterpret_cast<const uint16_t*>(w.data) + row * w.cols) {}
  template <int kRows>
  void Ask(int64_t step) const {
    PrefetchTile<kRows, kStepBytes>(reinterpret_cast<const uint8_t*>(values), step);
  }
  void Enter(int64_t) {}
  void Load(int64_t step, F* odd, F* even) const { SplitWords(LoadWords(values + step * kStepColumns), odd, even); }
};

struct F32Row {
  static constexpr int64_t kStepBytes = 128;
  const float* values;
  F32Row(const Matrix& w, int64_t row) : values(reinterpret_cast<const float*>(w.data) + row * w.cols) {}
  template <int kRows>
  void Ask(int64_t step) const {
    PrefetchTile<kRows, kStepBytes>(reinterpret_cast<const uint8_t*>(values), step);
  }
  void Enter(int64_t) {}
  void Load(int64_t step, F* odd, F* even) const {
    const F a = longshelf::engine::Load(values + step * kStepColumns);
    const F b = longshelf::engine::Load(values + step * kStepColumns + kLanes);
    *odd = OddOf(a, b);
    *even = EvenOf(a, b);
  }
};

// Without the scale, for operands that it went into (ScaleOperands).
struct UnscaledFp8Row {
  static constexpr int64_t kStepBytes = 32;
  const uint8_t* codes;
  UnscaledFp8Row(const Matrix& w, int64_t row) : codes(w.data + row * w.cols) {}
  template <int kRows>
  void Ask(int64_t step) const {
    PrefetchTile<kRows, kStepBytes>(codes, step);
  }
  void Enter(int64_t) {}
  void Load(int64_t step, F* odd, F* even) const { SplitWords(WordsOfE4m3(codes + step * kStepColumns), odd, even); }
};

struct Fp8Row {
  static constexpr int64_t kStepBytes = 32;
  UnscaledFp8Row unscaled;
  const uint8_t* scales;
  float scale = 1.0F;
  Fp8Row(const Matrix& w, int64_t row) : unscaled(w, row), scales(w.scale + row / 128 * w.scale_cols) {}
  template <int kRows>
  void Ask(int64_t step) const {
    PrefetchTile<kRows, kStepBytes>(unscaled.codes, step);
  }
  void Enter(int64_t step) { scale = E8m0ToFloat(scales[step / 4]); }
  void Load(int64_t step, F* odd, F* even) const {
    unscaled.Load(step, odd, even);
    *odd = Mul(*odd, Set(scale));
    *even = Mul(*even, Set(scale));
  }
};

struct Fp4Row {
  static constexpr int64_t kStepBytes = 16;
  const uint8_t* codes;
  const uint8_t* scales;
  Fp4Row(const Matrix& w, int64_t row) : codes(w.data + row * (w.cols / 2)), scales(w.scale + row * w.scale_cols) {}
  template <int kRows>
  void Ask(int64_t step) const {
    PrefetchTile<kRows, kStepBytes>(codes, step);
  }
  void Enter(int64_t) {}
  void Load(int64_t step, F* odd, F* even) const {
    SplitE2m1(codes + step * (kStepColumns / 2), scales[step], odd, even);
  }
};

// out = x times the scale of each 128 columns; false when a product is not exact. Operands in split form.
inline bool ScaleOperands(const float* x, const uint8_t* scales, int64_t columns, float* out) {
  I lost = SetI(0);
  for (int64_t c = 0; c < columns; c += kLanes) {
    const uint8_t code = scales[c / 128];
    // The weights' own products, of 2^-9 to 448, must be exact as well.
    if (code < 10 || code > 245) return false;
    const F value = Load(x + c);
    const F scaled = Mul(value, Set(E8m0ToFloat(code)));
    // Times the inverse it is the same again unless it has become zero or infinite.
    const F back = Mul(scaled, Set(E8m0ToFloat(static_cast<uint8_t>(254 - code))));
    lost = OrI(lost, SelectI(Less(back, value), SetI(1), SelectI(Less(value, back), SetI(1), SetI(0))));
    Store(scaled, out + c);
  }
  int32_t lanes[kLanes];
  StoreI(lost, lanes);
  int32_t any = 0;
  for (const int32_t lane : lanes) any |= lane;
  return any == 0;
}

}  // namespace
}  // namespace longshelf::engine
