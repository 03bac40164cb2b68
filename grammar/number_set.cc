#include "number_set.h"

#include <algorithm>
#include <array>
#include <map>
#include <tuple>
#include <utility>

#include "common/status.h"

namespace longshelf::grammar {
namespace {

constexpr size_t kStatesMax = 20000;
constexpr size_t kDivisorsMax = 4;

// How what was written compares with a bound, both without their signs.
enum class Order : uint8_t { kLess, kEqual, kMore };

// Follows a magnitude digit by digit beside that of a bound.
class Comparison {
 public:
  explicit Comparison(const Decimal& bound) : bound_(bound) {}

  Order WholeDigit(Order order, int index, char digit) const {
    const auto i = static_cast<size_t>(index);
    return order != Order::kEqual || i >= bound_.whole.size() ? order : Of(digit, bound_.whole[i]);
  }
  // The whole part has ended after n digits.
  Order WholeEnd(Order order, int n) const {
    const auto n_bound = static_cast<int>(bound_.whole.size());
    return n == n_bound ? order : n < n_bound ? Order::kLess : Order::kMore;
  }
  Order FractionDigit(Order order, int index, char digit) const {
    const auto i = static_cast<size_t>(index);
    return order != Order::kEqual ? order : Of(digit, i < bound_.fraction.size() ? bound_.fraction[i] : '0');
  }
  Order FractionEnd(Order order, int n) const {
    return order == Order::kEqual && static_cast<size_t>(n) < bound_.fraction.size() ? Order::kLess : order;
  }

 private:
  static Order Of(char a, char b) { return a < b ? Order::kLess : a > b ? Order::kMore : Order::kEqual; }
  const Decimal& bound_;
};

enum class Phase : uint8_t { kBegin, kSign, kWhole, kPoint, kFraction };

// Where a number is that is being written.
struct At {
  Phase phase = Phase::kBegin;
  bool is_negative = false;
  int n = 0;                  // digits of this part; of the whole part, 0 for "0"
  bool has_fraction = false;  // that is not zero
  bool ends_in_zero = false;
  Order low = Order::kEqual;
  Order high = Order::kEqual;
  std::array<uint64_t, kDivisorsMax> rest{};  // of the digits, by divisor
  auto operator<=>(const At&) const = default;
};

class Machine {
 public:
  explicit Machine(const NumberSet& set, std::vector<Divisor> divisors) : set_(set), divisors_(std::move(divisors)) {}

  std::optional<At> Next(const At& at, char c) const {
    At to = at;
    switch (at.phase) {
      case Phase::kBegin:
        if (c == '-') {
          to.phase = Phase::kSign;
          to.is_negative = true;
          return to;
        }
        return FirstDigit(to, c);
      case Phase::kSign:
        return FirstDigit(to, c);
      case Phase::kWhole:
        if (c == '.') return Point(to);
        if (at.n == 0 || at.n == kWholeDigitsMax || c < '0' || c > '9') return std::nullopt;
        return WholeDigit(to, c);
      case Phase::kPoint:
      case Phase::kFraction:
        return FractionDigit(to, c);
    }
    return std::nullopt;
  }

  bool Accepts(const At& at) const {
    if (at.phase == Phase::kWhole) {
      if (!set_.has_integers || (at.is_negative && at.n == 0)) return false;
      At ended = at;
      EndWhole(ended);
      ended.n = 0;
      return IsWithin(ended) && IsMultiple(ended, 0);
    }
    return at.phase == Phase::kFraction && !at.ends_in_zero && set_.has_fractions && IsWithin(at) &&
           IsMultiple(at, at.n);
  }

 private:
  std::optional<At> FirstDigit(At to, char c) const {
    if (c < '0' || c > '9') return std::nullopt;
    to.phase = Phase::kWhole;
    to.n = 0;
    return c == '0' ? std::optional(to) : WholeDigit(to, c);
  }

  std::optional<At> WholeDigit(At to, char c) const {
    if (set_.low) to.low = Comparison(set_.low->value).WholeDigit(to.low, to.n, c);
    if (set_.high) to.high = Comparison(set_.high->value).WholeDigit(to.high, to.n, c);
    ++to.n;
    AddDigit(to, c);
    return to;
  }

  void EndWhole(At& at) const {
    if (set_.low) at.low = Comparison(set_.low->value).WholeEnd(at.low, at.n);
    if (set_.high) at.high = Comparison(set_.high->value).WholeEnd(at.high, at.n);
  }

  std::optional<At> Point(At to) const {
    if (!set_.has_fractions) return std::nullopt;
    EndWhole(to);
    to.phase = Phase::kPoint;
    to.n = 0;
    return to;
  }

  std::optional<At> FractionDigit(At to, char c) const {
    int n_max = kFractionDigitsMax;
    for (const Divisor& divisor : divisors_) n_max = std::min(n_max, divisor.k);
    if (c < '0' || c > '9' || to.n >= n_max) return std::nullopt;
    if (set_.low) to.low = Comparison(set_.low->value).FractionDigit(to.low, to.n, c);
    if (set_.high) to.high = Comparison(set_.high->value).FractionDigit(to.high, to.n, c);
    to.phase = Phase::kFraction;
    ++to.n;
    to.ends_in_zero = c == '0';
    AddDigit(to, c);
    return to;
  }

  void AddDigit(At& at, char c) const {
    for (size_t i = 0; i < divisors_.size(); ++i) {
      at.rest[i] = (at.rest[i] * 10 + static_cast<uint64_t>(c - '0')) % divisors_[i].p;
    }
  }

  // The digits as a whole number of units of 10^-k divide by p.
  bool IsMultiple(const At& at, int n_fraction) const {
    for (size_t i = 0; i < divisors_.size(); ++i) {
      uint64_t rest = at.rest[i];
      for (int k = n_fraction; k < divisors_[i].k; ++k) rest = rest * 10 % divisors_[i].p;
      if (rest != 0) return false;
    }
    return true;
  }

  bool IsWithin(const At& at) const {
    const auto side = [&at](const std::optional<NumberSet::Bound>& bound, Order order) {
      const bool is_zero_bound = bound->value.is_zero();
      if (at.is_negative != bound->value.is_negative && !(is_zero_bound && order == Order::kEqual)) {
        return at.is_negative ? Order::kLess : Order::kMore;
      }
      if (order == Order::kEqual) return order;
      return (order == Order::kLess) != at.is_negative ? Order::kLess : Order::kMore;
    };
    const auto end = [&at](const std::optional<NumberSet::Bound>& bound, Order order) {
      return Comparison(bound->value).FractionEnd(order, at.phase == Phase::kFraction ? at.n : 0);
    };
    if (set_.low) {
      const Order order = side(set_.low, end(set_.low, at.low));
      if (order == Order::kLess || (order == Order::kEqual && set_.low->is_open)) return false;
    }
    if (set_.high) {
      const Order order = side(set_.high, end(set_.high, at.high));
      if (order == Order::kMore || (order == Order::kEqual && set_.high->is_open)) return false;
    }
    return true;
  }

  const NumberSet& set_;
  const std::vector<Divisor> divisors_;
};

// Drops what leads nowhere.
void Trim(NumberDfa& dfa) {
  std::vector<std::vector<uint32_t>> from(dfa.states.size());
  std::vector<uint32_t> todo;
  for (uint32_t i = 0; i < dfa.states.size(); ++i) {
    for (const auto& [c, to] : dfa.states[i].edges) from[to].push_back(i);
    if (dfa.states[i].accepts) todo.push_back(i);
  }
  std::vector<bool> is_live(dfa.states.size(), false);
  while (!todo.empty()) {
    const uint32_t at = todo.back();
    todo.pop_back();
    if (is_live[at]) continue;
    is_live[at] = true;
    todo.insert(todo.end(), from[at].begin(), from[at].end());
  }
  if (dfa.states.empty() || !is_live[0]) {
    dfa.states.clear();
    return;
  }
  std::vector<uint32_t> number(dfa.states.size());
  NumberDfa out;
  for (uint32_t i = 0; i < dfa.states.size(); ++i) {
    number[i] = static_cast<uint32_t>(out.states.size());
    if (is_live[i]) out.states.push_back(std::move(dfa.states[i]));
  }
  for (NumberDfa::State& state : out.states) {
    std::erase_if(state.edges, [&](const auto& edge) { return !is_live[edge.second]; });
    for (auto& [c, to] : state.edges) to = number[to];
  }
  dfa = std::move(out);
}

// Any number: -? digits (. digits)? ([eE] [+-]? digit digit?)?
NumberDfa AnyNumber() {
  NumberDfa dfa;
  const auto add = [&dfa](bool accepts) {
    dfa.states.push_back({accepts, {}});
    return static_cast<uint32_t>(dfa.states.size() - 1);
  };
  const auto edge = [&dfa](uint32_t from, std::string_view chars, uint32_t to) {
    for (const char c : chars) dfa.states[from].edges.emplace_back(c, to);
  };
  constexpr std::string_view kDigits = "0123456789";
  const uint32_t begin = add(false);
  const uint32_t sign = add(false);
  const uint32_t point = add(false);
  const uint32_t exponent = add(false);
  const uint32_t exponent_sign = add(false);
  const uint32_t exponent_1 = add(true);
  const uint32_t exponent_2 = add(true);
  const uint32_t zero = add(true);
  const uint32_t minus_zero = add(false);
  edge(begin, "-", sign);
  edge(begin, "0", zero);
  edge(sign, "0", minus_zero);
  const auto leave = [&](uint32_t from) {
    edge(from, ".", point);
    edge(from, "eE", exponent);
  };
  leave(zero);
  edge(minus_zero, ".", point);
  uint32_t last = add(true);
  edge(begin, kDigits.substr(1), last);
  edge(sign, kDigits.substr(1), last);
  leave(last);
  for (int i = 1; i < kWholeDigitsMax; ++i) {
    const uint32_t next = add(true);
    edge(last, kDigits, next);
    leave(next);
    last = next;
  }
  last = point;
  for (int i = 0; i < kFractionDigitsMax; ++i) {
    const uint32_t next = add(true);
    edge(last, kDigits, next);
    edge(next, "eE", exponent);
    last = next;
  }
  edge(exponent, "+-", exponent_sign);
  edge(exponent, kDigits, exponent_1);
  edge(exponent_sign, kDigits, exponent_1);
  edge(exponent_1, kDigits, exponent_2);
  return dfa;
}

// Another one takes the place of `own` when it keeps more out.
void Tighten(std::optional<NumberSet::Bound>& own, const std::optional<NumberSet::Bound>& other, bool is_low) {
  if (!other) return;
  const bool is_equal = own && own->value == other->value;
  if (is_equal) {
    own->is_open = own->is_open || other->is_open;
  } else if (!own || (is_low ? other->value > own->value : other->value < own->value)) {
    own = other;
  }
}

}  // namespace

NumberSet NumberSet::Of(Decimal value) {
  NumberSet set;
  set.values = {std::move(value)};
  return set;
}

bool NumberSet::Contains(const Decimal& value) const {
  if (value.is_integer() ? !has_integers : !has_fractions) return false;
  if (low && (value < low->value || (low->is_open && value == low->value))) return false;
  if (high && (value > high->value || (high->is_open && value == high->value))) return false;
  for (const Decimal& multiple : multiples_of) {
    const std::optional<Divisor> divisor = ToDivisor(multiple);
    if (!divisor || value.fraction.size() > static_cast<size_t>(divisor->k)) return false;
    uint64_t rest = 0;
    for (const char c : value.whole) rest = (rest * 10 + static_cast<uint64_t>(c - '0')) % divisor->p;
    for (size_t i = 0; i < static_cast<size_t>(divisor->k); ++i) {
      const char c = i < value.fraction.size() ? value.fraction[i] : '0';
      rest = (rest * 10 + static_cast<uint64_t>(c - '0')) % divisor->p;
    }
    if (rest != 0) return false;
  }
  return !values || std::binary_search(values->begin(), values->end(), value);
}

void NumberSet::Intersect(const NumberSet& other) {
  has_integers = has_integers && other.has_integers;
  has_fractions = has_fractions && other.has_fractions;
  Tighten(low, other.low, /*is_low=*/true);
  Tighten(high, other.high, /*is_low=*/false);
  for (const Decimal& multiple : other.multiples_of) {
    if (std::find(multiples_of.begin(), multiples_of.end(), multiple) == multiples_of.end()) {
      multiples_of.push_back(multiple);
    }
  }
  std::optional<std::vector<Decimal>> listed = values ? std::move(values) : other.values;
  values.reset();
  if (!listed) return;
  std::erase_if(*listed, [&](const Decimal& value) { return !Contains(value) || !other.Contains(value); });
  // The list says it all.
  *this = NumberSet();
  values = std::move(listed);
}

bool NumberSet::IsPlainlyEmpty() const {
  if (values) return values->empty();
  if (!has_integers && !has_fractions) return true;
  if (!low || !high) return false;
  return low->value > high->value || (low->value == high->value && (low->is_open || high->is_open));
}

std::optional<Divisor> ToDivisor(const Decimal& value) {
  if (value.is_negative || value.is_zero() || value.fraction.size() > kFractionDigitsMax) return std::nullopt;
  Divisor divisor{0, static_cast<int>(value.fraction.size())};
  for (const char c : value.whole + value.fraction) {
    divisor.p = divisor.p * 10 + static_cast<uint64_t>(c - '0');
    if (divisor.p > kDivisorMax) return std::nullopt;
  }
  return divisor;
}

absl::StatusOr<NumberDfa> MakeNumberDfa(const NumberSet& set) {
  if (set == NumberSet()) return AnyNumber();
  std::vector<Divisor> divisors;
  for (const Decimal& multiple : set.multiples_of) {
    const std::optional<Divisor> divisor = ToDivisor(multiple);
    if (!divisor || divisors.size() == kDivisorsMax) {
      return absl::InvalidArgumentError(absl::StrCat("multipleOf can be at most ", kDivisorsMax,
                                                     " numbers of at most 3 digits beside zeros behind the point"));
    }
    divisors.push_back(*divisor);
  }
  const Machine machine(set, divisors);
  NumberDfa dfa;
  std::vector<At> places;
  std::map<At, uint32_t> ids;
  const auto intern = [&](const At& at) {
    const auto [it, is_new] = ids.try_emplace(at, static_cast<uint32_t>(places.size()));
    if (is_new) places.push_back(at);
    return it->second;
  };
  intern({});
  for (size_t i = 0; i < places.size(); ++i) {
    if (places.size() > kStatesMax) return absl::ResourceExhaustedError("takes too many states");
    const At at = places[i];
    NumberDfa::State state;
    state.accepts = machine.Accepts(at);
    for (const char c : std::string_view("-.0123456789")) {
      if (const std::optional<At> to = machine.Next(at, c)) state.edges.emplace_back(c, intern(*to));
    }
    dfa.states.push_back(std::move(state));
  }
  Trim(dfa);
  return dfa;
}

}  // namespace longshelf::grammar
