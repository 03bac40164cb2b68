#include "messages_request.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "chat_fields.h"
#include "json_fields.h"
#include "message_blocks.h"
#include "router/effort.h"
#include "tokenizer/json_text.h"

namespace longshelf::router {
namespace {

constexpr std::string_view kBillingHeader = "x-anthropic-billing-header";
constexpr size_t kToolUseIdBytesMax = 256;

struct RefusedField {
  std::string_view name;
  std::string_view why;
};
// They would change the answer in a way that this server cannot deliver.
constexpr RefusedField kRefusedFields[] = {
    {"mcp_servers", "is not supported: this server opens no connection for a request; send it empty or not at all"},
    {"container", "is not supported: there is no code execution here"},
};

bool IsEmpty(const JsonValue& value) {
  const auto array = AsArray(value);
  return IsNull(value) || (array && array->size() == 0);
}

std::string WithoutBillingLine(std::string_view text) {
  if (!text.starts_with(kBillingHeader)) return std::string(text);
  text.remove_prefix(std::min(text.find('\n'), text.size()));
  text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
  return std::string(text);
}

// A text, or a list of text blocks.
std::optional<ApiError> ReadSystem(const JsonValue& value, const SizeLimits& limits, ApiRequest& request) {
  std::string system;
  if (const auto text = AsString(value)) {
    system = WithoutBillingLine(*text);
  } else {
    const auto array = AsArray(value);
    if (!array) return InvalidField("system", "must be a string or a list of text blocks");
    std::vector<std::string> texts;
    if (auto error = ReadTextBlocks(*array, "system", limits, texts)) return error;
    for (const std::string& each : texts) {
      const std::string kept = WithoutBillingLine(each);
      if (!kept.empty()) absl::StrAppend(&system, system.empty() ? "" : "\n\n", kept);
    }
  }
  if (!system.empty()) LeadingSystemMessage(request).content = std::move(system);
  return std::nullopt;
}

// One tool as the model reads it: name, description and parameters, as an OpenAI client would have sent them.
std::optional<ApiError> ReadTool(const JsonValue& value, const std::string& where, const SizeLimits& limits,
                                 std::string& dumped, ApiTool& form) {
  const auto object = AsObject(value);
  if (!object) return InvalidField(where, "must be an object with name and input_schema");
  std::string type = "custom";
  if (auto error = ReadText(*object, "type", limits.tool_name_bytes, type)) return WithPlace(where, error);
  if (type != "custom") {
    return InvalidField(where + ".type",
                        "must be custom: this server runs no tools itself, so those that Anthropic's does are refused");
  }
  std::string name;
  std::string description;
  if (auto error = ReadText(*object, "name", limits.tool_name_bytes, name)) return WithPlace(where, error);
  if (name.empty())
    return InvalidField(where + ".name", absl::StrCat("must be a string of 1 to ", limits.tool_name_bytes, " bytes"));
  if (auto error = ReadText(*object, "description", limits.tool_schema_bytes, description)) {
    return WithPlace(where, error);
  }
  const auto schema = Member(*object, "input_schema");
  if (!schema || !AsObject(*schema)) return InvalidField(where + ".input_schema", "must be a JSON schema object");
  std::string json = R"({"name": )";
  tokenizer::AppendJsonString(name, json);
  if (!description.empty()) {
    json += R"(, "description": )";
    tokenizer::AppendJsonString(description, json);
  }
  absl::StrAppend(&json, R"(, "parameters": )", simdjson::minify(*schema), "}");
  if (json.size() > limits.tool_schema_bytes) {
    return InvalidField(where, absl::StrCat("may have at most ", limits.tool_schema_bytes, " bytes"));
  }
  auto python = tokenizer::DumpJsonPythonStyle(json);
  if (!python.ok()) return InvalidField(where, "is not usable JSON");
  dumped = *std::move(python);
  form = {std::move(name), false, simdjson::minify(*schema), where, where + ".input_schema"};
  return WithPlace(where, ReadFlag(*object, "strict", form.is_strict));
}

// {"type": "auto" | "any" | "none" | "tool", "name", "disable_parallel_tool_use"}
std::optional<ApiError> ReadToolChoice(const JsonObject& body, const SizeLimits& limits, bool& none,
                                       ApiRequest& request) {
  const auto value = Member(body, "tool_choice");
  if (!value || IsNull(*value)) return std::nullopt;
  const auto object = AsObject(*value);
  std::string type;
  if (!object) return InvalidField("tool_choice", "must be an object with a type");
  if (auto error = ReadText(*object, "type", limits.tool_name_bytes, type)) return WithPlace("tool_choice", error);
  if (type != "auto" && type != "any" && type != "none" && type != "tool") {
    return InvalidField("tool_choice.type", "must be auto, any, none or tool");
  }
  bool one = false;
  if (auto error = ReadFlag(*object, "disable_parallel_tool_use", one)) return WithPlace("tool_choice", error);
  request.one_tool_call = one || type == "tool";
  none = type == "none";
  if (type == "any") request.forced_call = "";
  if (type != "tool") return std::nullopt;
  std::string name;
  if (auto error = ReadText(*object, "name", limits.tool_name_bytes, name)) return WithPlace("tool_choice", error);
  if (name.empty()) return InvalidField("tool_choice.name", "must be the name of one of the tools");
  request.forced_call = std::move(name);
  return std::nullopt;
}

std::optional<ApiError> ReadTools(const JsonObject& body, const SizeLimits& limits, ApiRequest& request) {
  const auto read = [&](const JsonValue& value, const std::string& where, std::string& dumped, ApiTool& form) {
    return ReadTool(value, where, limits, dumped, form);
  };
  ToolList tools;
  if (auto error = ReadToolsWith(read, body, limits, tools)) return error;
  bool none = false;
  if (auto error = ReadToolChoice(body, limits, none, request)) return error;
  return TellOfTools(std::move(tools), none, "tool_choice.name", request);
}

// {"type": "json_schema", "schema": ...}
std::optional<ApiError> ReadFormat(const JsonValue& value, const SizeLimits& limits, ApiRequest& request) {
  if (IsNull(value)) return std::nullopt;
  const auto object = AsObject(value);
  std::string type;
  if (!object) return InvalidField("output_config.format", "must be an object with type and schema");
  if (auto error = ReadText(*object, "type", limits.tool_name_bytes, type))
    return WithPlace("output_config.format", error);
  const auto schema = Member(*object, "schema");
  if (type != "json_schema" || !schema) {
    return InvalidField("output_config.format", R"(must be {"type":"json_schema","schema":{...}})");
  }
  return ReadAnswerSchema(*schema, "output_config.format.schema", request);
}

// The reasoning is off unless it is asked for, as at Anthropic. `budget_tokens` bounds nothing here.
std::optional<ApiError> ReadThinking(const JsonObject& body, const SizeLimits& limits, ApiRequest& request) {
  bool enabled = false;
  if (const auto value = Member(body, "thinking"); value && !IsNull(*value)) {
    const auto object = AsObject(*value);
    std::string type;
    if (!object) return InvalidField("thinking", "must be an object with a type");
    if (auto error = ReadText(*object, "type", limits.tool_name_bytes, type)) return WithPlace("thinking", error);
    if (type != "enabled" && type != "adaptive" && type != "disabled") {
      return InvalidField("thinking.type", "must be enabled, adaptive or disabled");
    }
    enabled = type != "disabled";
  }
  request.thinking_mode = enabled ? tokenizer::ThinkingMode::kThinking : tokenizer::ThinkingMode::kChat;
  const auto config = Member(body, "output_config");
  if (!config || IsNull(*config)) return std::nullopt;
  const auto object = AsObject(*config);
  if (!object) return InvalidField("output_config", "must be an object");
  std::string effort;
  if (auto error = ReadText(*object, "effort", limits.tool_name_bytes, effort))
    return WithPlace("output_config", error);
  if (!effort.empty() && !MapEffort(effort, tokenizer::ChatDialect::kPreview).ok()) {
    return InvalidField("output_config.effort", "must be one of low, medium, high, xhigh, max");
  }
  request.reasoning_effort = std::move(effort);
  const auto format = Member(*object, "format");
  return format ? ReadFormat(*format, limits, request) : std::nullopt;
}

// Of the user that a client names, without its session: what one session read is there for the next one. Claude Code
// writes {"device_id", "account_uuid", "session_id"} as JSON; earlier it wrote user_ID_account_ID_session_ID.
std::string UserWithoutSession(std::string_view user) {
  constexpr std::string_view kSession = "_session_";
  if (const size_t at = user.rfind(kSession); at != std::string_view::npos) user = user.substr(0, at);
  simdjson::dom::parser parser;
  JsonObject object;
  if (!user.starts_with('{') || parser.parse(std::string(user)).get(object) != simdjson::SUCCESS) {
    return std::string(user);
  }
  std::string out;
  for (const auto& [name, value] : object) {
    if (name != "session_id") absl::StrAppend(&out, std::string(name), "=", simdjson::minify(value), ";");
  }
  return out;
}

std::optional<ApiError> ReadMetadata(const JsonObject& body, const SizeLimits& limits, ApiRequest& request) {
  const auto value = Member(body, "metadata");
  if (!value || IsNull(*value)) return std::nullopt;
  const auto object = AsObject(*value);
  if (!object) return InvalidField("metadata", "must be an object");
  std::string user;
  if (auto error = ReadText(*object, "user_id", limits.user_id_bytes, user)) return WithPlace("metadata", error);
  request.user_id = UserWithoutSession(user);
  return std::nullopt;
}

std::optional<ApiError> ReadNumbers(const JsonObject& body, bool counts_only, ApiRequest& request) {
  NumberFields numbers;
  for (const NumericField field :
       {NumericField::kMaxTokens, NumericField::kTemperature, NumericField::kTopP, NumericField::kTopK}) {
    const auto value = Member(body, LimitOf(field).name);
    if (!value || IsNull(*value)) continue;
    if (auto error = numbers.Read(LimitOf(field), *value)) return error;
  }
  const auto& max_tokens = numbers[NumericField::kMaxTokens];
  if (!max_tokens && !counts_only) {
    return InvalidField("max_tokens", absl::StrCat("is required: it ", RangeText(LimitOf(NumericField::kMaxTokens))));
  }
  if (max_tokens) request.max_tokens = static_cast<uint32_t>(max_tokens->integer);
  if (const auto& n = numbers[NumericField::kTemperature]) request.sampling.temperature = n->real;
  if (const auto& n = numbers[NumericField::kTopP]) request.sampling.top_p = n->real;
  if (const auto& n = numbers[NumericField::kTopK]) {
    request.sampling.top_k = static_cast<uint32_t>(std::max<int64_t>(0, n->integer));
  }
  return std::nullopt;
}

std::optional<ApiError> ReadStopSequences(const JsonObject& body, const SizeLimits& limits, ApiRequest& request) {
  const auto value = Member(body, "stop_sequences");
  if (!value || IsNull(*value)) return std::nullopt;
  const auto array = AsArray(*value);
  if (!array) return InvalidField("stop_sequences", "must be a list of strings");
  for (const JsonValue& entry : *array) {
    const auto text = AsString(entry);
    if (!text || text->empty() || text->size() > limits.stop_string_bytes) {
      return InvalidField("stop_sequences",
                          absl::StrCat("must hold strings of 1 to ", limits.stop_string_bytes, " bytes"));
    }
    if (request.stop.size() >= limits.stop_strings) {
      return InvalidField("stop_sequences", absl::StrCat("may hold at most ", limits.stop_strings, " strings"));
    }
    request.stop.emplace_back(*text);
  }
  return std::nullopt;
}

std::optional<ApiError> ReadModel(const JsonObject& body, const SizeLimits& limits, ApiRequest& request) {
  const auto value = Member(body, "model");
  if (!value || IsNull(*value)) return InvalidField("model", "is required: a string");
  if (auto error = ReadText(body, "model", limits.model_name_bytes, request.model)) return error;
  // What Anthropic's own clients ask for is answered by what is served.
  if (request.model.starts_with("claude")) request.model.clear();
  return std::nullopt;
}

std::optional<ApiError> ReadServiceTier(const JsonObject& body, const SizeLimits& limits) {
  std::string tier = "auto";
  if (auto error = ReadText(body, "service_tier", limits.tool_name_bytes, tier)) return error;
  if (tier == "auto" || tier == "standard_only") return std::nullopt;
  return InvalidField("service_tier", "must be auto or standard_only");
}

std::optional<ApiError> ReadBody(const JsonObject& body, const ParseLimits& limits, const ThinkingSigner& signer,
                                 bool counts_only, ApiRequest& request) {
  if (auto error = CheckNamesOnce(body)) return error;
  for (const RefusedField& refused : kRefusedFields) {
    const auto value = Member(body, refused.name);
    if (value && !IsEmpty(*value)) return InvalidField(refused.name, refused.why);
  }
  const SizeLimits& sizes = limits.sizes;
  if (auto error = ReadModel(body, sizes, request)) return error;
  const auto messages = Member(body, "messages");
  if (!messages) return InvalidField("messages", "is required: a list of messages");
  if (auto error = ReadMessageBlocks(*messages, sizes, signer, kToolUseIdBytesMax, request)) return error;
  if (const auto system = Member(body, "system"); system && !IsNull(*system)) {
    if (auto error = ReadSystem(*system, sizes, request)) return error;
  }
  if (auto error = ReadTools(body, sizes, request)) return error;
  if (auto error = ReadThinking(body, sizes, request)) return error;
  if (auto error = ReadMetadata(body, sizes, request)) return error;
  if (auto error = ReadStopSequences(body, sizes, request)) return error;
  if (auto error = ReadServiceTier(body, sizes)) return error;
  if (auto error = ReadFlag(body, "stream", request.stream)) return error;
  return ReadNumbers(body, counts_only, request);
}

}  // namespace

std::variant<ApiRequest, ApiError> ParseMessagesBody(std::string_view body, const ParseLimits& limits,
                                                     const ThinkingSigner& signer, bool counts_only) {
  simdjson::dom::parser parser;
  const std::variant<JsonObject, ApiError> object = ParseJsonBody(parser, body, limits.sizes);
  if (const auto* error = std::get_if<ApiError>(&object)) return *error;
  ApiRequest request;
  request.api = Api::kChat;
  request.form = AnswerForm::kMessages;
  if (auto error = ReadBody(std::get<JsonObject>(object), limits, signer, counts_only, request)) {
    return *std::move(error);
  }
  return request;
}

}  // namespace longshelf::router
