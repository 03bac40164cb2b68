#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "program_builder.h"
#include "schema_nodes.h"

namespace longshelf::grammar {

// Makes the rules of a program that write the values of nodes. A rule has the frame that it is called in for itself and
// ends by returning. No way leads where nothing can follow: what can never be written is left out, and what would nest
// deeper than frames allow is not begun.
class ValueEmitter {
 public:
  // How a value stands in the text.
  enum class Form : uint8_t {
    kJson,
    kRawString,  // the strings of the node, without quotes
    kNoString,   // JSON of its other values
    kArguments,  // the objects of the node as the parameters of a call, and the end of the call
  };
  // Both must outlive this.
  ValueEmitter(SchemaNodes& nodes, ProgramBuilder& builder);

  // Looks at everything below `root`. Before Rule(). INVALID_ARGUMENT: no value can be written.
  absl::Status Analyse(NodeId root);
  // Whether the objects of `root` can be the parameters of a call.
  absl::Status CheckParameters(NodeId root) const;
  // The state where the rule begins. Its states are made by EmitAll().
  uint32_t Rule(NodeId node, Form form);
  // Frames that a value of a form needs, at least; nothing: there is none.
  std::optional<uint32_t> HeightOf(NodeId node, Form form) const;
  // The rule of the parameters of a call, whatever they are, and of its end.
  uint32_t FreeArguments();
  absl::Status EmitAll();

 private:
  static constexpr uint32_t kNever = UINT32_MAX;
  struct Analysed {
    Alternatives alternatives;
    std::vector<uint32_t> heights;  // of each of them
    uint32_t height = kNever;       // the least
  };
  // An object without what can never be written.
  struct Members {
    struct Property {
      std::string_view name;
      bool is_required;
      NodeId value;
      uint32_t height;
    };
    std::vector<Property> properties;
    std::vector<const ObjectSet::NameClass*> rest;
    std::vector<uint32_t> rest_heights;
    size_t n_required = 0;
    uint32_t small = 0;  // values up to this height are enough
  };
  struct Style;
  class ObjectWriter;

  std::vector<NodeId> ChildrenOf(const Alternative& alternative) const;
  uint32_t HeightOf(NodeId node) const;
  uint32_t HeightOf(const Alternative& alternative) const;
  uint32_t HeightOfObject(const ObjectSet& object) const;
  std::optional<Members> MembersOf(const ObjectSet& object) const;
  absl::Status CheckCounts(const ObjectSet& object) const;

  absl::Status Emit(NodeId node, Form form, uint32_t from);
  absl::Status EmitString(const StringSet& string, Form form, uint32_t from);
  absl::Status EmitNumber(const NumberSet& number, uint32_t from);
  void EmitArray(const ArraySet& array, uint32_t from);
  absl::Status EmitObject(const ObjectSet& object, const Style& style, uint32_t from);
  absl::StatusOr<CharDfa> NamesOf(const ObjectSet::NameClass& names, const Style& style) const;
  // A member's value, behind its name.
  uint32_t EmitMemberValue(NodeId value, const Style& style, uint32_t from);
  // Strings of any kind end here: a rule's own body, shared.
  uint32_t AnyString(StringForm form, bool counted);

  SchemaNodes& nodes_;
  ProgramBuilder& builder_;
  const CharDfa writable_;
  const uint32_t return_;
  std::map<NodeId, Analysed> analysed_;
  std::map<std::pair<NodeId, Form>, uint32_t> rules_;
  std::vector<std::pair<NodeId, Form>> todo_;
  std::array<std::optional<uint32_t>, 4> any_strings_;
  std::optional<uint32_t> free_arguments_;
};

}  // namespace longshelf::grammar
