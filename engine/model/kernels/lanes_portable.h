#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

// Sixteen fp32 or int32 lanes in plain C++: what every other set of lanes must compute, bit for bit. Nothing here is
// contracted or reordered; only Fma fuses.
namespace longshelf::engine {
namespace {

struct F {
  float v[16];
};
struct I {
  int32_t v[16];
};
using Mask = I;  // all bits or none, per lane

template <typename To, typename Fn>
inline To Lanewise(const Fn& fn) {
  To out;
  for (int l = 0; l < 16; ++l) out.v[l] = fn(l);
  return out;
}

inline F Load(const float* p) {
  return Lanewise<F>([&](int l) { return p[l]; });
}
inline void Store(const F& a, float* p) {
  for (int l = 0; l < 16; ++l) p[l] = a.v[l];
}
inline F Set(float x) {
  return Lanewise<F>([&](int) { return x; });
}
inline F Zero() { return Set(0.0F); }
inline F Add(const F& a, const F& b) {
  return Lanewise<F>([&](int l) { return a.v[l] + b.v[l]; });
}
inline F Sub(const F& a, const F& b) {
  return Lanewise<F>([&](int l) { return a.v[l] - b.v[l]; });
}
inline F Mul(const F& a, const F& b) {
  return Lanewise<F>([&](int l) { return a.v[l] * b.v[l]; });
}
inline F Div(const F& a, const F& b) {
  return Lanewise<F>([&](int l) { return a.v[l] / b.v[l]; });
}
// a * b + c, rounded once.
inline F Fma(const F& a, const F& b, const F& c) {
  return Lanewise<F>([&](int l) { return std::fma(a.v[l], b.v[l], c.v[l]); });
}
// The second operand where the two are equal or either is NaN.
inline F Max(const F& a, const F& b) {
  return Lanewise<F>([&](int l) { return a.v[l] > b.v[l] ? a.v[l] : b.v[l]; });
}
inline F Min(const F& a, const F& b) {
  return Lanewise<F>([&](int l) { return a.v[l] < b.v[l] ? a.v[l] : b.v[l]; });
}
// To even on ties.
inline F NearestInteger(const F& a) {
  return Lanewise<F>([&](int l) { return std::nearbyint(a.v[l]); });
}

inline I SetI(int32_t x) {
  return Lanewise<I>([&](int) { return x; });
}
inline I LoadI(const int32_t* p) {
  return Lanewise<I>([&](int l) { return p[l]; });
}
inline void StoreI(const I& a, int32_t* p) {
  for (int l = 0; l < 16; ++l) p[l] = a.v[l];
}
inline int32_t Wrap(uint32_t x) { return static_cast<int32_t>(x); }
inline uint32_t Word(int32_t x) { return static_cast<uint32_t>(x); }
inline I AddI(const I& a, const I& b) {
  return Lanewise<I>([&](int l) { return Wrap(Word(a.v[l]) + Word(b.v[l])); });
}
inline I SubI(const I& a, const I& b) {
  return Lanewise<I>([&](int l) { return Wrap(Word(a.v[l]) - Word(b.v[l])); });
}
inline I AndI(const I& a, const I& b) {
  return Lanewise<I>([&](int l) { return a.v[l] & b.v[l]; });
}
inline I OrI(const I& a, const I& b) {
  return Lanewise<I>([&](int l) { return a.v[l] | b.v[l]; });
}
template <int kBits>
inline I Shl(const I& a) {
  return Lanewise<I>([&](int l) { return Wrap(Word(a.v[l]) << kBits); });
}
template <int kBits>
inline I Shr(const I& a) {
  return Lanewise<I>([&](int l) { return Wrap(Word(a.v[l]) >> kBits); });
}
inline I MaxI(const I& a, const I& b) {
  return Lanewise<I>([&](int l) { return a.v[l] > b.v[l] ? a.v[l] : b.v[l]; });
}
inline I MinI(const I& a, const I& b) {
  return Lanewise<I>([&](int l) { return a.v[l] < b.v[l] ? a.v[l] : b.v[l]; });
}
// Towards minus infinity.
inline I HalfI(const I& a) {
  return Lanewise<I>([&](int l) { return a.v[l] >> 1; });
}
// Of integral values that fit.
inline I ToInt(const F& a) {
  return Lanewise<I>([&](int l) { return static_cast<int32_t>(a.v[l]); });
}
inline F FromInt(const I& a) {
  return Lanewise<F>([&](int l) { return static_cast<float>(a.v[l]); });
}
inline I Bits(const F& a) {
  return Lanewise<I>([&](int l) { return std::bit_cast<int32_t>(a.v[l]); });
}
inline F OfBits(const I& a) {
  return Lanewise<F>([&](int l) { return std::bit_cast<float>(a.v[l]); });
}

inline Mask Less(const F& a, const F& b) {
  return Lanewise<I>([&](int l) { return a.v[l] < b.v[l] ? -1 : 0; });
}
inline Mask LessI(const I& a, const I& b) {
  return Lanewise<I>([&](int l) { return a.v[l] < b.v[l] ? -1 : 0; });
}
// Bit l: lane l.
inline uint32_t LaneBits(const Mask& m) {
  uint32_t bits = 0;
  for (uint32_t l = 0; l < 16; ++l) bits |= (m.v[l] != 0 ? 1U : 0U) << l;
  return bits;
}
inline Mask IsNan(const F& a) {
  return Lanewise<I>([&](int l) { return a.v[l] != a.v[l] ? -1 : 0; });
}
// a where the mask is set, b elsewhere.
inline F Select(const Mask& m, const F& a, const F& b) {
  return Lanewise<F>([&](int l) { return m.v[l] != 0 ? a.v[l] : b.v[l]; });
}
inline I SelectI(const Mask& m, const I& a, const I& b) {
  return Lanewise<I>([&](int l) { return m.v[l] != 0 ? a.v[l] : b.v[l]; });
}

inline I LoadU8(const uint8_t* p) {
  return Lanewise<I>([&](int l) { return static_cast<int32_t>(p[l]); });
}
inline I LoadU16(const uint16_t* p) {
  return Lanewise<I>([&](int l) { return static_cast<int32_t>(p[l]); });
}
// Values that fit.
inline void StoreU8(const I& a, uint8_t* p) {
  for (int l = 0; l < 16; ++l) p[l] = static_cast<uint8_t>(a.v[l]);
}
inline void StoreU16(const I& a, uint16_t* p) {
  for (int l = 0; l < 16; ++l) p[l] = static_cast<uint16_t>(a.v[l]);
}

// Of the 32 values a, b: lane l takes value 2l + 1, and 2l.
inline F OddOf(const F& a, const F& b) {
  return Lanewise<F>([&](int l) { return l < 8 ? a.v[2 * l + 1] : b.v[2 * l - 15]; });
}
inline F EvenOf(const F& a, const F& b) {
  return Lanewise<F>([&](int l) { return l < 8 ? a.v[2 * l] : b.v[2 * l - 16]; });
}
// The inverse.
inline void Interleave(const F& odd, const F& even, F* first, F* second) {
  for (int l = 0; l < 8; ++l) {
    first->v[2 * l] = even.v[l];
    first->v[2 * l + 1] = odd.v[l];
    second->v[2 * l] = even.v[l + 8];
    second->v[2 * l + 1] = odd.v[l + 8];
  }
}

// The one tree that sums sixteen lanes: l with l + 8, then l + 4, l + 2, l + 1.
inline float Fold(F a) {
  for (int half = 8; half >= 1; half /= 2) {
    for (int l = 0; l < half; ++l) a.v[l] = a.v[l] + a.v[l + half];
  }
  return a.v[0];
}

}  // namespace
}  // namespace longshelf::engine
