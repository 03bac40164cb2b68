#include "chat_fields.h"

#include <algorithm>
#include <array>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "grammar/output_spec.h"
#include "router/effort.h"

namespace longshelf::router {
namespace {

using tokenizer::ChatContentPart;
using tokenizer::ChatMessage;
using tokenizer::ChatToolCall;

// `developer` is what newer OpenAI clients call the system role.
constexpr std::array<std::string_view, 6> kRoles = {"system", "user",      "assistant",
                                                    "tool",   "developer", "latest_reminder"};

// Of a strict tool that says nothing of its arguments.
constexpr std::string_view kNoParameters = R"({"type":"object","properties":{},"additionalProperties":false})";

std::string Minified(const JsonValue& value) { return simdjson::minify(value); }

std::optional<ApiError> ReadParts(const JsonArray& array, const std::string& where, const SizeLimits& limits,
                                  std::vector<ChatContentPart>& parts) {
  for (const JsonValue& value : array) {
    const std::string here = absl::StrCat(where, "[", parts.size(), "]");
    if (parts.size() >= limits.content_parts) {
      return InvalidField(where, absl::StrCat("may hold at most ", limits.content_parts, " parts"));
    }
    const auto part = AsObject(value);
    if (!part) return InvalidField(here, "must be an object with type and text");
    const auto type_field = Member(*part, "type");
    const auto type = type_field ? AsString(*type_field) : std::nullopt;
    if (!type) return InvalidField(here + ".type", "must be a string");
    if (*type != "text") {
      return InvalidField(here + ".type",
                          "must be text: this model reads no images, files or audio, and nothing is "
                          "ever fetched on behalf of a request");
    }
    const auto text_field = Member(*part, "text");
    const auto text = text_field ? AsString(*text_field) : std::nullopt;
    if (!text) return InvalidField(here + ".text", "must be a string");
    parts.push_back({std::string(*type), std::string(*text)});
  }
  if (parts.empty()) return InvalidField(where, "must hold at least one part");
  return std::nullopt;
}

std::optional<ApiError> ReadContent(const JsonValue& value, const std::string& where, const SizeLimits& limits,
                                    ChatMessage& message) {
  if (const auto text = AsString(value)) {
    message.content = std::string(*text);
    return std::nullopt;
  }
  const auto array = AsArray(value);
  if (!array) return InvalidField(where, "must be a string or a list of text parts");
  std::vector<ChatContentPart> parts;
  if (auto error = ReadParts(*array, where, limits, parts)) return error;
  if (message.role == "tool") {
    message.parts = std::move(parts);
    message.content_is_parts = true;
    return std::nullopt;
  }
  std::string joined;  // as the encoding joins the blocks of one message
  for (const ChatContentPart& part : parts) absl::StrAppend(&joined, joined.empty() ? "" : "\n\n", part.text);
  message.content = std::move(joined);
  return std::nullopt;
}

std::optional<ApiError> ReadToolCalls(const JsonValue& value, const std::string& where, const SizeLimits& limits,
                                      ChatMessage& message) {
  const auto array = AsArray(value);
  if (!array) return InvalidField(where, "must be a list");
  for (const JsonValue& entry : *array) {
    const std::string here = absl::StrCat(where, "[", message.tool_calls.size(), "]");
    if (message.tool_calls.size() >= limits.tool_calls) {
      return InvalidField(where, absl::StrCat("may hold at most ", limits.tool_calls, " calls"));
    }
    const auto object = AsObject(entry);
    if (!object) return InvalidField(here, "must be an object");
    const auto function_field = Member(*object, "function");
    const auto function = function_field ? AsObject(*function_field) : std::nullopt;
    if (!function) return InvalidField(here + ".function", "must be an object with name and arguments");
    ChatToolCall call;
    const auto name_field = Member(*function, "name");
    const auto name = name_field ? AsString(*name_field) : std::nullopt;
    if (!name || name->empty() || name->size() > limits.tool_name_bytes) {
      return InvalidField(here + ".function.name",
                          absl::StrCat("must be a string of 1 to ", limits.tool_name_bytes, " bytes"));
    }
    call.name = std::string(*name);
    const auto arguments = Member(*function, "arguments");
    if (!arguments) return InvalidField(here + ".function.arguments", "must be a string of JSON");
    const auto text = AsString(*arguments);
    if (!text && !AsObject(*arguments)) return InvalidField(here + ".function.arguments", "must be a string of JSON");
    call.arguments = text ? std::string(*text) : Minified(*arguments);
    if (const auto id = Member(*object, "id")) {
      if (const auto id_text = AsString(*id)) call.id = std::string(*id_text);
    }
    message.tool_calls.push_back(std::move(call));
  }
  return std::nullopt;
}

// Each is the OpenAI `function` object, dumped the way the model was trained to read it.
std::optional<ApiError> ReadToolList(const JsonValue& value, const std::string& where, const SizeLimits& limits,
                                     std::vector<std::string>& tools, std::vector<ApiTool>& forms) {
  const auto array = AsArray(value);
  if (!array) return InvalidField(where, "must be a list");
  for (const JsonValue& entry : *array) {
    const std::string here = absl::StrCat(where, "[", tools.size(), "]");
    if (tools.size() >= limits.tools) {
      return InvalidField(where, absl::StrCat("may hold at most ", limits.tools, " tools"));
    }
    const auto object = AsObject(entry);
    const auto type_field = object ? Member(*object, "type") : std::nullopt;
    const auto type = type_field ? AsString(*type_field) : std::nullopt;
    if (!object || !type || *type != "function") return InvalidField(here + ".type", "must be function");
    const auto function_field = Member(*object, "function");
    const auto function = function_field ? AsObject(*function_field) : std::nullopt;
    if (!function) return InvalidField(here + ".function", "must be an object");
    const auto name_field = Member(*function, "name");
    const auto name = name_field ? AsString(*name_field) : std::nullopt;
    if (!name || name->empty() || name->size() > limits.tool_name_bytes) {
      return InvalidField(here + ".function.name",
                          absl::StrCat("must be a string of 1 to ", limits.tool_name_bytes, " bytes"));
    }
    ApiTool form{std::string(*name), false, std::string(kNoParameters), here + ".function",
                 here + ".function.parameters"};
    if (const auto parameters = Member(*function, "parameters"); parameters && !IsNull(*parameters)) {
      if (!AsObject(*parameters)) return InvalidField(here + ".function.parameters", "must be a JSON schema object");
      form.parameters = Minified(*parameters);
    }
    if (const auto strict = Member(*function, "strict"); strict && !IsNull(*strict)) {
      const auto flag = AsBool(*strict);
      if (!flag) return InvalidField(here + ".function.strict", "must be true or false");
      form.is_strict = *flag;
    }
    const std::string json = Minified(*function_field);
    if (json.size() > limits.tool_schema_bytes) {
      return InvalidField(here + ".function", absl::StrCat("may have at most ", limits.tool_schema_bytes, " bytes"));
    }
    auto dumped = tokenizer::DumpJsonPythonStyle(json);
    if (!dumped.ok()) return InvalidField(here + ".function", "is not usable JSON");
    tools.push_back(*std::move(dumped));
    forms.push_back(std::move(form));
  }
  return std::nullopt;
}

std::optional<ApiError> ReadOneMessage(const JsonValue& value, const std::string& where, const SizeLimits& limits,
                                       ChatMessage& message, std::vector<ApiTool>& forms) {
  const auto object = AsObject(value);
  if (!object) return InvalidField(where, "must be an object with role and content");
  const auto role_field = Member(*object, "role");
  const auto role = role_field ? AsString(*role_field) : std::nullopt;
  if (!role || std::find(kRoles.begin(), kRoles.end(), *role) == kRoles.end()) {
    return InvalidField(where + ".role", "must be one of system, user, assistant, tool, developer, latest_reminder");
  }
  message.role = *role == "developer" ? "system" : std::string(*role);
  const auto content = Member(*object, "content");
  if (content && !IsNull(*content)) {
    if (auto error = ReadContent(*content, where + ".content", limits, message)) return error;
  } else if (message.role == "assistant") {
    message.content = "";
  } else {
    return InvalidField(where + ".content", "must be a string or a list of text parts");
  }
  for (const char* name : {"reasoning_content", "reasoning"}) {
    const auto reasoning = Member(*object, name);
    if (!reasoning || IsNull(*reasoning) || message.role != "assistant") continue;
    const auto text = AsString(*reasoning);
    if (!text) return InvalidField(absl::StrCat(where, ".", name), "must be a string");
    message.reasoning_content = std::string(*text);
    break;
  }
  if (const auto calls = Member(*object, "tool_calls"); calls && !IsNull(*calls) && message.role == "assistant") {
    if (auto error = ReadToolCalls(*calls, where + ".tool_calls", limits, message)) return error;
  }
  if (message.role == "tool") {
    const auto id_field = Member(*object, "tool_call_id");
    const auto id = id_field ? AsString(*id_field) : std::nullopt;
    if (!id) return InvalidField(where + ".tool_call_id", "must be a string");
    message.tool_call_id = std::string(*id);
  }
  if (const auto tools = Member(*object, "tools"); tools && !IsNull(*tools) && message.role == "system") {
    return ReadToolList(*tools, where + ".tools", limits, message.tools, forms);
  }
  return std::nullopt;
}

// none, auto, required, or {"type":"function","function":{"name":...}}.
std::optional<ApiError> ReadToolChoice(const JsonValue& value, bool& none, ApiRequest& request) {
  const auto bad = [] {
    return InvalidField("tool_choice",
                        R"(must be none, auto, required or {"type":"function","function":{"name":"..."}})");
  };
  if (const auto choice = AsString(value)) {
    if (*choice != "none" && *choice != "auto" && *choice != "required") return bad();
    none = *choice == "none";
    if (*choice == "required") request.forced_call = "";
    return std::nullopt;
  }
  const auto object = AsObject(value);
  const auto type_field = object ? Member(*object, "type") : std::nullopt;
  const auto type = type_field ? AsString(*type_field) : std::nullopt;
  if (!type || *type != "function") return bad();
  const auto function_field = Member(*object, "function");
  const auto function = function_field ? AsObject(*function_field) : std::nullopt;
  const auto name_field = function ? Member(*function, "name") : std::nullopt;
  const auto name = name_field ? AsString(*name_field) : std::nullopt;
  if (!name || name->empty()) return InvalidField("tool_choice.function.name", "must be the name of one of the tools");
  request.forced_call = std::string(*name);
  request.one_tool_call = true;  // a second call could be of another tool
  return std::nullopt;
}

std::optional<ApiError> CheckForcedCall(const ApiRequest& request, std::string_view name_where) {
  if (request.tools.empty()) {
    return InvalidField("tool_choice", "can demand a call only where there are tools: send `tools`, or none or auto");
  }
  const auto is_it = [&](const ApiTool& tool) { return tool.name == *request.forced_call; };
  if (!request.forced_call->empty() && std::none_of(request.tools.begin(), request.tools.end(), is_it)) {
    return InvalidField(name_where, "must be the name of one of the tools");
  }
  return std::nullopt;
}

}  // namespace

constexpr size_t kIdShown = 64;  // bytes of an id that an error repeats

// Calls that no tool message has answered yet, of an assistant message.
struct OpenCalls {
  size_t message = 0;
  std::vector<std::string_view> ids;
};

std::optional<ApiError> CheckAllAnswered(const OpenCalls& open) {
  if (open.ids.empty()) return std::nullopt;
  return InvalidField(
      absl::StrCat("messages[", open.message, "].tool_calls"),
      absl::StrCat("must each be answered by a tool message right behind; there is none for the call `",
                   absl::CHexEscape(absl::string_view(open.ids[0].data(), std::min(open.ids[0].size(), kIdShown))),
                   "`"));
}

// Every tool message answers a call of the assistant message before it, each call has its answer before anything else
// is said, and none has two.
std::optional<ApiError> CheckToolAnswers(const ApiRequest& request) {
  OpenCalls open;
  for (size_t i = 0; i < request.messages.size(); ++i) {
    const ChatMessage& message = request.messages[i];
    if (message.role == "tool") {
      const auto call = std::find(open.ids.begin(), open.ids.end(), message.tool_call_id);
      if (call == open.ids.end()) {
        return InvalidField(absl::StrCat("messages[", i, "].tool_call_id"),
                            "must name a call, not answered yet, among the `tool_calls` of the assistant message that "
                            "these tool messages follow");
      }
      open.ids.erase(call);
      continue;
    }
    if (auto error = CheckAllAnswered(open)) return error;
    open = {.message = i, .ids = {}};
    for (const ChatToolCall& call : message.tool_calls) open.ids.push_back(call.id);
  }
  // A message that is to be gone on with has not called yet.
  return request.continues_assistant ? std::nullopt : CheckAllAnswered(open);
}

ChatMessage& LeadingSystemMessage(ApiRequest& request) {
  if (request.messages.front().role != "system") {
    ChatMessage system;
    system.role = "system";
    system.content = "";
    request.messages.insert(request.messages.begin(), std::move(system));
  }
  return request.messages.front();
}

std::optional<ApiError> ReadMessages(const JsonValue& value, const SizeLimits& limits, ApiRequest& request) {
  const auto array = AsArray(value);
  if (!array) return InvalidField("messages", "must be a list");
  bool prefix = false;
  for (const JsonValue& entry : *array) {
    const std::string where = absl::StrCat("messages[", request.messages.size(), "]");
    if (request.messages.size() >= limits.messages) {
      return InvalidField("messages", absl::StrCat("may hold at most ", limits.messages, " messages"));
    }
    ChatMessage message;
    if (auto error = ReadOneMessage(entry, where, limits, message, request.tools)) return error;
    const auto flag = Member(*AsObject(entry), "prefix");
    prefix = flag && AsBool(*flag).value_or(false);
    if (prefix && message.role != "assistant") return InvalidField(where + ".prefix", "is for assistant messages only");
    request.messages.push_back(std::move(message));
  }
  if (request.messages.empty()) return InvalidField("messages", "must hold at least one message");
  ChatMessage& last = request.messages.back();
  if (prefix) {
    last.wo_eos = true;
    request.continues_assistant = true;
  } else if (last.role != "user" && last.role != "tool") {
    return InvalidField("messages",
                        "must end with a user or tool message, or with an assistant message that has "
                        "`prefix`: true");
  }
  return CheckToolAnswers(request);
}

std::optional<ApiError> ReadTools(const std::optional<JsonValue>& tools, const std::optional<JsonValue>& tool_choice,
                                  const SizeLimits& limits, ApiRequest& request) {
  ToolList list;
  if (tools && !IsNull(*tools)) {
    if (auto error = ReadToolList(*tools, "tools", limits, list.dumped, list.forms)) return error;
  }
  bool none = false;
  if (tool_choice && !IsNull(*tool_choice)) {
    if (auto error = ReadToolChoice(*tool_choice, none, request)) return error;
  }
  if (none) {
    // Those of system messages too.
    for (ChatMessage& message : request.messages) message.tools.clear();
    request.tools.clear();
  }
  return TellOfTools(std::move(list), none, "tool_choice.function.name", request);
}

std::optional<ApiError> ReadToolsWith(const ReadOneTool& read, const JsonObject& body, const SizeLimits& limits,
                                      ToolList& tools) {
  const auto value = Member(body, "tools");
  if (!value || IsNull(*value)) return std::nullopt;
  const auto array = AsArray(*value);
  if (!array) return InvalidField("tools", "must be a list");
  for (const JsonValue& entry : *array) {
    if (tools.dumped.size() >= limits.tools) {
      return InvalidField("tools", absl::StrCat("may hold at most ", limits.tools, " tools"));
    }
    const std::string where = absl::StrCat("tools[", tools.dumped.size(), "]");
    if (auto error = read(entry, where, tools.dumped.emplace_back(), tools.forms.emplace_back())) return error;
  }
  return std::nullopt;
}

std::optional<ApiError> TellOfTools(ToolList tools, bool none, std::string_view name_where, ApiRequest& request) {
  // What the model is not told of, it does not call.
  if (!none && !tools.dumped.empty()) {
    ChatMessage& system = LeadingSystemMessage(request);
    system.tools.insert(system.tools.end(), std::make_move_iterator(tools.dumped.begin()),
                        std::make_move_iterator(tools.dumped.end()));
    request.tools.insert(request.tools.end(), std::make_move_iterator(tools.forms.begin()),
                         std::make_move_iterator(tools.forms.end()));
  }
  return request.forced_call ? CheckForcedCall(request, name_where) : std::nullopt;
}

void AddText(std::string_view text, std::string& out) {
  if (text.empty()) return;
  absl::StrAppend(&out, out.empty() ? "" : "\n\n", absl::string_view(text.data(), text.size()));
}

std::optional<ApiError> ReadResponseFormat(const JsonValue& value, ApiRequest& request) {
  if (IsNull(value)) return std::nullopt;
  const auto object = AsObject(value);
  const auto type_field = object ? Member(*object, "type") : std::nullopt;
  const auto type = type_field ? AsString(*type_field) : std::nullopt;
  if (!type) return InvalidField("response_format", "must be an object with type text, json_object or json_schema");
  if (*type == "text") return std::nullopt;
  if (*type == "json_object") {
    request.answer_schema = R"({"type": "object"})";
    LeadingSystemMessage(request).response_format = request.answer_schema;
    return std::nullopt;
  }
  if (*type != "json_schema") {
    return InvalidField("response_format.type", "must be text, json_object or json_schema");
  }
  const auto form_field = Member(*object, "json_schema");
  const auto form = form_field ? AsObject(*form_field) : std::nullopt;
  if (!form) return InvalidField("response_format.json_schema", "must be an object with name and schema");
  const auto name_field = Member(*form, "name");
  const auto name = name_field ? AsString(*name_field) : std::nullopt;
  if (!name || name->empty() || name->size() > kSizeLimits.tool_name_bytes) {
    return InvalidField("response_format.json_schema.name",
                        absl::StrCat("must be a string of 1 to ", kSizeLimits.tool_name_bytes, " bytes"));
  }
  const auto schema = Member(*form, "schema");
  if (!schema) return InvalidField("response_format.json_schema.schema", "must be a JSON schema object");
  // Enforced, whether `strict` or not.
  return ReadAnswerSchema(*schema, "response_format.json_schema.schema", request);
}

std::optional<ApiError> ReadAnswerSchema(const JsonValue& schema, std::string_view where, ApiRequest& request) {
  if (!AsObject(schema)) return InvalidField(where, "must be a JSON schema object");
  request.answer_schema_where = std::string(where);
  request.answer_schema = Minified(schema);
  if (request.answer_schema.size() > grammar::kSchemaBytesMax) {
    return InvalidField(where, absl::StrCat("may have at most ", grammar::kSchemaBytesMax, " bytes"));
  }
  auto dumped = tokenizer::DumpJsonPythonStyle(request.answer_schema);
  if (!dumped.ok()) return InvalidField(where, "is not usable JSON");
  LeadingSystemMessage(request).response_format = *std::move(dumped);
  return std::nullopt;
}

std::optional<ApiError> ReadThinking(const JsonObject& body, ApiRequest& request) {
  std::optional<bool> enabled;
  std::optional<JsonValue> effort = Member(body, "reasoning_effort");
  if (const auto kwargs_field = Member(body, "chat_template_kwargs"); kwargs_field && !IsNull(*kwargs_field)) {
    const auto kwargs = AsObject(*kwargs_field);
    if (!kwargs) return InvalidField("chat_template_kwargs", "must be an object");
    for (const auto& [name, value] : *kwargs) {
      if (IsNull(value)) continue;
      if (name == "thinking" || name == "enable_thinking") {
        enabled = AsBool(value);
        if (!enabled) return InvalidField("chat_template_kwargs." + std::string(name), "must be true or false");
      } else if (name == "reasoning_effort") {
        if (!effort) effort = value;
      } else {
        return InvalidField("chat_template_kwargs", "may hold thinking, enable_thinking and reasoning_effort only");
      }
    }
  }
  if (const auto thinking_field = Member(body, "thinking"); thinking_field && !IsNull(*thinking_field)) {
    const auto thinking = AsObject(*thinking_field);
    const auto type_field = thinking ? Member(*thinking, "type") : std::nullopt;
    const bool is_given = !thinking || (type_field && !IsNull(*type_field));
    const auto type = !is_given ? "enabled" : type_field ? AsString(*type_field) : std::nullopt;
    if (!type || (*type != "enabled" && *type != "disabled")) {
      return InvalidField("thinking.type", "must be enabled or disabled");
    }
    enabled = *type == "enabled";
  }
  if (effort && !IsNull(*effort)) {
    const auto text = AsString(*effort);
    if (!text) return InvalidField("reasoning_effort", "must be a string");
    if (*text == "none") {
      if (!enabled) enabled = false;
    } else if (!MapEffort(*text, tokenizer::ChatDialect::kPreview).ok() || text->empty()) {
      return InvalidField("reasoning_effort", "must be one of none, minimal, low, medium, high, xhigh, max, ultra");
    } else {
      request.reasoning_effort = std::string(*text);
    }
  }
  request.thinking_mode = enabled.value_or(true) ? tokenizer::ThinkingMode::kThinking : tokenizer::ThinkingMode::kChat;
  return std::nullopt;
}

}  // namespace longshelf::router
