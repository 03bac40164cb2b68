#pragma once

#include <optional>

#include "json_fields.h"
#include "router/api_request.h"

// The parts of a chat request that are not numbers: messages, tools, thinking.
namespace longshelf::router {

// Each fills its fields of `request`, or says what is wrong.
std::optional<ApiError> ReadMessages(const JsonValue& value, const SizeLimits& limits, ApiRequest& request);
// REQUIRES: messages were read. `tool_choice` may be null.
std::optional<ApiError> ReadTools(const std::optional<JsonValue>& tools, const std::optional<JsonValue>& tool_choice,
                                  const SizeLimits& limits, ApiRequest& request);
// The system message in front, made if there is none. REQUIRES: there are messages.
tokenizer::ChatMessage& LeadingSystemMessage(ApiRequest& request);
// Whether there are tools, and the one that must be called, whose name the client wrote at `name_where`. REQUIRES:
// request.forced_call.
std::optional<ApiError> CheckForcedCall(const ApiRequest& request, std::string_view name_where);
// `where`: its place in the request.
std::optional<ApiError> ReadAnswerSchema(const JsonValue& schema, std::string_view where, ApiRequest& request);
std::optional<ApiError> ReadResponseFormat(const JsonValue& value, ApiRequest& request);
// thinking, reasoning_effort and chat_template_kwargs together decide the mode.
std::optional<ApiError> ReadThinking(const JsonObject& body, ApiRequest& request);

}  // namespace longshelf::router
