#include "schema_nodes.h"

#include <algorithm>
#include <array>
#include <utility>

#include "markup.h"
#include "schema_nodes_impl.h"

namespace longshelf::grammar {
namespace {

constexpr size_t kApplyDepthMax = 192;
constexpr size_t kAskDepthMax = 16;
// Schemas that are applied, alternatives that they narrow, and what automata cost, all together: some 200 ms.
constexpr size_t kSpendMax = 4000000;

// What says nothing about which values are allowed.
constexpr std::array<std::string_view, 15> kAnnotations = {
    "$comment",    "$defs",     "definitions",     "$anchor",          "title",
    "description", "default",   "examples",        "example",          "deprecated",
    "readOnly",    "writeOnly", "contentEncoding", "contentMediaType", "contentSchema"};

}  // namespace

SchemaNodes::SchemaNodes() : writable_(std::make_shared<const CharDfa>(WritableStrings())) {
  any_ = Intern({});
  never_ = Intern({Literal{}});
}

NodeId SchemaNodes::Add(const SchemaTree& tree) {
  trees_.push_back(&tree);
  return NodeOf(static_cast<uint32_t>(trees_.size() - 1), 0);
}

NodeId SchemaNodes::Intern(std::vector<Literal> literals) {
  std::sort(literals.begin(), literals.end());
  literals.erase(std::unique(literals.begin(), literals.end()), literals.end());
  const auto is_never = [](const Literal& literal) { return literal.kind == Literal::Kind::kNever; };
  if (literals.size() > 1 && std::any_of(literals.begin(), literals.end(), is_never)) literals = {Literal{}};
  const auto id = static_cast<NodeId>(nodes_.size());
  const auto [it, is_new] = ids_.try_emplace(literals, id);
  if (is_new) nodes_.push_back({.literals = std::move(literals)});
  return it->second;
}

NodeId SchemaNodes::NodeOf(uint32_t tree, uint32_t value, Literal::Kind kind, bool is_negated) {
  const SchemaTree::Value& json = trees_[tree]->at(value);
  const bool is_schema = kind == Literal::Kind::kSchema;
  const bool is_true =
      json.kind == SchemaTree::JsonKind::kTrue || (json.kind == SchemaTree::JsonKind::kObject && json.members.empty());
  if (is_schema && is_true) return is_negated ? never_ : any_;
  if (is_schema && json.kind == SchemaTree::JsonKind::kFalse) return is_negated ? any_ : never_;
  // What tells branches apart is mostly this.
  if (is_schema && json.kind == SchemaTree::JsonKind::kObject && json.members.size() == 1 &&
      json.members[0].first == "const") {
    return NodeOf(tree, json.members[0].second, Literal::Kind::kConst, is_negated);
  }
  return Intern({Literal{kind, is_negated, tree, value}});
}

bool SchemaNodes::Differ(const Literal& a, const Literal& b) const {
  if (a.kind != Literal::Kind::kConst || b.kind != Literal::Kind::kConst || a.is_negated || b.is_negated) return false;
  const SchemaTree::Value& x = tree(a.tree).at(a.value);
  const SchemaTree::Value& y = tree(b.tree).at(b.value);
  return x.kind == SchemaTree::JsonKind::kString && y.kind == SchemaTree::JsonKind::kString && x.text != y.text;
}

NodeId SchemaNodes::Both(NodeId a, NodeId b) {
  if (a == b || b == any_) return a;
  if (a == any_) return b;
  for (const Literal& x : nodes_[a].literals) {
    for (const Literal& y : nodes_[b].literals) {
      if (Differ(x, y)) return never_;
    }
  }
  std::vector<Literal> literals = nodes_[a].literals;
  literals.insert(literals.end(), nodes_[b].literals.begin(), nodes_[b].literals.end());
  return Intern(std::move(literals));
}

absl::Status SchemaNodes::Refuse(uint32_t number, uint32_t value, absl::string_view what) const {
  return Annotated(absl::InvalidArgumentError(what), number, value);
}

absl::Status SchemaNodes::Annotated(const absl::Status& status, uint32_t number, uint32_t value) const {
  const std::string pointer = tree(number).PointerOf(value);
  const std::string& key = tree(number).at(value).key;
  return absl::Status(status.code(), pointer.empty()
                                         ? std::string(status.message())
                                         : absl::StrCat("\"", key, "\" (at ", pointer, ") ", status.message()));
}

absl::Status SchemaNodes::Spend(size_t n) {
  n_spent_ += n;
  if (n_spent_ <= kSpendMax && nodes_.size() <= kNodesMax) return absl::OkStatus();
  return absl::ResourceExhaustedError("the schema takes too many steps; make it smaller or less interwoven");
}

absl::StatusOr<Alternatives> SchemaNodes::AlternativesOf(NodeId id) {
  if (nodes_[id].progress == Node::Progress::kDone) return nodes_[id].alternatives;
  if (nodes_[id].progress == Node::Progress::kUnderWay) {
    return absl::InvalidArgumentError("\"propertyNames\" refers to a schema that it is part of");
  }
  nodes_[id].progress = Node::Progress::kUnderWay;
  Alternatives alternatives = AllValues(any_);
  const std::vector<Literal> literals = nodes_[id].literals;
  // Of its own: what leads here does so through a value.
  std::vector<Literal> active = std::exchange(active_, {});
  absl::Status status;
  for (const Literal& literal : literals) {
    if (status.ok()) status = Apply(literal, alternatives);
  }
  active_ = std::move(active);
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(Finish(alternatives));
  nodes_[id].progress = Node::Progress::kDone;
  nodes_[id].alternatives = alternatives;
  return alternatives;
}

// Strings and names that cannot be written are taken out, and sets of numbers that have none.
absl::Status SchemaNodes::Finish(Alternatives& alternatives) {
  const absl::Status strings = Narrow<StringSet>(alternatives, [&](StringSet& string) -> absl::StatusOr<bool> {
    if (string.values) {
      std::erase_if(*string.values, [&](const std::string& value) { return !writable_->Accepts(value); });
      return !string.values->empty();
    }
    if (string.chars == nullptr) return true;
    ASSIGN_OR_RETURN(string.chars, Intersect(string.chars, writable_));
    return !string.chars->empty();
  });
  if (!strings.ok()) return strings;
  // Names that are not listed are none of those that are.
  const absl::Status names = Narrow<ObjectSet>(alternatives, [&](ObjectSet& object) -> absl::StatusOr<bool> {
    std::vector<std::string> listed;
    for (const ObjectSet::Property& property : object.properties) listed.push_back(property.name);
    for (ObjectSet::NameClass& each : object.rest) {
      if (each.names == nullptr && listed.empty()) continue;
      ASSIGN_OR_RETURN(each.names, Intersect(each.names, writable_));
      ASSIGN_OR_RETURN(const CharDfaPtr others, Complement(std::make_shared<const CharDfa>(CharDfa::OfWords(listed))));
      ASSIGN_OR_RETURN(each.names, Intersect(each.names, others));
    }
    std::erase_if(object.rest, [](const auto& each) { return each.names != nullptr && each.names->empty(); });
    return true;
  });
  if (!names.ok()) return names;
  return Narrow<NumberSet>(alternatives, [&](NumberSet& number) -> absl::StatusOr<bool> {
    if (number.values) return !number.values->empty();
    if (number == NumberSet()) return true;
    ASSIGN_OR_RETURN(const NumberDfa dfa, MakeNumberDfa(number));
    RETURN_IF_ERROR(Spend(dfa.states.size()));
    return !dfa.states.empty();
  });
}

absl::Status SchemaNodes::Append(Alternatives more, Alternatives& out) const {
  out.insert(out.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  if (out.size() > 8 * kAlternativesMax) Simplify(out);
  if (out.size() <= 8 * kAlternativesMax) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("has more than ", kAlternativesMax, " alternatives"));
}

absl::Status SchemaNodes::Apply(const Literal& literal, Alternatives& alternatives) {
  RETURN_IF_ERROR(Spend(1 + alternatives.size()));
  const Schema schema{literal.tree, literal.value};
  switch (literal.kind) {
    case Literal::Kind::kNever:
      alternatives.clear();
      return absl::OkStatus();
    case Literal::Kind::kConst:
      return literal.is_negated ? ApplyNotConst(schema, alternatives) : ApplyConst(schema, alternatives);
    case Literal::Kind::kSchema:
      break;
  }
  if (std::find(active_.begin(), active_.end(), literal) != active_.end()) {
    return Refuse(schema.tree, schema.value, "refers to itself and to nothing else");
  }
  if (active_.size() >= kApplyDepthMax) {
    return Refuse(schema.tree, schema.value,
                  absl::StrCat("is reached through more than ", kApplyDepthMax, " other schemas"));
  }
  active_.push_back(literal);
  const absl::Status status = ApplySchema(schema, literal.is_negated, alternatives);
  active_.pop_back();
  return status;
}

absl::Status SchemaNodes::ApplySchema(const Schema& schema, bool is_negated, Alternatives& alternatives) {
  const SchemaTree::Value& json = at(schema);
  if (json.kind == SchemaTree::JsonKind::kTrue || json.kind == SchemaTree::JsonKind::kFalse) {
    if ((json.kind == SchemaTree::JsonKind::kTrue) == is_negated) alternatives.clear();
    return absl::OkStatus();
  }
  if (json.kind != SchemaTree::JsonKind::kObject) {
    return Refuse(schema.tree, schema.value, "must be a schema: an object, true or false");
  }
  RETURN_IF_ERROR(CheckKeywords(schema));
  Alternatives negated;
  for (const Keyword& keyword : Keywords()) {
    const auto is_there = [&](std::string_view name) { return Member(schema, name).has_value(); };
    const auto name = std::find_if(keyword.names.begin(), keyword.names.end(), is_there);
    if (name == keyword.names.end()) continue;
    if (!is_negated) {
      RETURN_IF_ERROR((this->*keyword.apply)(schema, alternatives));
      Simplify(alternatives);
    } else if (keyword.negate != nullptr) {
      Alternatives copy = alternatives;
      RETURN_IF_ERROR((this->*keyword.negate)(schema, copy));
      RETURN_IF_ERROR(Append(std::move(copy), negated));
    } else {
      return Refuse(schema.tree, *Member(schema, *name),
                    "cannot be enforced where it must not hold (in not, if or oneOf)");
    }
    if (alternatives.size() > kAlternativesMax) {
      const std::string place = tree(schema.tree).PointerOf(schema.value);
      return absl::ResourceExhaustedError(
          absl::StrCat(place.empty() ? "the schema" : place, " has more than ", kAlternativesMax, " alternatives"));
    }
  }
  if (is_negated) alternatives = std::move(negated);
  Simplify(alternatives);
  return absl::OkStatus();
}

absl::Status SchemaNodes::CheckKeywords(const Schema& schema) const {
  for (const auto& [name, value] : at(schema).members) {
    if (name.starts_with("x-") || std::find(kAnnotations.begin(), kAnnotations.end(), name) != kAnnotations.end()) {
      continue;
    }
    if (name == "$id") {
      if (schema.value == 0) continue;
      return Refuse(schema.tree, value, "is supported at the root only: references are to the schema itself");
    }
    if (name == "$schema") {
      const std::string& dialect = tree(schema.tree).at(value).text;
      if (dialect.starts_with("https://json-schema.org/") || dialect.starts_with("http://json-schema.org/")) continue;
      return Refuse(schema.tree, value, "must be a dialect of json-schema.org");
    }
    // Nothing without those that they belong to.
    if (name == "then" || name == "else") continue;
    const auto has_name = [&](const Keyword& keyword) {
      return std::find(keyword.names.begin(), keyword.names.end(), name) != keyword.names.end();
    };
    if (std::any_of(Keywords().begin(), Keywords().end(), has_name)) continue;
    return Refuse(schema.tree, value, "is a keyword that is not supported here");
  }
  return absl::OkStatus();
}

absl::StatusOr<CharDfaPtr> SchemaNodes::Intersect(const CharDfaPtr& a, const CharDfaPtr& b) {
  if (a == nullptr) return b;
  if (b == nullptr) return a;
  CharDfaPtr& kept = intersections_[{a, b}];
  if (kept != nullptr) return kept;
  ASSIGN_OR_RETURN(CharDfa dfa, CharDfa::Intersect(*a, *b));
  RETURN_IF_ERROR(Spend(kStepsOfState * (1 + dfa.states().size())));
  kept = std::make_shared<const CharDfa>(std::move(dfa));
  return kept;
}

absl::StatusOr<CharDfaPtr> SchemaNodes::Complement(const CharDfaPtr& a) {
  auto dfa = std::make_shared<const CharDfa>(CharDfa::Complement(a == nullptr ? CharDfa::Any() : *a));
  RETURN_IF_ERROR(Spend(kStepsOfState * dfa->states().size()));
  return dfa;
}

bool SchemaNodes::Intersect(const ArraySet& other, ArraySet& array) {
  const auto value_at = [](const ArraySet& set, size_t i) { return i < set.prefix.size() ? set.prefix[i] : set.rest; };
  const size_t n = std::max(array.prefix.size(), other.prefix.size());
  std::vector<NodeId> prefix(n);
  for (size_t i = 0; i < n; ++i) prefix[i] = Both(value_at(array, i), value_at(other, i));
  array.prefix = std::move(prefix);
  array.rest = Both(array.rest, other.rest);
  array.min = std::max(array.min, other.min);
  array.max = std::min(array.max, other.max);
  return array.min <= array.max;
}

NodeId SchemaNodes::ValueOf(const ObjectSet& object, std::string_view name) const {
  for (const ObjectSet::Property& property : object.properties) {
    if (property.name == name) return property.value;
  }
  for (const ObjectSet::NameClass& names : object.rest) {
    if (names.names == nullptr || names.names->Accepts(name)) return names.value;
  }
  return never_;
}

absl::StatusOr<bool> SchemaNodes::Intersect(const ObjectSet& other, ObjectSet& object) {
  RETURN_IF_ERROR(Spend(object.properties.size() + other.properties.size()));
  ObjectSet out;
  const auto find = [](const ObjectSet& set, std::string_view name) {
    return std::find_if(set.properties.begin(), set.properties.end(), [&](const auto& p) { return p.name == name; });
  };
  for (const ObjectSet::Property& property : object.properties) {
    const auto twin = find(other, property.name);
    const bool is_required = property.is_required || (twin != other.properties.end() && twin->is_required);
    out.properties.push_back({property.name, is_required, Both(property.value, ValueOf(other, property.name))});
  }
  for (const ObjectSet::Property& property : other.properties) {
    if (find(object, property.name) != object.properties.end()) continue;
    out.properties.push_back(
        {property.name, property.is_required, Both(ValueOf(object, property.name), property.value)});
  }
  for (const ObjectSet::NameClass& a : object.rest) {
    for (const ObjectSet::NameClass& b : other.rest) {
      ASSIGN_OR_RETURN(CharDfaPtr names, Intersect(a.names, b.names));
      const NodeId value = Both(a.value, b.value);
      if (value == never_ || (names != nullptr && names->empty())) continue;
      out.rest.push_back({std::move(names), value});
    }
  }
  out.min = std::max(object.min, other.min);
  out.max = std::min(object.max, other.max);
  object = std::move(out);
  uint64_t n_required = 0;
  for (const ObjectSet::Property& property : object.properties) {
    if (property.is_required && property.value == never_) return false;
    n_required += property.is_required ? 1 : 0;
  }
  return object.min <= object.max && n_required <= object.max;
}

absl::StatusOr<bool> SchemaNodes::Intersect(const StringSet& other, StringSet& string) {
  const auto contains = [](const StringSet& set, const std::string& value) {
    if (set.values) return std::binary_search(set.values->begin(), set.values->end(), value);
    const size_t n = CodePoints(value).size();
    return (set.chars == nullptr || set.chars->Accepts(value)) && n >= set.min && n <= set.max;
  };
  if (string.values || other.values) {
    std::vector<std::string> values = string.values ? *string.values : *other.values;
    std::erase_if(values,
                  [&](const std::string& value) { return !contains(string, value) || !contains(other, value); });
    string = StringSet();
    string.values = std::move(values);
    return !string.values->empty();
  }
  ASSIGN_OR_RETURN(string.chars, Intersect(string.chars, other.chars));
  string.min = std::max(string.min, other.min);
  string.max = std::min(string.max, other.max);
  if (string.min > string.max) return false;
  if (string.chars == nullptr || (string.min == 0 && string.max == kNoLimit)) {
    return string.chars == nullptr || !string.chars->empty();
  }
  const uint64_t n = string.max == kNoLimit ? string.min : string.max;
  if (n >= kDfaStatesMax) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "a length of ", n, " together with a pattern or format takes more than ", kDfaStatesMax, " states"));
  }
  ASSIGN_OR_RETURN(
      string.chars,
      Intersect(string.chars, std::make_shared<const CharDfa>(CharDfa::OfLengths(string.min, string.max))));
  string.min = 0;
  string.max = kNoLimit;
  return !string.chars->empty();
}

absl::StatusOr<bool> SchemaNodes::MayExist(NodeId node) {
  if (nodes_[node].progress == Node::Progress::kUnderWay || asked_.size() > kAskDepthMax) return true;
  ASSIGN_OR_RETURN(const Alternatives alternatives, AlternativesOf(node));
  return MayExist(alternatives);
}

absl::StatusOr<bool> SchemaNodes::MayExist(const Alternatives& alternatives) {
  RETURN_IF_ERROR(Spend(1 + alternatives.size()));
  for (const Alternative& each : alternatives) {
    std::vector<NodeId> needed;
    if (const auto* array = std::get_if<ArraySet>(&each)) {
      needed.assign(array->prefix.begin(), array->prefix.begin() + static_cast<std::ptrdiff_t>(std::min<uint64_t>(
                                                                       array->min, array->prefix.size())));
      if (array->min > array->prefix.size()) needed.push_back(array->rest);
    } else if (const auto* object = std::get_if<ObjectSet>(&each)) {
      for (const auto& property : object->properties) {
        if (property.is_required) needed.push_back(property.value);
      }
    }
    bool may = true;
    for (const NodeId node : needed) {
      // What contains itself may end elsewhere.
      if (!may || nodes_[node].progress == Node::Progress::kUnderWay) continue;
      if (std::find(asked_.begin(), asked_.end(), node) != asked_.end()) continue;
      asked_.push_back(node);
      const absl::StatusOr<bool> exists = MayExist(node);
      asked_.pop_back();
      if (!exists.ok()) return exists;
      may = *exists;
    }
    if (may) return true;
  }
  return false;
}

const std::vector<SchemaNodes::Keyword>& SchemaNodes::Keywords() {
  using N = SchemaNodes;
  // In this order, whatever the order in the schema: the cheap ones leave less to the others.
  static const std::vector<Keyword> kKeywords = {
      {{"type"}, &N::ApplyType, &N::NegateType},
      {{"const"}, &N::ApplyOneConst, &N::NegateOneConst},
      {{"enum"}, &N::ApplyEnum, &N::NegateEnum},
      {{"minimum"}, &N::ApplyMinimum, &N::NegateMinimum},
      {{"maximum"}, &N::ApplyMaximum, &N::NegateMaximum},
      {{"exclusiveMinimum"}, &N::ApplyExclusiveMinimum, &N::NegateExclusiveMinimum},
      {{"exclusiveMaximum"}, &N::ApplyExclusiveMaximum, &N::NegateExclusiveMaximum},
      {{"multipleOf"}, &N::ApplyMultipleOf, nullptr},
      {{"minLength"}, &N::ApplyMinLength, &N::NegateMinLength},
      {{"maxLength"}, &N::ApplyMaxLength, &N::NegateMaxLength},
      {{"pattern"}, &N::ApplyPattern, &N::NegatePattern},
      {{"format"}, &N::ApplyFormat, &N::NegateFormat},
      {{"properties", "patternProperties", "additionalProperties"}, &N::ApplyProperties, &N::NegateProperties},
      {{"propertyNames"}, &N::ApplyPropertyNames, nullptr},
      {{"required"}, &N::ApplyRequired, &N::NegateRequired},
      {{"minProperties"}, &N::ApplyMinProperties, &N::NegateMinProperties},
      {{"maxProperties"}, &N::ApplyMaxProperties, &N::NegateMaxProperties},
      {{"prefixItems", "items"}, &N::ApplyItems, &N::NegateItems},
      {{"minItems"}, &N::ApplyMinItems, &N::NegateMinItems},
      {{"maxItems"}, &N::ApplyMaxItems, &N::NegateMaxItems},
      {{"uniqueItems"}, &N::ApplyUniqueItems, nullptr},
      {{"$ref"}, &N::ApplyRef, &N::NegateRef},
      {{"allOf"}, &N::ApplyAllOf, &N::NegateAllOf},
      {{"anyOf"}, &N::ApplyAnyOf, &N::NegateAnyOf},
      {{"if"}, &N::ApplyIf, &N::NegateIf},
      {{"dependentRequired"}, &N::ApplyDependentRequired, nullptr},
      {{"dependentSchemas"}, &N::ApplyDependentSchemas, nullptr},
      {{"not"}, &N::ApplyNot, &N::NegateNot},
      {{"oneOf"}, &N::ApplyOneOf, nullptr},
  };
  return kKeywords;
}

}  // namespace longshelf::grammar
