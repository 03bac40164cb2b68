#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace longshelf::grammar {

// An exact decimal number of a JSON text, without rounding.
struct Decimal {
  bool is_negative = false;  // never of zero
  std::string whole;         // digits before the point, without leading zeros; "" = 0
  std::string fraction;      // digits behind it, without zeros at the end

  // REQUIRES: a JSON number. RESOURCE_EXHAUSTED: it has more digits than anybody writes.
  static absl::StatusOr<Decimal> Parse(std::string_view json_number);
  bool is_zero() const { return whole.empty() && fraction.empty(); }
  bool is_integer() const { return fraction.empty(); }
  Decimal Negated() const;
  std::string Text() const;  // without exponent
  std::strong_ordering operator<=>(const Decimal& other) const;
  bool operator==(const Decimal&) const = default;
};

}  // namespace longshelf::grammar
