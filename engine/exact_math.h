#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <initializer_list>

namespace longshelf::engine {

// exp and log as fixed steps of IEEE double arithmetic, the same bits on every machine: libm picks another routine by
// processor, and a token that is sampled on one worker must be sampled on every other. Within 2 units in the last
// place.

// e^x for x <= 0; below -708 it is 0.
inline double ExactExp(double x) {
  if (!(x >= -708.0)) return 0.0;
  constexpr double kLog2E = 0x1.71547652b82fep+0;
  constexpr double kLn2High = 0x1.62e42fee00000p-1;  // its last bits are 0: times a power it is exact
  constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
  constexpr double kRound = 0x1.8p52;  // adding and taking it away rounds to an integer
  const double k = (x * kLog2E + kRound) - kRound;
  const double r = (x - k * kLn2High) - k * kLn2Low;
  // Taylor: |r| <= ln(2) / 2, so the first term left out is below 1e-17.
  double sum = 1.0 / 6227020800.0;
  for (const double inverse : {1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0,
                               1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0}) {
    sum = sum * r + inverse;
  }
  // k >= -1022: the power is a normal number.
  return sum * std::bit_cast<double>(static_cast<uint64_t>(static_cast<int64_t>(k) + 1023) << 52);
}

// log x for finite x >= 1, by Newton's method on ExactExp.
inline double ExactLog(double x) {
  int exponent = 0;
  const double m = std::frexp(x, &exponent);  // [0.5, 1); exact
  double y = m - 1.0;                         // of log m, in [-0.7, 0]
  for (int i = 0; i < 5; ++i) {
    const double e = ExactExp(y);
    y += 2.0 * (m - e) / (m + e);  // cubic
  }
  return y + exponent * 0x1.62e42fefa39efp-1;
}

}  // namespace longshelf::engine
