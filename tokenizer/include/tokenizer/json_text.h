#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

// JSON whose form reaches the model: members keep their order, integers their digits, reals are printed as Python
// prints them. Use simdjson where only the values matter.
namespace longshelf::tokenizer {

// What a JSON text from outside may cost. A value takes 20 bytes of memory beside the text.
struct JsonLimits {
  size_t bytes_max = 32u << 20;
  uint32_t depth_max = 64;  // at most 1000
  uint32_t values_max = 1u << 18;
  // Python reads NaN, Infinity and -Infinity; JSON has none of them.
  bool python_constants = false;
};

enum class JsonKind : uint8_t { kNull, kFalse, kTrue, kInteger, kReal, kConstant, kString, kArray, kObject };

// A checked JSON text and an index over it. The text must outlive this, and this its values.
class JsonText {
 public:
  class Value;
  using Members = std::vector<std::pair<std::string, Value>>;

  // INVALID_ARGUMENT with the offset and the reason; also for invalid UTF-8 and for what exceeds the limits.
  static absl::StatusOr<JsonText> Parse(std::string_view text, const JsonLimits& limits = {});
  Value root() const;

 private:
  friend class JsonTextReader;
  struct Node {
    JsonKind kind;
    uint32_t begin;  // in text_, with quotes or brackets
    uint32_t end;
    uint32_t next;   // index of the node after this one and all below it
    uint32_t count;  // elements or members
  };
  std::string_view text_;
  std::vector<Node> nodes_;  // depth first; of an object key, value, key, value, ...
};

// A light reference; copy freely.
class JsonText::Value {
 public:
  JsonKind kind() const;
  bool is_string() const { return kind() == JsonKind::kString; }
  bool is_null() const { return kind() == JsonKind::kNull; }
  // As Python's bool(): null, false, zero and what is empty are false.
  bool truthy() const;
  std::string_view raw() const;  // the text of this value
  // REQUIRES: a string. Escapes resolved; half of a surrogate pair becomes U+FFFD.
  std::string AsString() const;
  std::optional<uint64_t> AsUint64() const;  // nothing if it is no integer of that range
  size_t size() const;                       // elements or members; 0 for all others
  std::vector<Value> Elements() const;       // REQUIRES: an array
  // REQUIRES: an object. A repeated key stands at its first place with its last value, as in Python.
  Members AsMembers() const;
  // Python's json.dumps(value, ensure_ascii=False).
  void DumpTo(std::string& out) const;

 private:
  friend class JsonText;
  Value(const JsonText* text, uint32_t index) : text_(text), index_(index) {}
  const Node& node() const { return text_->nodes_[index_]; }

  const JsonText* text_;
  uint32_t index_;
};

// Appends a JSON string literal as json.dumps(ensure_ascii=False) writes it.
void AppendJsonString(std::string_view text, std::string& out);
// The same without its quotes; of a text in pieces, each piece by itself.
void AppendJsonEscaped(std::string_view text, std::string& out);

}  // namespace longshelf::tokenizer
