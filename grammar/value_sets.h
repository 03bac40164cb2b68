#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "char_dfa.h"
#include "number_set.h"

namespace longshelf::grammar {

inline constexpr uint64_t kNoLimit = UINT64_MAX;

// Number of a set of JSON values (SchemaNodes).
using NodeId = uint32_t;

// null, true and false.
struct LiteralSet {
  bool has_null = true;
  bool has_true = true;
  bool has_false = true;
  bool empty() const { return !has_null && !has_true && !has_false; }
  bool operator==(const LiteralSet&) const = default;
};

struct StringSet {
  CharDfaPtr chars;  // null: any
  // Code points; said by `chars` where there is one.
  uint64_t min = 0;
  uint64_t max = kNoLimit;
  std::optional<std::vector<std::string>> values;  // these only, and nothing else is said; sorted
  bool operator==(const StringSet& other) const;
};

struct ArraySet {
  std::vector<NodeId> prefix;
  NodeId rest = 0;
  uint64_t min = 0;
  uint64_t max = kNoLimit;
  bool operator==(const ArraySet&) const = default;
};

// A name is in `properties` or, if not there, in at most one class of `rest`; if in neither it is not allowed.
struct ObjectSet {
  struct Property {
    std::string name;
    bool is_required = false;
    NodeId value = 0;
    bool operator==(const Property&) const = default;
  };
  struct NameClass {
    CharDfaPtr names;  // null: any
    NodeId value = 0;
    bool operator==(const NameClass& other) const;
  };
  std::vector<Property> properties;
  std::vector<NameClass> rest;
  uint64_t min = 0;  // members
  uint64_t max = kNoLimit;
  bool operator==(const ObjectSet&) const = default;
};

// Values of one type. A set of values is a union of these.
using Alternative = std::variant<LiteralSet, NumberSet, StringSet, ArraySet, ObjectSet>;
using Alternatives = std::vector<Alternative>;

// One for each type, without limits. `any`: the node of all values.
Alternatives AllValues(NodeId any);
// Puts together what can be, and drops what is there twice or empty.
void Simplify(Alternatives& alternatives);

}  // namespace longshelf::grammar
