#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "router/api_error.h"
#include "router/limits.h"
#include "router/worker_link.h"
#include "tokenizer/chat.h"

namespace longshelf::router {

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
  // The call of a tool is opened for the model: of this one, or with "" of one that it names. Chat mode only.
  std::optional<std::string> forced_call;

  // Completions.
  std::variant<std::string, std::vector<uint32_t>> prompt;
  bool echo = false;

  uint32_t n = 1;
  std::optional<uint32_t> max_tokens;  // none: what the context has left
  std::optional<int64_t> seed;         // none: random
  Sampling sampling;                   // without its seed
  std::vector<std::string> stop;
  std::vector<uint32_t> stop_token_ids;
  bool stream = false;
  bool include_usage = false;
  std::string user_id;
  ServiceTier tier = ServiceTier::kDefault;
};

struct ParseLimits {
  SizeLimits sizes;
  uint32_t vocab_size = 0;  // token ids must be below
};

// A request body, or what to answer instead. Pure; any thread. Works in memory proportional to the body.
std::variant<ApiRequest, ApiError> ParseRequestBody(Api api, std::string_view body, const ParseLimits& limits);

// For requests that came over gRPC: the same table, applied to one number. Empty when it is allowed.
std::optional<ApiError> CheckNumber(NumericField field, double value);

}  // namespace longshelf::router
