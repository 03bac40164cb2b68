// What keywords say about objects and arrays.
#include <algorithm>
#include <utility>

#include "schema_nodes.h"
#include "schema_nodes_impl.h"

namespace longshelf::grammar {
namespace {

using JsonKind = SchemaTree::JsonKind;

constexpr size_t kNameClassesMax = 64;

}  // namespace

ObjectSet SchemaNodes::FreeObject() const {
  ObjectSet set;
  set.rest.push_back({nullptr, any_});
  return set;
}

ArraySet SchemaNodes::FreeArray() const {
  ArraySet set;
  set.rest = any_;
  return set;
}

absl::Status SchemaNodes::NarrowObjects(const ObjectSet& set, Alternatives& out) {
  return Narrow<ObjectSet>(out, [&](ObjectSet& object) { return Intersect(set, object); });
}

absl::Status SchemaNodes::NarrowArrays(const ArraySet& set, Alternatives& out) {
  return Narrow<ArraySet>(out, [&](ArraySet& array) -> absl::StatusOr<bool> { return Intersect(set, array); });
}

// Splits the classes of names at every pattern, and adds what the patterns say of the names in `properties`.
absl::Status SchemaNodes::AddPatterns(const Schema& schema, ObjectSet& set) {
  struct Class {
    CharDfaPtr names;
    NodeId value;
    bool is_matched;
  };
  std::vector<Class> classes = {{nullptr, any_, false}};
  if (const auto patterns = Member(schema, "patternProperties")) {
    if (tree(schema.tree).at(*patterns).kind != JsonKind::kObject) {
      return Refuse(schema.tree, *patterns, "must be an object");
    }
    for (const auto& [pattern, value] : tree(schema.tree).at(*patterns).members) {
      const NodeId node = NodeOf(schema.tree, value);
      ASSIGN_OR_RETURN(const CharDfaPtr names, PatternAt(schema.tree, *patterns, pattern));
      ASSIGN_OR_RETURN(const CharDfaPtr others, Complement(names));
      std::vector<Class> split;
      for (const Class& each : classes) {
        ASSIGN_OR_RETURN(const CharDfaPtr in, Intersect(each.names, names));
        ASSIGN_OR_RETURN(const CharDfaPtr out, Intersect(each.names, others));
        if (!in->empty()) split.push_back({in, Both(each.value, node), true});
        if (!out->empty()) split.push_back({out, each.value, each.is_matched});
      }
      if (split.size() > kNameClassesMax) {
        return absl::ResourceExhaustedError("patternProperties has too many patterns that overlap");
      }
      classes = std::move(split);
      for (ObjectSet::Property& property : set.properties) {
        if (names->Accepts(property.name)) property.value = Both(property.value, node);
      }
    }
  }
  const auto additional = Member(schema, "additionalProperties");
  for (Class& each : classes) {
    if (!each.is_matched && additional) each.value = NodeOf(schema.tree, *additional);
    if (each.value != never_) set.rest.push_back({std::move(each.names), each.value});
  }
  return absl::OkStatus();
}

absl::StatusOr<ObjectSet> SchemaNodes::PropertiesOf(const Schema& schema) {
  ObjectSet set;
  if (const auto properties = Member(schema, "properties")) {
    if (tree(schema.tree).at(*properties).kind != JsonKind::kObject) {
      return Refuse(schema.tree, *properties, "must be an object");
    }
    for (const auto& [name, value] : tree(schema.tree).at(*properties).members) {
      set.properties.push_back({name, false, NodeOf(schema.tree, value)});
    }
  }
  RETURN_IF_ERROR(AddPatterns(schema, set));
  return set;
}

absl::Status SchemaNodes::ApplyProperties(const Schema& schema, Alternatives& out) {
  if (!Has<ObjectSet>(out)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ObjectSet set, PropertiesOf(schema));
  return NarrowObjects(set, out);
}

absl::Status SchemaNodes::NegateProperties(const Schema& schema, Alternatives& out) {
  Keep<ObjectSet>(out);
  for (const char* name : {"patternProperties", "additionalProperties"}) {
    const auto value = Member(schema, name);
    if (value && NodeOf(schema.tree, *value) != any_ && !out.empty()) {
      return Refuse(schema.tree, *value, "cannot be enforced where it must not hold (in not, if or oneOf)");
    }
  }
  Alternatives all;
  if (const auto properties = Member(schema, "properties")) {
    for (const auto& [name, value] : tree(schema.tree).at(*properties).members) {
      ObjectSet set = FreeObject();
      set.properties.push_back({name, true, NodeOf(schema.tree, value, Literal::Kind::kSchema, /*is_negated=*/true)});
      Alternatives copy = out;
      RETURN_IF_ERROR(NarrowObjects(set, copy));
      RETURN_IF_ERROR(Append(std::move(copy), all));
    }
  }
  out = std::move(all);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> SchemaNodes::StringsAt(uint32_t number, uint32_t value) const {
  const SchemaTree& json = tree(number);
  if (json.at(value).kind != JsonKind::kArray) return Refuse(number, value, "must be a list of names");
  std::vector<std::string> names;
  for (const uint32_t element : json.at(value).elements) {
    if (json.at(element).kind != JsonKind::kString) return Refuse(number, value, "must be a list of names");
    names.push_back(json.at(element).text);
  }
  return names;
}

absl::Status SchemaNodes::ApplyRequired(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, StringsAt(schema.tree, *Member(schema, "required")));
  ObjectSet set = FreeObject();
  for (const std::string& name : names) set.properties.push_back({name, true, any_});
  return NarrowObjects(set, out);
}

absl::Status SchemaNodes::NegateRequired(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, StringsAt(schema.tree, *Member(schema, "required")));
  Keep<ObjectSet>(out);
  Alternatives all;
  for (const std::string& name : names) {
    ObjectSet set = FreeObject();
    set.properties.push_back({name, false, never_});
    Alternatives copy = out;
    RETURN_IF_ERROR(NarrowObjects(set, copy));
    RETURN_IF_ERROR(Append(std::move(copy), all));
  }
  out = std::move(all);
  return absl::OkStatus();
}

// The strings that a schema of names allows.
absl::StatusOr<CharDfaPtr> SchemaNodes::NamesOf(uint32_t number, uint32_t schema) {
  ASSIGN_OR_RETURN(const Alternatives alternatives, AlternativesOf(NodeOf(number, schema)));
  CharDfa names = CharDfa::OfWords({});
  for (const Alternative& each : alternatives) {
    const auto* string = std::get_if<StringSet>(&each);
    if (string == nullptr) continue;
    if (!string->values && string->chars == nullptr && string->min == 0 && string->max == kNoLimit) return nullptr;
    const uint64_t n = string->max == kNoLimit ? string->min : string->max;
    if (n >= kDfaStatesMax) return Refuse(number, schema, "allows names that are too long");
    const CharDfa own = string->values             ? CharDfa::OfWords(*string->values)
                        : string->chars == nullptr ? CharDfa::OfLengths(string->min, string->max)
                                                   : *string->chars;
    ASSIGN_OR_RETURN(names, CharDfa::Unite(names, own));
  }
  RETURN_IF_ERROR(Spend(kStepsOfState * names.states().size()));
  return std::make_shared<const CharDfa>(std::move(names));
}

absl::Status SchemaNodes::ApplyPropertyNames(const Schema& schema, Alternatives& out) {
  if (!Has<ObjectSet>(out)) return absl::OkStatus();
  const uint32_t value = *Member(schema, "propertyNames");
  ASSIGN_OR_RETURN(const CharDfaPtr names, NamesOf(schema.tree, value));
  if (names == nullptr) return absl::OkStatus();
  return Narrow<ObjectSet>(out, [&](ObjectSet& object) -> absl::StatusOr<bool> {
    for (ObjectSet::Property& property : object.properties) {
      if (names->Accepts(property.name)) continue;
      if (property.is_required) return false;
      property.value = never_;
    }
    std::vector<ObjectSet::NameClass> rest;
    for (ObjectSet::NameClass& each : object.rest) {
      ASSIGN_OR_RETURN(CharDfaPtr both, Intersect(each.names, names));
      if (!both->empty()) rest.push_back({std::move(both), each.value});
    }
    object.rest = std::move(rest);
    return true;
  });
}

absl::Status SchemaNodes::NarrowCounts(bool is_array, uint64_t min, uint64_t max, Alternatives& out) {
  if (is_array) {
    ArraySet set = FreeArray();
    set.min = min;
    set.max = max;
    return NarrowArrays(set, out);
  }
  ObjectSet set = FreeObject();
  set.min = min;
  set.max = max;
  return NarrowObjects(set, out);
}

absl::Status SchemaNodes::ApplyMinProperties(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const uint64_t n, CountAt(schema.tree, *Member(schema, "minProperties")));
  return NarrowCounts(/*is_array=*/false, n, kNoLimit, out);
}
absl::Status SchemaNodes::NegateMinProperties(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const uint64_t n, CountAt(schema.tree, *Member(schema, "minProperties")));
  Keep<ObjectSet>(out);
  if (n == 0) out.clear();
  return NarrowCounts(/*is_array=*/false, 0, n == 0 ? 0 : n - 1, out);
}
absl::Status SchemaNodes::ApplyMaxProperties(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const uint64_t n, CountAt(schema.tree, *Member(schema, "maxProperties")));
  return NarrowCounts(/*is_array=*/false, 0, n, out);
}
absl::Status SchemaNodes::NegateMaxProperties(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const uint64_t n, CountAt(schema.tree, *Member(schema, "maxProperties")));
  Keep<ObjectSet>(out);
  return NarrowCounts(/*is_array=*/false, n + 1, kNoLimit, out);
}

absl::Status SchemaNodes::ApplyItems(const Schema& schema, Alternatives& out) {
  ArraySet set = FreeArray();
  if (const auto prefix = Member(schema, "prefixItems")) {
    if (tree(schema.tree).at(*prefix).kind != JsonKind::kArray) return Refuse(schema.tree, *prefix, "must be a list");
    for (const uint32_t element : tree(schema.tree).at(*prefix).elements) {
      set.prefix.push_back(NodeOf(schema.tree, element));
    }
  }
  if (const auto items = Member(schema, "items")) {
    if (tree(schema.tree).at(*items).kind == JsonKind::kArray) {
      return Refuse(schema.tree, *items, "must be a schema; a list of them is called prefixItems");
    }
    set.rest = NodeOf(schema.tree, *items);
  }
  return NarrowArrays(set, out);
}

absl::Status SchemaNodes::NegateItems(const Schema& schema, Alternatives& out) {
  Keep<ArraySet>(out);
  std::vector<ArraySet> sets;
  size_t n_prefix = 0;
  if (const auto prefix = Member(schema, "prefixItems")) {
    for (const uint32_t element : tree(schema.tree).at(*prefix).elements) {
      ArraySet set = FreeArray();
      set.prefix.assign(n_prefix++, any_);
      set.prefix.push_back(NodeOf(schema.tree, element, Literal::Kind::kSchema, /*is_negated=*/true));
      set.min = n_prefix;
      sets.push_back(std::move(set));
    }
  }
  if (const auto items = Member(schema, "items")) {
    const NodeId rest = NodeOf(schema.tree, *items);
    if (rest == never_) {
      ArraySet set = FreeArray();
      set.min = n_prefix + 1;
      sets.push_back(std::move(set));
    } else if (rest != any_ && !out.empty()) {
      return Refuse(schema.tree, *items, "cannot be enforced where it must not hold (in not, if or oneOf)");
    }
  }
  Alternatives all;
  for (const ArraySet& set : sets) {
    Alternatives copy = out;
    RETURN_IF_ERROR(NarrowArrays(set, copy));
    RETURN_IF_ERROR(Append(std::move(copy), all));
  }
  out = std::move(all);
  return absl::OkStatus();
}

absl::Status SchemaNodes::ApplyMinItems(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const uint64_t n, CountAt(schema.tree, *Member(schema, "minItems")));
  return NarrowCounts(/*is_array=*/true, n, kNoLimit, out);
}
absl::Status SchemaNodes::NegateMinItems(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const uint64_t n, CountAt(schema.tree, *Member(schema, "minItems")));
  Keep<ArraySet>(out);
  if (n == 0) out.clear();
  return NarrowCounts(/*is_array=*/true, 0, n == 0 ? 0 : n - 1, out);
}
absl::Status SchemaNodes::ApplyMaxItems(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const uint64_t n, CountAt(schema.tree, *Member(schema, "maxItems")));
  return NarrowCounts(/*is_array=*/true, 0, n, out);
}
absl::Status SchemaNodes::NegateMaxItems(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const uint64_t n, CountAt(schema.tree, *Member(schema, "maxItems")));
  Keep<ArraySet>(out);
  return NarrowCounts(/*is_array=*/true, n + 1, kNoLimit, out);
}

absl::Status SchemaNodes::ApplyUniqueItems(const Schema& schema, Alternatives& out) {
  const uint32_t value = *Member(schema, "uniqueItems");
  const JsonKind kind = tree(schema.tree).at(value).kind;
  if (kind != JsonKind::kTrue && kind != JsonKind::kFalse) {
    return Refuse(schema.tree, value, "must be true or false");
  }
  for (const Alternative& each : out) {
    const auto* array = std::get_if<ArraySet>(&each);
    if (kind == JsonKind::kTrue && array != nullptr && array->max > 1) {
      return Refuse(schema.tree, value,
                    "is not supported: which items there are already is more than is kept track of");
    }
  }
  return absl::OkStatus();
}

}  // namespace longshelf::grammar
