#include "decimal.h"

#include <algorithm>

#include "common/status.h"

namespace longshelf::grammar {
namespace {

constexpr size_t kDigitsMax = 400;

std::strong_ordering CompareMagnitudes(const Decimal& a, const Decimal& b) {
  if (a.whole.size() != b.whole.size()) return a.whole.size() <=> b.whole.size();
  if (const int order = a.whole.compare(b.whole); order != 0) return order <=> 0;
  return a.fraction.compare(b.fraction) <=> 0;  // without zeros at the end the shorter one is a prefix, or differs
}

}  // namespace

absl::StatusOr<Decimal> Decimal::Parse(std::string_view text) {
  Decimal out;
  out.is_negative = text.starts_with('-');
  if (out.is_negative) text.remove_prefix(1);
  const size_t e = std::min(text.find_first_of("eE"), text.size());
  int64_t exponent = 0;
  if (e < text.size()) {
    std::string_view digits = text.substr(e + 1);
    const bool is_down = digits.starts_with('-');
    if (is_down || digits.starts_with('+')) digits.remove_prefix(1);
    for (const char c : digits) exponent = std::min<int64_t>(exponent * 10 + (c - '0'), int64_t{1} << 20);
    if (is_down) exponent = -exponent;
  }
  std::string_view mantissa = text.substr(0, e);
  const size_t point = std::min(mantissa.find('.'), mantissa.size());
  std::string digits(mantissa.substr(0, point));
  if (point < mantissa.size()) digits += mantissa.substr(point + 1);
  if (digits.find_first_not_of('0') == std::string::npos) return Decimal{};
  int64_t n_whole = static_cast<int64_t>(point) + exponent;
  if (digits.size() > kDigitsMax || n_whole > int64_t{kDigitsMax} || n_whole < -int64_t{kDigitsMax}) {
    return absl::ResourceExhaustedError(absl::StrCat("is a number of more than ", kDigitsMax, " digits"));
  }
  if (n_whole < 0) {
    digits.insert(0, static_cast<size_t>(-n_whole), '0');
    n_whole = 0;
  }
  if (static_cast<size_t>(n_whole) > digits.size()) digits.resize(static_cast<size_t>(n_whole), '0');
  out.whole = digits.substr(0, static_cast<size_t>(n_whole));
  out.fraction = digits.substr(static_cast<size_t>(n_whole));
  out.whole.erase(0, std::min(out.whole.find_first_not_of('0'), out.whole.size()));
  out.fraction.resize(out.fraction.find_last_not_of('0') + 1);
  return out;
}

Decimal Decimal::Negated() const {
  Decimal out = *this;
  out.is_negative = !is_negative && !is_zero();
  return out;
}

std::string Decimal::Text() const {
  std::string out = is_negative ? "-" : "";
  out += whole.empty() ? "0" : whole;
  if (!fraction.empty()) out += "." + fraction;
  return out;
}

std::strong_ordering Decimal::operator<=>(const Decimal& other) const {
  if (is_negative != other.is_negative) return is_negative ? std::strong_ordering::less : std::strong_ordering::greater;
  return is_negative ? CompareMagnitudes(other, *this) : CompareMagnitudes(*this, other);
}

}  // namespace longshelf::grammar
