#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "router/api_error.h"
#include "router/byte_budget.h"
#include "router/limits.h"
#include "router/worker_link.h"
#include "tokenizer/chat.h"

namespace longshelf::router {

// An answer that was begun elsewhere and is to go on: what its router knew.
struct BegunAnswer {
  std::vector<uint32_t> prompt;
  std::vector<uint32_t> output;  // what the client has already
  uint64_t seed = 0;
  std::string request_id;
  absl::Time stands_on;     // what was parked up to then is older
  std::string fingerprint;  // of the model that made the output; "" = not known
};

// A tool as far as its calls can be held to a form.
struct ApiTool {
  std::string name;
  bool is_strict = false;
  std::string parameters;  // JSON schema of its arguments
  std::string where;       // in the request: "tools[2]"
};

// Text, or token ids.
using PromptInput = std::variant<std::string, std::vector<uint32_t>>;

// A request whose every field was checked against the limits table. The HTTP and the gRPC edge both make these, and
// everything behind them sees nothing else of what the client sent.
struct ApiRequest {
  Api api = Api::kChat;
  std::string model;  // "" = the served one

  // Chat.
  std::vector<tokenizer::ChatMessage> messages;
  tokenizer::ThinkingMode thinking_mode = tokenizer::ThinkingMode::kThinking;
  std::string reasoning_effort;      // as the client named it, "" = default
  bool continues_assistant = false;  // the last message is an assistant prefix
  bool one_tool_call = false;        // parallel_tool_calls: false, or a call of one tool is forced
  std::vector<ApiTool> tools;        // that the model is told of, in `messages`
  // The answer must be calls: of this tool, or with "" of any.
  std::optional<std::string> forced_call;
  std::string answer_schema;  // JSON schema that the answer's text must follow; "": any text

  // Completions.
  std::vector<PromptInput> prompts;  // at least one; each has n choices
  std::string suffix;                // what is written goes between the prompt and this; "" = there is none
  bool echo = false;

  uint32_t n = 1;
  uint32_t best_of = 1;  // above n: so many are generated for each prompt, and the n likeliest returned
  uint32_t n_candidates() const { return std::max(n, best_of); }
  std::optional<uint32_t> max_tokens;  // none: what the context has left; 0 only with echo
  std::optional<int64_t> seed;         // none: random
  Sampling sampling;                   // without its seed
  std::vector<std::string> stop;
  std::vector<uint32_t> stop_token_ids;
  bool stream = false;
  bool include_usage = false;
  std::string user_id;
  ServiceTier tier = ServiceTier::kDefault;
  bool cache_report = false;  // the usage says where the prompt's tokens came from

  std::string session;                      // "" = none
  std::optional<ParkTerms> park;            // when the answer ends
  std::shared_ptr<const std::string> body;  // the JSON itself, of requests with a session
  ByteBudget::Share body_share;             // of what was read back with it; null otherwise
  std::shared_ptr<const BegunAnswer> begun;
};

struct ParseLimits {
  SizeLimits sizes;
  uint32_t vocab_size = 0;  // token ids must be below
};

// A request body, or what to answer instead. Pure; any thread. Works in memory proportional to the body.
std::variant<ApiRequest, ApiError> ParseRequestBody(Api api, std::string_view body, const ParseLimits& limits);

// Null when it is a session's name: 1 to 128 letters, digits, '-', '_', '.' and ':'.
std::optional<ApiError> CheckSessionId(std::string_view id);
std::optional<ApiError> CheckUserId(std::string_view id);  // may be empty
// {"retention_s": 3600, "durability": "memory"|"disk"|"disk_all"}; retention_s is required.
std::variant<ParkTerms, ApiError> ParseParkBody(std::string_view body, const ParseLimits& limits);
// {"stream": true|false}, or nothing. Empty: as the request said that began the answer.
std::variant<std::optional<bool>, ApiError> ParseResumeBody(std::string_view body, const ParseLimits& limits);
std::string_view DurabilityName(Durability durability);

// For requests that came over gRPC: the same table, applied to one number. Empty when it is allowed.
std::optional<ApiError> CheckNumber(NumericField field, double value);

}  // namespace longshelf::router
