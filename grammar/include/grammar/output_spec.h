#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace longshelf::grammar {

// Of one schema.
inline constexpr size_t kSchemaBytesMax = size_t{64} << 10;
inline constexpr uint32_t kSchemaDepthMax = 32;  // levels of its JSON
// Of one request, all schemas together.
inline constexpr size_t kSpecBytesMax = size_t{1} << 20;
inline constexpr size_t kToolsMax = 128;
inline constexpr uint32_t kCallsMax = 128;  // of one answer

// What an answer has to look like. A value: router, workers and shards make the same automaton of it.
struct OutputSpec {
  enum class Calls : uint8_t { kNone, kAllowed, kRequired };
  struct Tool {
    std::string name;
    std::string parameters;  // JSON schema that the arguments follow; "": any arguments
    bool operator==(const Tool&) const = default;
  };
  bool after_thinking = false;  // it begins behind </think>; what comes before is free
  std::string answer_schema;    // JSON schema of the answer's text; "": any text, if calls are not required
  Calls calls = Calls::kNone;
  uint32_t n_calls_max = kCallsMax;
  std::vector<Tool> tools;  // that may be called
  std::string given;        // how the answer begins already; the output goes on from there

  // One form for each value; "" stands for no specification in places that may have none.
  std::string Serialize() const;
  // INVALID_ARGUMENT: not such a form, or more than the limits above.
  static absl::StatusOr<OutputSpec> Parse(std::string_view bytes);
  bool operator==(const OutputSpec&) const = default;
};

}  // namespace longshelf::grammar
