#include "tokenizer/chat_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "common/status.h"

namespace longshelf::tokenizer {
namespace {

using Value = JsonText::Value;

absl::Status Bad(std::string_view path, std::string_view reason) {
  return absl::InvalidArgumentError(fmt::format("{}: {}", path, reason));
}

// The members of one object, with their path for errors.
class Fields {
 public:
  static absl::StatusOr<Fields> Of(const Value& value, std::string path) {
    if (value.kind() != JsonKind::kObject) return Bad(path, "must be an object");
    return Fields(value.AsMembers(), std::move(path));
  }

  std::string Path(std::string_view key) const { return fmt::format("{}.{}", path_, key); }

  // Nothing if absent or null.
  std::optional<Value> Find(std::string_view key) const {
    for (const auto& [name, value] : members_) {
      if (name == key) return value.is_null() ? std::nullopt : std::optional(value);
    }
    return std::nullopt;
  }

  // Empty if absent or null.
  absl::StatusOr<std::string> Text(std::string_view key) const {
    const std::optional<Value> value = Find(key);
    if (!value) return std::string();
    if (!value->is_string()) return Bad(Path(key), "must be a string");
    return value->AsString();
  }

  absl::StatusOr<std::string> Name(std::string_view key, bool required, const ChatJsonLimits& limits) const {
    ASSIGN_OR_RETURN(std::string text, Text(key));
    if (required && text.empty()) return Bad(Path(key), "must be a string that is not empty");
    if (text.size() > limits.name_bytes_max) {
      return Bad(Path(key), fmt::format("has {} bytes, the limit is {}", text.size(), limits.name_bytes_max));
    }
    return text;
  }

  // The elements; none if absent or null.
  absl::StatusOr<std::vector<Value>> List(std::string_view key, size_t size_max) const {
    const std::optional<Value> value = Find(key);
    if (!value) return std::vector<Value>();
    if (value->kind() != JsonKind::kArray) return Bad(Path(key), "must be a list");
    if (value->size() > size_max) {
      return Bad(Path(key), fmt::format("has {} entries, the limit is {}", value->size(), size_max));
    }
    return value->Elements();
  }

 private:
  Fields(JsonText::Members members, std::string path) : members_(std::move(members)), path_(std::move(path)) {}

  JsonText::Members members_;
  std::string path_;
};

std::string Dump(const Value& value) {
  std::string out;
  value.DumpTo(out);
  return out;
}

absl::StatusOr<std::vector<std::string>> Tools(const std::vector<Value>& tools, std::string_view path) {
  std::vector<std::string> out;
  for (const Value& tool : tools) {
    ASSIGN_OR_RETURN(const Fields fields, Fields::Of(tool, fmt::format("{}[{}]", path, out.size())));
    const std::optional<Value> function = fields.Find("function");
    if (!function || function->kind() != JsonKind::kObject) return Bad(fields.Path("function"), "must be an object");
    out.push_back(Dump(*function));
  }
  return out;
}

absl::StatusOr<ChatToolCall> ToolCall(const Value& value, std::string path, const ChatJsonLimits& limits) {
  ASSIGN_OR_RETURN(const Fields fields, Fields::Of(value, std::move(path)));
  const std::optional<Value> function = fields.Find("function");
  if (!function) return Bad(fields.Path("function"), "is missing");
  ASSIGN_OR_RETURN(const Fields function_fields, Fields::Of(*function, fields.Path("function")));
  ChatToolCall call;
  ASSIGN_OR_RETURN(call.id, fields.Name("id", /*required=*/false, limits));
  if (call.id.empty()) {
    ASSIGN_OR_RETURN(call.id, function_fields.Name("id", /*required=*/false, limits));
  }
  ASSIGN_OR_RETURN(call.name, function_fields.Name("name", /*required=*/true, limits));
  const std::optional<Value> arguments = function_fields.Find("arguments");
  if (!arguments) {
    call.arguments = "{}";
  } else if (arguments->is_string()) {
    call.arguments = arguments->AsString();
  } else if (arguments->kind() == JsonKind::kObject) {
    call.arguments = Dump(*arguments);
  } else {
    return Bad(function_fields.Path("arguments"), "must be the text of a JSON object");
  }
  return call;
}

absl::Status ReadContent(const Fields& fields, const ChatJsonLimits& limits, ChatMessage& message) {
  const std::optional<Value> content = fields.Find("content");
  if (!content) return absl::OkStatus();
  if (content->is_string()) {
    message.content = content->AsString();
    return absl::OkStatus();
  }
  if (content->kind() != JsonKind::kArray) return Bad(fields.Path("content"), "must be a string or a list of parts");
  ASSIGN_OR_RETURN(const std::vector<Value> parts, fields.List("content", limits.parts_max));
  message.content_is_parts = true;
  for (const Value& value : parts) {
    ASSIGN_OR_RETURN(const Fields part_fields,
                     Fields::Of(value, fmt::format("{}[{}]", fields.Path("content"), message.parts.size())));
    ChatContentPart part;
    ASSIGN_OR_RETURN(part.type, part_fields.Name("type", /*required=*/true, limits));
    if (part.type == "text") {
      ASSIGN_OR_RETURN(part.text, part_fields.Text("text"));
    }
    message.parts.push_back(std::move(part));
  }
  return absl::OkStatus();
}

absl::StatusOr<ChatMessage> Message(const Value& value, std::string path, const ChatJsonLimits& limits) {
  ASSIGN_OR_RETURN(const Fields fields, Fields::Of(value, std::move(path)));
  ChatMessage message;
  ASSIGN_OR_RETURN(message.role, fields.Name("role", /*required=*/true, limits));
  RETURN_IF_ERROR(ReadContent(fields, limits, message));
  ASSIGN_OR_RETURN(message.reasoning_content, fields.Text("reasoning_content"));
  ASSIGN_OR_RETURN(message.tool_call_id, fields.Name("tool_call_id", /*required=*/false, limits));
  ASSIGN_OR_RETURN(message.task, fields.Name("task", /*required=*/false, limits));
  ASSIGN_OR_RETURN(const std::vector<Value> tools, fields.List("tools", limits.tools_max));
  ASSIGN_OR_RETURN(message.tools, Tools(tools, fields.Path("tools")));
  ASSIGN_OR_RETURN(const std::vector<Value> calls, fields.List("tool_calls", limits.tool_calls_max));
  for (const Value& call : calls) {
    ASSIGN_OR_RETURN(
        ChatToolCall tool_call,
        ToolCall(call, fmt::format("{}[{}]", fields.Path("tool_calls"), message.tool_calls.size()), limits));
    message.tool_calls.push_back(std::move(tool_call));
  }
  if (const auto format = fields.Find("response_format"); format && format->truthy()) {
    message.response_format = Dump(*format);
  }
  if (const auto wo_eos = fields.Find("wo_eos")) message.wo_eos = wo_eos->truthy();
  if (const auto mask = fields.Find("mask")) message.mask = mask->truthy();
  return message;
}

absl::Status CheckList(const Value& value, std::string_view path, size_t size_max) {
  if (value.kind() != JsonKind::kArray) return Bad(path, "must be a list");
  if (value.size() > size_max) {
    return Bad(path, fmt::format("has {} entries, the limit is {}", value.size(), size_max));
  }
  return absl::OkStatus();
}

absl::StatusOr<JsonText> ParseAt(std::string_view json, const JsonLimits& limits, std::string_view path) {
  absl::StatusOr<JsonText> text = JsonText::Parse(json, limits);
  if (!text.ok()) return Annotate(text.status(), absl::string_view(path.data(), path.size()));
  return text;
}

}  // namespace

absl::StatusOr<std::vector<ChatMessage>> ParseChatMessages(const Value& json, const ChatJsonLimits& limits) {
  constexpr std::string_view kPath = "messages";
  RETURN_IF_ERROR(CheckList(json, kPath, limits.messages_max));
  if (json.size() == 0) return Bad(kPath, "must have at least one message");
  std::vector<ChatMessage> messages;
  for (const Value& value : json.Elements()) {
    ASSIGN_OR_RETURN(ChatMessage message, Message(value, fmt::format("{}[{}]", kPath, messages.size()), limits));
    messages.push_back(std::move(message));
  }
  return messages;
}

absl::StatusOr<std::vector<ChatMessage>> ParseChatMessages(std::string_view json, const ChatJsonLimits& limits) {
  ASSIGN_OR_RETURN(const JsonText text, ParseAt(json, limits.json, "messages"));
  return ParseChatMessages(text.root(), limits);
}

absl::StatusOr<std::vector<std::string>> ParseToolDefinitions(std::string_view json, const ChatJsonLimits& limits,
                                                              std::string_view path) {
  ASSIGN_OR_RETURN(const JsonText text, ParseAt(json, limits.json, path));
  RETURN_IF_ERROR(CheckList(text.root(), path, limits.tools_max));
  return Tools(text.root().Elements(), path);
}

void AttachTools(std::vector<std::string> tools, std::vector<ChatMessage>& messages) {
  if (tools.empty()) return;
  if (messages.empty() || messages.front().role != "system") {
    ChatMessage system;
    system.role = "system";
    messages.insert(messages.begin(), std::move(system));
  }
  std::vector<std::string>& attached = messages.front().tools;
  attached.insert(attached.end(), std::make_move_iterator(tools.begin()), std::make_move_iterator(tools.end()));
}

std::string ChatMessageToJson(const ChatMessage& message) {
  std::string out = "{\"role\": ";
  AppendJsonString(message.role, out);
  out += ", \"content\": ";
  AppendJsonString(message.content.value_or(""), out);
  out += ", \"reasoning_content\": ";
  AppendJsonString(message.reasoning_content, out);
  out += ", \"tool_calls\": [";
  for (const ChatToolCall& call : message.tool_calls) {
    if (&call != &message.tool_calls.front()) out += ", ";
    out += '{';
    if (!call.id.empty()) {
      out += "\"id\": ";
      AppendJsonString(call.id, out);
      out += ", ";
    }
    out += "\"type\": \"function\", \"function\": {\"name\": ";
    AppendJsonString(call.name, out);
    out += ", \"arguments\": ";
    AppendJsonString(call.arguments, out);
    out += "}}";
  }
  out += "]}";
  return out;
}

}  // namespace longshelf::tokenizer
