// What keywords say about values of one type: type, const, enum, and those of numbers and strings.
#include <algorithm>
#include <array>
#include <utility>

#include "formats.h"
#include "pattern.h"
#include "schema_nodes.h"
#include "schema_nodes_impl.h"

namespace longshelf::grammar {
namespace {

using JsonKind = SchemaTree::JsonKind;

constexpr std::array<std::string_view, 7> kTypes = {"null",   "boolean", "integer", "number",
                                                    "string", "array",   "object"};

bool IsNumber(JsonKind kind) { return kind == JsonKind::kInteger || kind == JsonKind::kReal; }

// What is of none of the types is left.
bool IsOfType(const Alternative& each, std::string_view type) {
  if (std::holds_alternative<StringSet>(each)) return type == "string";
  if (std::holds_alternative<ArraySet>(each)) return type == "array";
  if (std::holds_alternative<ObjectSet>(each)) return type == "object";
  return false;
}

}  // namespace

absl::StatusOr<Decimal> SchemaNodes::NumberAt(uint32_t number, uint32_t value) const {
  if (!IsNumber(tree(number).at(value).kind)) return Refuse(number, value, "must be a number");
  absl::StatusOr<Decimal> decimal = Decimal::Parse(tree(number).at(value).text);
  if (!decimal.ok()) return Annotated(decimal.status(), number, value);
  return decimal;
}

absl::StatusOr<uint64_t> SchemaNodes::CountAt(uint32_t number, uint32_t value) const {
  ASSIGN_OR_RETURN(const Decimal decimal, NumberAt(number, value));
  if (decimal.is_negative || !decimal.is_integer() || decimal.whole.size() > 9) {
    return Refuse(number, value, "must be a whole number from 0 to 999999999");
  }
  uint64_t count = 0;
  for (const char c : decimal.whole) count = count * 10 + static_cast<uint64_t>(c - '0');
  return count;
}

absl::StatusOr<std::vector<std::string_view>> SchemaNodes::TypesOf(const Schema& schema) const {
  const uint32_t value = *Member(schema, "type");
  const SchemaTree& json = tree(schema.tree);
  std::vector<std::string_view> types;
  if (json.at(value).kind == JsonKind::kString) types.emplace_back(json.at(value).text);
  for (const uint32_t element : json.at(value).elements) types.emplace_back(json.at(element).text);
  if (types.empty()) return Refuse(schema.tree, value, "must be a type or a list of types");
  for (const std::string_view type : types) {
    if (std::find(kTypes.begin(), kTypes.end(), type) == kTypes.end()) {
      return Refuse(schema.tree, value, "must be null, boolean, integer, number, string, array or object");
    }
  }
  return types;
}

absl::Status SchemaNodes::ApplyType(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const std::vector<std::string_view> types, TypesOf(schema));
  const auto has = [&](std::string_view type) { return std::find(types.begin(), types.end(), type) != types.end(); };
  Alternatives kept;
  for (Alternative& each : out) {
    if (auto* literal = std::get_if<LiteralSet>(&each)) {
      literal->has_null = literal->has_null && has("null");
      literal->has_true = literal->has_true && has("boolean");
      literal->has_false = literal->has_false && has("boolean");
    } else if (auto* number = std::get_if<NumberSet>(&each)) {
      if (!has("number") && !has("integer")) continue;
      NumberSet integers;
      integers.has_fractions = has("number");
      number->Intersect(integers);
    } else if (!std::any_of(types.begin(), types.end(), [&](auto type) { return IsOfType(each, type); })) {
      continue;
    }
    kept.push_back(std::move(each));
  }
  out = std::move(kept);
  return absl::OkStatus();
}

absl::Status SchemaNodes::NegateType(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const std::vector<std::string_view> types, TypesOf(schema));
  const auto has = [&](std::string_view type) { return std::find(types.begin(), types.end(), type) != types.end(); };
  Alternatives kept;
  for (Alternative& each : out) {
    if (auto* literal = std::get_if<LiteralSet>(&each)) {
      literal->has_null = literal->has_null && !has("null");
      literal->has_true = literal->has_true && !has("boolean");
      literal->has_false = literal->has_false && !has("boolean");
    } else if (auto* number = std::get_if<NumberSet>(&each)) {
      if (has("number")) continue;
      NumberSet fractions;
      fractions.has_integers = !has("integer");
      number->Intersect(fractions);
    } else if (std::any_of(types.begin(), types.end(), [&](auto type) { return IsOfType(each, type); })) {
      continue;
    }
    kept.push_back(std::move(each));
  }
  out = std::move(kept);
  return absl::OkStatus();
}

absl::Status SchemaNodes::ApplyConst(const Schema& value, Alternatives& out) {
  const SchemaTree::Value& json = at(value);
  const auto child = [&](uint32_t number) { return NodeOf(value.tree, number, Literal::Kind::kConst); };
  switch (json.kind) {
    case JsonKind::kString: {
      Keep<StringSet>(out);
      StringSet set;
      set.values = {json.text};
      return Narrow<StringSet>(out, [&](StringSet& string) { return Intersect(set, string); });
    }
    case JsonKind::kInteger:
    case JsonKind::kReal: {
      Keep<NumberSet>(out);
      ASSIGN_OR_RETURN(Decimal decimal, NumberAt(value.tree, value.value));
      if (decimal.whole.size() > kWholeDigitsMax || decimal.fraction.size() > kFractionDigitsMax) {
        return Refuse(value.tree, value.value,
                      absl::StrCat("is a number of more than ", kWholeDigitsMax, " digits, which is never written"));
      }
      const NumberSet set = NumberSet::Of(std::move(decimal));
      return Narrow<NumberSet>(out, [&](NumberSet& number) -> absl::StatusOr<bool> {
        number.Intersect(set);
        return !number.IsPlainlyEmpty();
      });
    }
    case JsonKind::kArray: {
      Keep<ArraySet>(out);
      ArraySet set;
      for (const uint32_t element : json.elements) set.prefix.push_back(child(element));
      set.rest = never_;
      set.min = set.max = json.elements.size();
      return NarrowArrays(set, out);
    }
    case JsonKind::kObject: {
      Keep<ObjectSet>(out);
      ObjectSet set;
      for (const auto& [name, member] : json.members) set.properties.push_back({name, true, child(member)});
      return NarrowObjects(set, out);
    }
    default: {
      Keep<LiteralSet>(out);
      return Narrow<LiteralSet>(out, [&](LiteralSet& literal) -> absl::StatusOr<bool> {
        literal.has_null = literal.has_null && json.kind == JsonKind::kNull;
        literal.has_true = literal.has_true && json.kind == JsonKind::kTrue;
        literal.has_false = literal.has_false && json.kind == JsonKind::kFalse;
        return !literal.empty();
      });
    }
  }
}

absl::Status SchemaNodes::ApplyNotConst(const Schema& value, Alternatives& out) {
  const SchemaTree::Value& json = at(value);
  switch (json.kind) {
    case JsonKind::kString: {
      StringSet set;
      ASSIGN_OR_RETURN(set.chars, Complement(std::make_shared<const CharDfa>(CharDfa::OfWords({json.text}))));
      return Narrow<StringSet>(out, [&](StringSet& string) { return Intersect(set, string); });
    }
    case JsonKind::kInteger:
    case JsonKind::kReal: {
      ASSIGN_OR_RETURN(const Decimal decimal, NumberAt(value.tree, value.value));
      Alternatives both;
      for (const bool is_low : {true, false}) {
        Alternatives side = out;
        if (!is_low) Keep<NumberSet>(side);
        NumberSet set;
        (is_low ? set.low : set.high) = NumberSet::Bound{decimal, true};
        RETURN_IF_ERROR(Narrow<NumberSet>(side, [&](NumberSet& number) -> absl::StatusOr<bool> {
          number.Intersect(set);
          return !number.IsPlainlyEmpty();
        }));
        RETURN_IF_ERROR(Append(std::move(side), both));
      }
      out = std::move(both);
      return absl::OkStatus();
    }
    case JsonKind::kArray:
      return ApplyNotArray(value, out);
    case JsonKind::kObject:
      return ApplyNotObject(value, out);
    default:
      return Narrow<LiteralSet>(out, [&](LiteralSet& literal) -> absl::StatusOr<bool> {
        literal.has_null = literal.has_null && json.kind != JsonKind::kNull;
        literal.has_true = literal.has_true && json.kind != JsonKind::kTrue;
        literal.has_false = literal.has_false && json.kind != JsonKind::kFalse;
        return !literal.empty();
      });
  }
}

// It is shorter or longer, or something in it is another one.
absl::Status SchemaNodes::ApplyNotArray(const Schema& value, Alternatives& out) {
  const SchemaTree::Value& json = at(value);
  const auto not_child = [&](uint32_t number) { return NodeOf(value.tree, number, Literal::Kind::kConst, true); };
  Alternatives all;
  ArraySet shorter = FreeArray();
  ArraySet longer = FreeArray();
  longer.min = json.elements.size() + 1;
  std::vector<ArraySet> sets = {longer};
  if (!json.elements.empty()) {
    shorter.max = json.elements.size() - 1;
    sets.push_back(shorter);
  }
  for (size_t i = 0; i < json.elements.size(); ++i) {
    ArraySet other = FreeArray();
    other.min = i + 1;
    other.prefix.assign(i, any_);
    other.prefix.push_back(not_child(json.elements[i]));
    sets.push_back(std::move(other));
  }
  for (const ArraySet& set : sets) {
    Alternatives copy = out;
    if (!all.empty()) Keep<ArraySet>(copy);
    RETURN_IF_ERROR(NarrowArrays(set, copy));
    RETURN_IF_ERROR(Append(std::move(copy), all));
  }
  out = std::move(all);
  return absl::OkStatus();
}

// It has more members, lacks one, or one is another.
absl::Status SchemaNodes::ApplyNotObject(const Schema& value, Alternatives& out) {
  const SchemaTree::Value& json = at(value);
  const auto not_child = [&](uint32_t number) { return NodeOf(value.tree, number, Literal::Kind::kConst, true); };
  Alternatives all;
  ObjectSet more = FreeObject();
  for (const auto& [name, member] : json.members) more.properties.push_back({name, true, any_});
  more.min = json.members.size() + 1;
  std::vector<ObjectSet> sets = {more};
  for (const auto& [name, member] : json.members) {
    ObjectSet without = FreeObject();
    without.properties.push_back({name, false, never_});
    ObjectSet with = FreeObject();
    with.properties.push_back({name, true, not_child(member)});
    sets.push_back(std::move(without));
    sets.push_back(std::move(with));
  }
  for (const ObjectSet& set : sets) {
    Alternatives copy = out;
    if (!all.empty()) Keep<ObjectSet>(copy);
    RETURN_IF_ERROR(NarrowObjects(set, copy));
    RETURN_IF_ERROR(Append(std::move(copy), all));
  }
  out = std::move(all);
  return absl::OkStatus();
}

absl::Status SchemaNodes::ApplyOneConst(const Schema& schema, Alternatives& out) {
  return ApplyConst({schema.tree, *Member(schema, "const")}, out);
}

absl::Status SchemaNodes::NegateOneConst(const Schema& schema, Alternatives& out) {
  return ApplyNotConst({schema.tree, *Member(schema, "const")}, out);
}

absl::Status SchemaNodes::ApplyEnum(const Schema& schema, Alternatives& out) {
  const uint32_t list = *Member(schema, "enum");
  if (tree(schema.tree).at(list).kind != JsonKind::kArray) return Refuse(schema.tree, list, "must be a list");
  Alternatives all;
  for (const uint32_t value : tree(schema.tree).at(list).elements) {
    Alternatives copy = out;
    RETURN_IF_ERROR(ApplyConst({schema.tree, value}, copy));
    all.insert(all.end(), std::make_move_iterator(copy.begin()), std::make_move_iterator(copy.end()));
    RETURN_IF_ERROR(Spend(1));
  }
  out = std::move(all);
  return absl::OkStatus();
}

absl::Status SchemaNodes::NegateEnum(const Schema& schema, Alternatives& out) {
  const uint32_t list = *Member(schema, "enum");
  if (tree(schema.tree).at(list).kind != JsonKind::kArray) return Refuse(schema.tree, list, "must be a list");
  for (const uint32_t value : tree(schema.tree).at(list).elements) {
    RETURN_IF_ERROR(ApplyNotConst({schema.tree, value}, out));
    RETURN_IF_ERROR(Spend(1 + out.size()));
  }
  return absl::OkStatus();
}

absl::Status SchemaNodes::ApplyBound(const Schema& schema, std::string_view keyword, bool is_low, bool is_open,
                                     Alternatives& out) {
  ASSIGN_OR_RETURN(const Decimal value, NumberAt(schema.tree, *Member(schema, keyword)));
  NumberSet set;
  (is_low ? set.low : set.high) = NumberSet::Bound{value, is_open};
  return Narrow<NumberSet>(out, [&](NumberSet& number) -> absl::StatusOr<bool> {
    number.Intersect(set);
    return !number.IsPlainlyEmpty();
  });
}

absl::Status SchemaNodes::ApplyMinimum(const Schema& schema, Alternatives& out) {
  return ApplyBound(schema, "minimum", /*is_low=*/true, /*is_open=*/false, out);
}
absl::Status SchemaNodes::NegateMinimum(const Schema& schema, Alternatives& out) {
  Keep<NumberSet>(out);
  return ApplyBound(schema, "minimum", /*is_low=*/false, /*is_open=*/true, out);
}
absl::Status SchemaNodes::ApplyMaximum(const Schema& schema, Alternatives& out) {
  return ApplyBound(schema, "maximum", /*is_low=*/false, /*is_open=*/false, out);
}
absl::Status SchemaNodes::NegateMaximum(const Schema& schema, Alternatives& out) {
  Keep<NumberSet>(out);
  return ApplyBound(schema, "maximum", /*is_low=*/true, /*is_open=*/true, out);
}
absl::Status SchemaNodes::ApplyExclusiveMinimum(const Schema& schema, Alternatives& out) {
  return ApplyBound(schema, "exclusiveMinimum", /*is_low=*/true, /*is_open=*/true, out);
}
absl::Status SchemaNodes::NegateExclusiveMinimum(const Schema& schema, Alternatives& out) {
  Keep<NumberSet>(out);
  return ApplyBound(schema, "exclusiveMinimum", /*is_low=*/false, /*is_open=*/false, out);
}
absl::Status SchemaNodes::ApplyExclusiveMaximum(const Schema& schema, Alternatives& out) {
  return ApplyBound(schema, "exclusiveMaximum", /*is_low=*/false, /*is_open=*/true, out);
}
absl::Status SchemaNodes::NegateExclusiveMaximum(const Schema& schema, Alternatives& out) {
  Keep<NumberSet>(out);
  return ApplyBound(schema, "exclusiveMaximum", /*is_low=*/true, /*is_open=*/false, out);
}

absl::Status SchemaNodes::ApplyMultipleOf(const Schema& schema, Alternatives& out) {
  const uint32_t value = *Member(schema, "multipleOf");
  ASSIGN_OR_RETURN(const Decimal decimal, NumberAt(schema.tree, value));
  if (decimal.is_negative || decimal.is_zero()) return Refuse(schema.tree, value, "must be more than 0");
  if (!Has<NumberSet>(out)) return absl::OkStatus();
  if (!ToDivisor(decimal)) {
    return Refuse(schema.tree, value,
                  absl::StrCat("can be enforced up to ", kDivisorMax, ", or with as many digits behind the point"));
  }
  NumberSet set;
  set.multiples_of = {decimal};
  return Narrow<NumberSet>(out, [&](NumberSet& number) -> absl::StatusOr<bool> {
    number.Intersect(set);
    return !number.IsPlainlyEmpty();
  });
}

absl::Status SchemaNodes::NarrowStrings(const Schema& schema, std::string_view keyword, const StringSet& set,
                                        Alternatives& out) {
  const absl::Status status = Narrow<StringSet>(out, [&](StringSet& string) { return Intersect(set, string); });
  return status.ok() ? status : Annotated(status, schema.tree, *Member(schema, keyword));
}

absl::Status SchemaNodes::ApplyMinLength(const Schema& schema, Alternatives& out) {
  StringSet set;
  ASSIGN_OR_RETURN(set.min, CountAt(schema.tree, *Member(schema, "minLength")));
  return NarrowStrings(schema, "minLength", set, out);
}

absl::Status SchemaNodes::NegateMinLength(const Schema& schema, Alternatives& out) {
  Keep<StringSet>(out);
  StringSet set;
  ASSIGN_OR_RETURN(const uint64_t min, CountAt(schema.tree, *Member(schema, "minLength")));
  if (min == 0) out.clear();
  set.max = min == 0 ? 0 : min - 1;
  return NarrowStrings(schema, "minLength", set, out);
}

absl::Status SchemaNodes::ApplyMaxLength(const Schema& schema, Alternatives& out) {
  StringSet set;
  ASSIGN_OR_RETURN(set.max, CountAt(schema.tree, *Member(schema, "maxLength")));
  return NarrowStrings(schema, "maxLength", set, out);
}

absl::Status SchemaNodes::NegateMaxLength(const Schema& schema, Alternatives& out) {
  Keep<StringSet>(out);
  StringSet set;
  ASSIGN_OR_RETURN(const uint64_t max, CountAt(schema.tree, *Member(schema, "maxLength")));
  set.min = max + 1;
  return NarrowStrings(schema, "maxLength", set, out);
}

absl::StatusOr<CharDfaPtr> SchemaNodes::PatternAt(uint32_t number, uint32_t value, std::string_view pattern) {
  CharDfaPtr& kept = patterns_[std::string(pattern)];
  if (kept != nullptr) return kept;
  size_t n_steps = 0;
  absl::StatusOr<CharDfa> dfa = CompilePattern(pattern, &n_steps);
  if (!dfa.ok()) return Annotated(dfa.status(), number, value);
  RETURN_IF_ERROR(Spend(n_steps / kWorkPerStep + kStepsOfState * dfa->states().size()));
  kept = std::make_shared<const CharDfa>(*std::move(dfa));
  return kept;
}

absl::Status SchemaNodes::ApplyPattern(const Schema& schema, Alternatives& out) {
  const uint32_t value = *Member(schema, "pattern");
  if (tree(schema.tree).at(value).kind != JsonKind::kString) return Refuse(schema.tree, value, "must be a string");
  StringSet set;
  ASSIGN_OR_RETURN(set.chars, PatternAt(schema.tree, value, tree(schema.tree).at(value).text));
  return NarrowStrings(schema, "pattern", set, out);
}

absl::Status SchemaNodes::NegatePattern(const Schema& schema, Alternatives& out) {
  const uint32_t value = *Member(schema, "pattern");
  if (tree(schema.tree).at(value).kind != JsonKind::kString) return Refuse(schema.tree, value, "must be a string");
  Keep<StringSet>(out);
  ASSIGN_OR_RETURN(const CharDfaPtr chars, PatternAt(schema.tree, value, tree(schema.tree).at(value).text));
  StringSet set;
  ASSIGN_OR_RETURN(set.chars, Complement(chars));
  return NarrowStrings(schema, "pattern", set, out);
}

absl::StatusOr<CharDfaPtr> SchemaNodes::FormatOf(const Schema& schema) {
  const uint32_t value = *Member(schema, "format");
  const std::optional<std::string> pattern = PatternOfFormat(tree(schema.tree).at(value).text);
  if (!pattern) {
    return Refuse(schema.tree, value, absl::StrCat("can be ", FormatNames(), "; another one is not enforced here"));
  }
  return PatternAt(schema.tree, value, *pattern);
}

absl::Status SchemaNodes::ApplyFormat(const Schema& schema, Alternatives& out) {
  if (!Has<StringSet>(out)) return absl::OkStatus();
  StringSet set;
  ASSIGN_OR_RETURN(set.chars, FormatOf(schema));
  return NarrowStrings(schema, "format", set, out);
}

absl::Status SchemaNodes::NegateFormat(const Schema& schema, Alternatives& out) {
  Keep<StringSet>(out);
  if (out.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const CharDfaPtr chars, FormatOf(schema));
  StringSet set;
  ASSIGN_OR_RETURN(set.chars, Complement(chars));
  return NarrowStrings(schema, "format", set, out);
}

}  // namespace longshelf::grammar
