#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "decimal.h"

namespace longshelf::grammar {

// Digits that a number which is written may have before its point and behind it.
inline constexpr int kWholeDigitsMax = 18;
inline constexpr int kFractionDigitsMax = 18;

// A set of numbers.
struct NumberSet {
  struct Bound {
    Decimal value;
    bool is_open = false;  // the value itself is not in
    bool operator==(const Bound&) const = default;
  };
  bool has_integers = true;
  bool has_fractions = true;  // what is no integer
  std::optional<Bound> low;
  std::optional<Bound> high;
  std::vector<Decimal> multiples_of;           // of all of them
  std::optional<std::vector<Decimal>> values;  // of these only; sorted

  static NumberSet Of(Decimal value);
  bool operator==(const NumberSet&) const = default;
  // Whatever is known of `other` too. What cannot be is dropped from `values`.
  void Intersect(const NumberSet& other);
  bool Contains(const Decimal& value) const;
  // Certain to have no number. One that has none may be told only by its automaton.
  bool IsPlainlyEmpty() const;
};

// A deterministic automaton over the bytes of JSON numbers. State 0 is the first; every state leads to one that
// accepts; no states: nothing is in the set.
struct NumberDfa {
  struct State {
    bool accepts = false;
    std::vector<std::pair<char, uint32_t>> edges;
  };
  std::vector<State> states;
};

// Of a set without `values`. Each number has one form: without exponent, without zeros at the end of the fraction, no
// "-0"; only where every number is allowed an exponent of one or two digits is, and zeros at the end are. Numbers with
// more digits than kWholeDigitsMax and kFractionDigitsMax are left out. INVALID_ARGUMENT: a multiple that is too large
// to be kept track of.
absl::StatusOr<NumberDfa> MakeNumberDfa(const NumberSet& set);

// The divisor of multipleOf: 0 < p / 10^k, p at most kDivisorMax. Nothing otherwise.
inline constexpr uint64_t kDivisorMax = 1000;
struct Divisor {
  uint64_t p = 1;
  int k = 0;
};
std::optional<Divisor> ToDivisor(const Decimal& value);

}  // namespace longshelf::grammar
