#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "formats.h"
#include "kernel_table.h"

// Operations on rows of fp32, written once over sixteen lanes and compiled with every table. Include a lanes header
// first.
// Tiles live in registers only when the loops over their rows are gone.
#define LONGSHELF_UNROLL _Pragma("GCC unroll 16")

namespace longshelf::engine {
namespace {

constexpr int64_t kLanes = 16;

inline int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }

// The next up to sixteen values; missing ones are zero.
inline F LoadSome(const float* p, int64_t n) {
  if (n >= kLanes) return Load(p);
  float padded[kLanes] = {};
  for (int64_t l = 0; l < n; ++l) padded[l] = p[l];
  return Load(padded);
}
inline void StoreSome(F a, int64_t n, float* p) {
  if (n >= kLanes) return Store(a, p);
  float padded[kLanes];
  Store(a, padded);
  for (int64_t l = 0; l < n; ++l) p[l] = padded[l];
}

// out[i] = fn(i, lanes of x from i on) for whole rows.
template <typename Fn>
inline void MapRow(const float* x, int64_t n, float* out, const Fn& fn) {
  for (int64_t i = 0; i < n; i += kLanes) StoreSome(fn(i, LoadSome(x + i, n - i)), n - i, out + i);
}

inline F Magnitude(F x) { return OfBits(AndI(Bits(x), SetI(0x7FFFFFFF))); }
inline I SignOf(F x) { return AndI(Bits(x), SetI(std::numeric_limits<int32_t>::min())); }

// To nearest even, NaN stays NaN.
inline F RoundToBf16(F x) {
  const I bits = Bits(x);
  const I upper = SetI(static_cast<int32_t>(0xFFFF0000U));
  const I odd = AndI(Shr<16>(bits), SetI(1));
  const I rounded = AndI(AddI(AddI(bits, SetI(0x7FFF)), odd), upper);
  return OfBits(SelectI(IsNan(x), OrI(AndI(bits, upper), SetI(0x00400000)), rounded));
}
inline F RoundIf(bool round, F x) { return round ? RoundToBf16(x) : x; }

inline F PowerOfTwo(I exponent) { return OfBits(Shl<23>(AddI(exponent, SetI(127)))); }

// The steps of ExpFp32 (elementary.h).
inline F Exp(F x) {
  const F clamped = Min(Max(x, Set(-104.0F)), Set(88.72F));
  const F q = NearestInteger(Mul(clamped, Set(1.44269504088896340736F)));
  F r = Fma(q, Set(-0.693145751953125F), clamped);
  r = Fma(q, Set(-1.428606765330187045e-06F), r);
  F p = Set(0.000198527617612853646F);
  p = Fma(p, r, Set(0.00139304355252534151F));
  p = Fma(p, r, Set(0.00833336077630519867F));
  p = Fma(p, r, Set(0.0416664853692054749F));
  p = Fma(p, r, Set(0.166666671633720398F));
  p = Fma(p, r, Set(0.5F));
  p = Add(Set(1.0F), Fma(Mul(r, r), p, r));
  const I exponent = ToInt(q);
  const I half = HalfI(exponent);
  F result = Mul(Mul(p, PowerOfTwo(half)), PowerOfTwo(SubI(exponent, half)));
  result = Select(Less(Set(88.72F), x), Set(std::numeric_limits<float>::infinity()), result);
  result = Select(Less(Set(-104.0F), x), result, Zero());
  return Select(IsNan(x), x, result);
}

inline F Negated(F x) { return Sub(Set(-0.0F), x); }
inline F Silu(F x) { return Div(x, Add(Set(1.0F), Exp(Negated(x)))); }

// The largest lane.
inline float Largest(F a) {
  float lanes[kLanes];
  Store(a, lanes);
  float largest = lanes[0];
  for (int l = 1; l < kLanes; ++l) largest = lanes[l] > largest ? lanes[l] : largest;
  return largest;
}

// Calls add(lanes) with the odd, then the even columns of every step; missing ones are zero.
template <typename Add>
inline void ForSteps(const float* x, int64_t n, const Add& add) {
  for (int64_t i = 0; i < n; i += kStepColumns) {
    const F a = LoadSome(x + i, n - i);
    const F b = n - i > kLanes ? LoadSome(x + i + kLanes, n - i - kLanes) : Zero();
    add(OddOf(a, b));
    add(EvenOf(a, b));
  }
}

float SumSquares(const float* x, int64_t n) {
  F sum = Zero();
  ForSteps(x, n, [&](F v) { sum = Fma(v, v, sum); });
  return Fold(sum);
}

float SumRoundedSquares(const float* x, int64_t n) {
  F sum = Zero();
  ForSteps(x, n, [&](F v) { sum = Add(sum, RoundToBf16(Mul(v, v))); });
  return Fold(sum);
}

void ScaleRow(const float* x, const float* w, float r, int64_t n, bool round, float* out) {
  const F factor = Set(r);
  MapRow(x, n, out, [&](int64_t i, F v) {
    const F scaled = Mul(v, factor);
    return RoundIf(round, w == nullptr ? scaled : Mul(LoadSome(w + i, n - i), scaled));
  });
}

void RoundRow(float* x, int64_t n) {
  MapRow(x, n, x, [](int64_t, F v) { return RoundToBf16(v); });
}

void Rotate(float* x, const float* cos, const float* sin, int64_t n_pairs, bool inverse, bool round) {
  for (int64_t i = 0; i < n_pairs; i += kLanes) {
    const int64_t n = Least(kLanes, n_pairs - i);
    float* pair = x + 2 * i;
    const F first = LoadSome(pair, 2 * n);
    const F second = n > 8 ? LoadSome(pair + kLanes, 2 * n - kLanes) : Zero();
    const F a = EvenOf(first, second);
    const F b = OddOf(first, second);
    const F c = LoadSome(cos + i, n);
    const F s = LoadSome(sin + i, n);
    const F bs = Mul(b, s);
    const F as = Mul(a, s);
    const F even = inverse ? Add(Mul(a, c), bs) : Sub(Mul(a, c), bs);
    const F odd = inverse ? Sub(Mul(b, c), as) : Add(as, Mul(b, c));
    F low;
    F high;
    Interleave(RoundIf(round, odd), RoundIf(round, even), &low, &high);
    StoreSome(low, 2 * n, pair);
    if (n > 8) StoreSome(high, 2 * n - kLanes, pair + kLanes);
  }
}

void MixRows(const float* weights, int64_t weight_stride, const float* rows, int64_t row_stride, int64_t n_rows,
             const float* z, float z_weight, int64_t n, bool round, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    F sum = z == nullptr ? Zero() : Mul(Set(z_weight), LoadSome(z + i, n - i));
    for (int64_t j = 0; j < n_rows; ++j) {
      sum = Fma(Set(weights[j * weight_stride]), LoadSome(rows + j * row_stride + i, n - i), sum);
    }
    StoreSome(RoundIf(round, sum), n - i, out + i);
  }
}

void SwiGlu(float* a, const float* b, int64_t n, float limit, float weight, bool round) {
  const bool clamps = limit > 0.0F;
  MapRow(a, n, a, [&](int64_t i, F gate) {
    F up = LoadSome(b + i, n - i);
    if (clamps) {
      gate = Min(gate, Set(limit));
      up = Max(Min(up, Set(limit)), Set(-limit));
    }
    return RoundIf(round, Mul(Set(weight), Mul(Silu(gate), up)));
  });
}

void AddRow(const float* x, int64_t n, float* y) {
  MapRow(y, n, y, [&](int64_t i, F sum) { return Add(sum, LoadSome(x + i, n - i)); });
}

void Pool(const float* const* a, const float* const* g, int64_t n, int64_t width, float* out) {
  for (int64_t c = 0; c < width; c += kLanes) {
    const int64_t rest = width - c;
    F largest = LoadSome(g[0] + c, rest);
    for (int64_t i = 1; i < n; ++i) largest = Max(LoadSome(g[i] + c, rest), largest);
    F sum = Zero();
    for (int64_t i = 0; i < n; ++i) sum = Add(sum, Exp(Sub(LoadSome(g[i] + c, rest), largest)));
    // Sums of 16, then their sum: a chain of 128 roundings would show in the stored entry.
    F value = Zero();
    F part = Zero();
    for (int64_t i = 0; i < n; ++i) {
      const F weight = Div(Exp(Sub(LoadSome(g[i] + c, rest), largest)), sum);
      part = Fma(weight, LoadSome(a[i] + c, rest), part);
      if (i % 16 == 15) {
        value = Add(value, part);
        part = Zero();
      }
    }
    StoreSome(Add(value, part), rest, out + c);
  }
}

void EncodeBf16Row(const float* x, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const I bits = Shr<16>(Bits(RoundToBf16(LoadSome(x + i, n - i))));
    if (n - i >= kLanes) {
      StoreU16(bits, out + i);
    } else {
      uint16_t padded[kLanes];
      StoreU16(bits, padded);
      for (int64_t l = 0; l < n - i; ++l) out[i + l] = padded[l];
    }
  }
}

void DecodeBf16Row(const uint16_t* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    if (n - i >= kLanes) {
      Store(OfBits(Shl<16>(LoadU16(x + i))), out + i);
    } else {
      for (int64_t l = i; l < n; ++l) out[l] = Bf16ToFloat(x[l]);
    }
  }
}

// One step of an operand in split form.
inline void PackSplit(const float* x, int64_t columns, float* out) {
  for (int64_t i = 0; i < columns; i += kStepColumns) {
    const F a = LoadSome(x + i, columns - i);
    const F b = columns - i > kLanes ? LoadSome(x + i + kLanes, columns - i - kLanes) : Zero();
    Store(OddOf(a, b), out + i);
    Store(EvenOf(a, b), out + i + kLanes);
  }
}

void Pack(const float* x, int64_t columns, Operand form, std::byte* out) {
  if (form == Operand::kSplit) return PackSplit(x, columns, reinterpret_cast<float*>(out));
  auto* words = reinterpret_cast<uint16_t*>(out);
  for (int64_t i = 0; i < RoundUpToStep(columns); i += kLanes) {
    StoreU16(Shr<16>(Bits(i < columns ? LoadSome(x + i, columns - i) : Zero())), words + i);
  }
}

}  // namespace
}  // namespace longshelf::engine
