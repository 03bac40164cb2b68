#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "schema_tree.h"
#include "value_sets.h"

namespace longshelf::grammar {

// Sets of JSON values that schemas describe. A node stands for all values that follow several schemas at once, or do
// not follow them; it is named by these, so that what refers to itself is finite. Its alternatives are worked out when
// somebody asks.
//
// What a keyword says is taken exactly, or INVALID_ARGUMENT names the keyword and where it stands. RESOURCE_EXHAUSTED:
// it takes too many nodes, alternatives, states or steps.
class SchemaNodes {
 public:
  static constexpr size_t kNodesMax = 16384;
  static constexpr size_t kAlternativesMax = 128;  // of a node

  SchemaNodes();
  // `tree` must outlive this.
  NodeId Add(const SchemaTree& tree);
  NodeId any() const { return any_; }
  NodeId never() const { return never_; }
  // Valid until the next call.
  absl::StatusOr<Alternatives> AlternativesOf(NodeId node);

 private:
  // What things cost of the budget of Spend().
  static constexpr size_t kStepsOfState = 32;  // one of an automaton over characters
  static constexpr size_t kWorkPerStep = 8;    // work on a pattern
  struct Literal {
    enum class Kind : uint8_t { kSchema, kConst, kNever };
    Kind kind = Kind::kNever;
    bool is_negated = false;
    uint32_t tree = 0;
    uint32_t value = 0;  // of the tree
    auto operator<=>(const Literal&) const = default;
  };
  struct Node {
    enum class Progress : uint8_t { kNone, kUnderWay, kDone };
    std::vector<Literal> literals;  // sorted
    Progress progress = Progress::kNone;
    Alternatives alternatives = {};
  };
  // A schema that is being applied.
  struct Schema {
    uint32_t tree;
    uint32_t value;
  };
  using Handler = absl::Status (SchemaNodes::*)(const Schema& schema, Alternatives& out);
  struct Keyword {
    std::vector<std::string_view> names;  // any of them
    Handler apply;
    Handler negate;  // null: cannot be
  };
  static const std::vector<Keyword>& Keywords();

  const SchemaTree& tree(uint32_t number) const { return *trees_[number]; }
  const SchemaTree::Value& at(const Schema& schema) const { return trees_[schema.tree]->at(schema.value); }
  std::optional<uint32_t> Member(const Schema& schema, std::string_view name) const {
    return trees_[schema.tree]->Member(schema.value, name);
  }
  NodeId Intern(std::vector<Literal> literals);
  NodeId NodeOf(uint32_t tree, uint32_t value, Literal::Kind kind = Literal::Kind::kSchema, bool is_negated = false);
  NodeId Both(NodeId a, NodeId b);
  // Two constants that cannot both be.
  bool Differ(const Literal& a, const Literal& b) const;
  absl::Status Refuse(uint32_t tree, uint32_t value, absl::string_view what) const;
  absl::Status Annotated(const absl::Status& status, uint32_t tree, uint32_t value) const;
  absl::Status Spend(size_t n);

  // Narrows alternatives to what follows, or does not follow, a schema.
  absl::Status Apply(const Literal& literal, Alternatives& alternatives);
  absl::Status ApplySchema(const Schema& schema, bool is_negated, Alternatives& alternatives);
  absl::Status ApplyConst(const Schema& value, Alternatives& alternatives);
  absl::Status ApplyNotConst(const Schema& value, Alternatives& alternatives);
  absl::Status ApplyNotArray(const Schema& value, Alternatives& out);
  absl::Status ApplyNotObject(const Schema& value, Alternatives& out);
  absl::Status CheckKeywords(const Schema& schema) const;
  absl::Status Append(Alternatives more, Alternatives& out) const;

  // Narrows the alternatives of one type; `fn` says whether anything is left of one.
  template <typename T, typename Fn>
  absl::Status Narrow(Alternatives& alternatives, Fn fn);
  template <typename T>
  static void Keep(Alternatives& alternatives);
  template <typename T>
  static bool Has(const Alternatives& alternatives);

  bool Intersect(const ArraySet& other, ArraySet& array);
  absl::StatusOr<bool> Intersect(const ObjectSet& other, ObjectSet& object);
  absl::StatusOr<bool> Intersect(const StringSet& other, StringSet& string);
  absl::StatusOr<CharDfaPtr> Intersect(const CharDfaPtr& a, const CharDfaPtr& b);
  absl::StatusOr<CharDfaPtr> Complement(const CharDfaPtr& a);
  absl::Status Finish(Alternatives& alternatives);
  NodeId ValueOf(const ObjectSet& object, std::string_view name) const;
  absl::StatusOr<CharDfaPtr> NamesOf(uint32_t tree, uint32_t schema);
  absl::StatusOr<CharDfaPtr> PatternAt(uint32_t tree, uint32_t value, std::string_view pattern);
  // False: certainly no value follows.
  absl::StatusOr<bool> MayExist(const Alternatives& alternatives);
  absl::StatusOr<bool> MayExist(NodeId node);

  // Numbers of keywords.
  absl::StatusOr<Decimal> NumberAt(uint32_t tree, uint32_t value) const;
  absl::StatusOr<uint64_t> CountAt(uint32_t tree, uint32_t value) const;

  // schema_scalars.cc
  absl::Status ApplyType(const Schema& schema, Alternatives& out);
  absl::Status NegateType(const Schema& schema, Alternatives& out);
  absl::StatusOr<std::vector<std::string_view>> TypesOf(const Schema& schema) const;
  absl::Status ApplyOneConst(const Schema& schema, Alternatives& out);
  absl::Status NegateOneConst(const Schema& schema, Alternatives& out);
  absl::Status ApplyEnum(const Schema& schema, Alternatives& out);
  absl::Status NegateEnum(const Schema& schema, Alternatives& out);
  absl::Status ApplyMinimum(const Schema& schema, Alternatives& out);
  absl::Status NegateMinimum(const Schema& schema, Alternatives& out);
  absl::Status ApplyMaximum(const Schema& schema, Alternatives& out);
  absl::Status NegateMaximum(const Schema& schema, Alternatives& out);
  absl::Status ApplyExclusiveMinimum(const Schema& schema, Alternatives& out);
  absl::Status NegateExclusiveMinimum(const Schema& schema, Alternatives& out);
  absl::Status ApplyExclusiveMaximum(const Schema& schema, Alternatives& out);
  absl::Status NegateExclusiveMaximum(const Schema& schema, Alternatives& out);
  absl::Status ApplyBound(const Schema& schema, std::string_view keyword, bool is_low, bool is_open, Alternatives& out);
  absl::Status ApplyMultipleOf(const Schema& schema, Alternatives& out);
  absl::Status ApplyMinLength(const Schema& schema, Alternatives& out);
  absl::Status NegateMinLength(const Schema& schema, Alternatives& out);
  absl::Status ApplyMaxLength(const Schema& schema, Alternatives& out);
  absl::Status NegateMaxLength(const Schema& schema, Alternatives& out);
  absl::Status ApplyPattern(const Schema& schema, Alternatives& out);
  absl::Status NegatePattern(const Schema& schema, Alternatives& out);
  absl::Status ApplyFormat(const Schema& schema, Alternatives& out);
  absl::Status NegateFormat(const Schema& schema, Alternatives& out);
  absl::StatusOr<CharDfaPtr> FormatOf(const Schema& schema);
  absl::Status NarrowStrings(const Schema& schema, std::string_view keyword, const StringSet& set, Alternatives& out);

  // schema_structures.cc
  absl::Status ApplyProperties(const Schema& schema, Alternatives& out);
  absl::Status NegateProperties(const Schema& schema, Alternatives& out);
  absl::StatusOr<ObjectSet> PropertiesOf(const Schema& schema);
  absl::Status AddPatterns(const Schema& schema, ObjectSet& set);
  absl::Status ApplyRequired(const Schema& schema, Alternatives& out);
  absl::Status NegateRequired(const Schema& schema, Alternatives& out);
  absl::StatusOr<std::vector<std::string>> StringsAt(uint32_t tree, uint32_t value) const;
  absl::Status ApplyPropertyNames(const Schema& schema, Alternatives& out);
  absl::Status ApplyMinProperties(const Schema& schema, Alternatives& out);
  absl::Status NegateMinProperties(const Schema& schema, Alternatives& out);
  absl::Status ApplyMaxProperties(const Schema& schema, Alternatives& out);
  absl::Status NegateMaxProperties(const Schema& schema, Alternatives& out);
  absl::Status ApplyItems(const Schema& schema, Alternatives& out);
  absl::Status NegateItems(const Schema& schema, Alternatives& out);
  absl::Status ApplyMinItems(const Schema& schema, Alternatives& out);
  absl::Status NegateMinItems(const Schema& schema, Alternatives& out);
  absl::Status ApplyMaxItems(const Schema& schema, Alternatives& out);
  absl::Status NegateMaxItems(const Schema& schema, Alternatives& out);
  absl::Status ApplyUniqueItems(const Schema& schema, Alternatives& out);
  absl::Status NarrowCounts(bool is_array, uint64_t min, uint64_t max, Alternatives& out);
  absl::Status NarrowObjects(const ObjectSet& set, Alternatives& out);
  absl::Status NarrowArrays(const ArraySet& set, Alternatives& out);
  ObjectSet FreeObject() const;
  ArraySet FreeArray() const;

  // schema_combinations.cc
  absl::Status ApplyRef(const Schema& schema, Alternatives& out);
  absl::Status NegateRef(const Schema& schema, Alternatives& out);
  absl::StatusOr<Schema> TargetOf(const Schema& schema) const;
  absl::Status ApplyAllOf(const Schema& schema, Alternatives& out);
  absl::Status NegateAllOf(const Schema& schema, Alternatives& out);
  absl::Status ApplyAnyOf(const Schema& schema, Alternatives& out);
  absl::Status NegateAnyOf(const Schema& schema, Alternatives& out);
  absl::Status ApplyOneOf(const Schema& schema, Alternatives& out);
  absl::Status ApplyNot(const Schema& schema, Alternatives& out);
  absl::Status NegateNot(const Schema& schema, Alternatives& out);
  absl::Status ApplyIf(const Schema& schema, Alternatives& out);
  absl::Status NegateIf(const Schema& schema, Alternatives& out);
  absl::Status ApplyDependentRequired(const Schema& schema, Alternatives& out);
  absl::Status ApplyDependentSchemas(const Schema& schema, Alternatives& out);
  absl::StatusOr<std::vector<uint32_t>> BranchesOf(const Schema& schema, std::string_view keyword) const;

  std::vector<const SchemaTree*> trees_;
  std::vector<Node> nodes_;
  std::map<std::vector<Literal>, NodeId> ids_;
  std::vector<Literal> active_;  // being applied, outermost first
  std::vector<NodeId> asked_;    // whether they may exist
  std::map<std::string, CharDfaPtr> patterns_;
  std::map<std::pair<CharDfaPtr, CharDfaPtr>, CharDfaPtr> intersections_;
  CharDfaPtr writable_;  // strings without markup of the chat
  NodeId any_ = 0;
  NodeId never_ = 0;
  size_t n_spent_ = 0;
};

}  // namespace longshelf::grammar
