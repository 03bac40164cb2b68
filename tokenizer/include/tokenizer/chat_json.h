#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "tokenizer/chat.h"
#include "tokenizer/json_text.h"

// Chat messages from and to the JSON that clients speak (OpenAI's form with DeepSeek's fields). Pure functions; any
// thread.
namespace longshelf::tokenizer {

struct ChatJsonLimits {
  JsonLimits json;
  size_t messages_max = 16384;
  size_t parts_max = 4096;       // of one content list
  size_t tool_calls_max = 1024;  // of one message
  size_t tools_max = 1024;       // of one message or request
  size_t name_bytes_max = 256;   // of a role, a task, a called function, an id, a part's type
};

// A list of messages. Known fields: role, content (text, null, or a list of parts), reasoning_content, tool_calls,
// tool_call_id, tools, response_format, task, wo_eos, mask; others are ignored. Tool definitions keep their member
// order and are dumped as Python does. Arguments of a call may be an object instead of its text.
// INVALID_ARGUMENT: names the path of the field ("messages[2].tool_calls[0].function.name") and the reason or limit; an
// empty list is refused. Whether the roles make sense is RenderChat's to say.
absl::StatusOr<std::vector<ChatMessage>> ParseChatMessages(std::string_view json, const ChatJsonLimits& limits = {});
absl::StatusOr<std::vector<ChatMessage>> ParseChatMessages(const JsonText::Value& json,
                                                           const ChatJsonLimits& limits = {});

// A list of tool definitions, {"type": "function", "function": {...}}: each function dumped as Python does. `path` is
// the field's name in errors.
absl::StatusOr<std::vector<std::string>> ParseToolDefinitions(std::string_view json, const ChatJsonLimits& limits = {},
                                                              std::string_view path = "tools");

// Puts the tools of a request where V4 expects them: on the first message if that is a system message, else on an
// empty system message before it. Tools that it has already stay in front.
void AttachTools(std::vector<std::string> tools, std::vector<ChatMessage>& messages);

// {"role", "content", "reasoning_content", "tool_calls": [{"type", "function": {"name", "arguments"}}]}, with an "id"
// in calls that have one.
std::string ChatMessageToJson(const ChatMessage& message);

}  // namespace longshelf::tokenizer
