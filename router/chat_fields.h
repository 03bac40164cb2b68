#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "json_fields.h"
#include "router/api_request.h"

// The parts of a chat request that are not numbers: messages, tools, thinking.
namespace longshelf::router {

// Each fills its fields of `request`, or says what is wrong.
std::optional<ApiError> ReadMessages(const JsonValue& value, const SizeLimits& limits, ApiRequest& request);
// REQUIRES: messages were read. `tool_choice` may be null.
std::optional<ApiError> ReadTools(const std::optional<JsonValue>& tools, const std::optional<JsonValue>& tool_choice,
                                  const SizeLimits& limits, ApiRequest& request);
// Tools as the model is told of them, and as far as their calls can be held to a form; one of each for every tool.
struct ToolList {
  std::vector<std::string> dumped;
  std::vector<ApiTool> forms;
};
// Of another API: `read` fills one tool that is given at `where`.
using ReadOneTool = std::function<std::optional<ApiError>(const JsonValue& value, const std::string& where,
                                                          std::string& dumped, ApiTool& form)>;
std::optional<ApiError> ReadToolsWith(const ReadOneTool& read, const JsonObject& body, const SizeLimits& limits,
                                      ToolList& tools);
// Puts them into the request, unless none may be called; then checks the call that is demanded, whose name the client
// wrote at `name_where`.
std::optional<ApiError> TellOfTools(ToolList tools, bool none, std::string_view name_where, ApiRequest& request);
// Another text of one message, as the encoding joins them.
void AddText(std::string_view text, std::string& out);

// The system message in front, made if there is none. REQUIRES: there are messages.
tokenizer::ChatMessage& LeadingSystemMessage(ApiRequest& request);
// `where`: its place in the request.
std::optional<ApiError> ReadAnswerSchema(const JsonValue& schema, std::string_view where, ApiRequest& request);
std::optional<ApiError> ReadResponseFormat(const JsonValue& value, ApiRequest& request);
// thinking, reasoning_effort and chat_template_kwargs together decide the mode.
std::optional<ApiError> ReadThinking(const JsonObject& body, ApiRequest& request);

}  // namespace longshelf::router
