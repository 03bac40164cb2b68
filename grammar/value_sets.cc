#include "value_sets.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace longshelf::grammar {
namespace {

bool IsSame(const CharDfaPtr& a, const CharDfaPtr& b) { return a == b || (a != nullptr && b != nullptr && *a == *b); }

template <typename T>
void Unite(std::vector<T> values, std::optional<std::vector<T>>& into) {
  if (!into) into.emplace();
  into->insert(into->end(), std::make_move_iterator(values.begin()), std::make_move_iterator(values.end()));
}

template <typename T>
void SortUnique(std::vector<T>& values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
}

bool IsPlainlyEmpty(const Alternative& alternative) {
  if (const auto* number = std::get_if<NumberSet>(&alternative)) return number->IsPlainlyEmpty();
  if (const auto* array = std::get_if<ArraySet>(&alternative)) return array->min > array->max;
  if (const auto* object = std::get_if<ObjectSet>(&alternative)) return object->min > object->max;
  if (const auto* string = std::get_if<StringSet>(&alternative)) {
    if (string->values) return string->values->empty();
    return string->min > string->max || (string->chars != nullptr && string->chars->empty());
  }
  return false;
}

}  // namespace

bool StringSet::operator==(const StringSet& other) const {
  return min == other.min && max == other.max && values == other.values && IsSame(chars, other.chars);
}

bool ObjectSet::NameClass::operator==(const NameClass& other) const {
  return value == other.value && IsSame(names, other.names);
}

Alternatives AllValues(NodeId any) {
  ArraySet array;
  array.rest = any;
  ObjectSet object;
  object.rest.push_back({nullptr, any});
  return {LiteralSet(), NumberSet(), StringSet(), std::move(array), std::move(object)};
}

void Simplify(Alternatives& alternatives) {
  LiteralSet literals{false, false, false};
  std::optional<std::vector<Decimal>> numbers;
  std::optional<std::vector<std::string>> strings;
  Alternatives out;
  for (Alternative& each : alternatives) {
    if (const auto* literal = std::get_if<LiteralSet>(&each)) {
      literals.has_null = literals.has_null || literal->has_null;
      literals.has_true = literals.has_true || literal->has_true;
      literals.has_false = literals.has_false || literal->has_false;
      continue;
    }
    if (auto* number = std::get_if<NumberSet>(&each); number != nullptr && number->values) {
      Unite(*std::move(number->values), numbers);
      continue;
    }
    if (auto* string = std::get_if<StringSet>(&each); string != nullptr && string->values) {
      Unite(*std::move(string->values), strings);
      continue;
    }
    if (IsPlainlyEmpty(each) || std::find(out.begin(), out.end(), each) != out.end()) continue;
    out.push_back(std::move(each));
  }
  if (!literals.empty()) out.emplace_back(literals);
  if (numbers && !numbers->empty()) {
    SortUnique(*numbers);
    NumberSet set;
    set.values = std::move(numbers);
    out.emplace_back(std::move(set));
  }
  if (strings && !strings->empty()) {
    SortUnique(*strings);
    StringSet set;
    set.values = std::move(strings);
    out.emplace_back(std::move(set));
  }
  alternatives = std::move(out);
}

}  // namespace longshelf::grammar
