#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "tokenizer/json_text.h"

namespace longshelf::grammar {

// A JSON schema as it was sent, taken apart: every value has a number, the root is 0. Immutable.
class SchemaTree {
 public:
  using JsonKind = tokenizer::JsonKind;
  struct Value {
    JsonKind kind = JsonKind::kNull;
    std::string text = {};                                       // a string's characters, a number's digits
    std::vector<std::pair<std::string, uint32_t>> members = {};  // of an object, in order
    std::vector<uint32_t> elements = {};                         // of an array
    uint32_t parent = 0;
    std::string key;  // in its parent: a member's name, or an index
  };

  // INVALID_ARGUMENT: not JSON, or more than kSchemaBytesMax or kSchemaDepthMax.
  static absl::StatusOr<SchemaTree> Parse(std::string_view json);

  const Value& at(uint32_t number) const { return values_[number]; }
  // Nothing when it is no object or has no such member.
  std::optional<uint32_t> Member(uint32_t number, std::string_view name) const;
  // JSON pointer from the root; "" is the root.
  std::string PointerOf(uint32_t number) const;
  // What a $ref says: "#", "#/json/pointer" or "#anchor".
  absl::StatusOr<uint32_t> Resolve(std::string_view ref) const;

 private:
  uint32_t Add(const tokenizer::JsonText::Value& json, uint32_t parent, std::string key);

  std::vector<Value> values_;
  std::vector<std::pair<std::string, uint32_t>> anchors_;
};

}  // namespace longshelf::grammar
