#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

// The one table that says what a client may ask for. Parsing, error texts and the table-driven tests all read it; no
// other file of the router holds a bound on a request field.
namespace longshelf::router {

enum class Api : uint8_t { kChat = 1, kCompletions = 2, kBoth = 3, kSession = 4, kResponses = 8 };

enum class NumericField : uint8_t {
  kMaxTokens,
  kMaxCompletionTokens,
  kMaxOutputTokens,
  kN,
  kBestOf,
  kTemperature,
  kTopP,
  kTopK,
  kMinP,
  kSeed,
  kPresencePenalty,
  kFrequencyPenalty,
  kTopLogprobs,
  kLogprobs,
  kRetention,
  kCount,
};

// Integers are compared as int64, numbers as double. Both ends are allowed values.
struct NumericLimit {
  NumericField field;
  std::string_view name;
  Api api;
  bool integer;
  bool nullable;  // JSON null counts as absent
  int64_t min;
  int64_t max;
};

// One row per numeric field, in the order of NumericField.
std::span<const NumericLimit> NumericLimits();
const NumericLimit& LimitOf(NumericField field);
inline bool AppliesTo(const NumericLimit& limit, Api api) {
  return (static_cast<unsigned>(limit.api) & static_cast<unsigned>(api)) != 0;
}

// Counts and sizes of everything that is not a number.
struct SizeLimits {
  size_t json_depth = 64;
  size_t body_bytes = size_t{16} << 20;
  size_t header_bytes = size_t{16} << 10;
  size_t request_line_bytes = size_t{8} << 10;
  size_t messages = 16384;
  size_t content_parts = 1024;
  size_t tools = 128;
  size_t tool_calls = 128;
  size_t tool_name_bytes = 64;
  size_t tool_schema_bytes = size_t{64} << 10;
  size_t prompts = 128;
  size_t choices = 256;  // of all prompts
  size_t logit_biases = 1024;
  size_t echoed_tokens = 32768;  // of prompts that are told with their logprobs in one piece
  size_t stop_strings = 16;
  size_t stop_string_bytes = 1024;
  size_t stop_token_ids = 64;
  size_t model_name_bytes = 256;
  size_t user_bytes = 512;
  size_t user_id_bytes = 512;
  size_t session_id_bytes = 128;
  size_t session_body_bytes = size_t{64} << 10;  // of what is done with one
  size_t api_key_bytes = 512;
};
inline constexpr SizeLimits kSizeLimits;

}  // namespace longshelf::router
