#include "responses_request.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "chat_fields.h"
#include "input_items.h"
#include "json_fields.h"
#include "router/effort.h"
#include "tokenizer/json_text.h"

namespace longshelf::router {
namespace {

struct RefusedField {
  std::string_view name;
  std::string_view why;
};
constexpr RefusedField kRefusedFields[] = {
    {"previous_response_id", "is not supported: responses are not kept here; send the whole conversation as input"},
    {"conversation", "is not supported: conversations are not kept here; send the whole conversation as input"},
    {"prompt", "is not supported: no prompts are kept here; send instructions and input"},
    {"context_management", "is not supported: nothing is taken out of the input"},
};
// Told back to the client as it was sent, or with what holds for a request that left it out.
struct EchoedField {
  std::string_view name;
  std::string_view default_json;
};
constexpr EchoedField kEchoed[] = {
    {"instructions", "null"},
    {"metadata", "{}"},
    {"tools", "[]"},
    {"tool_choice", "\"auto\""},
    {"temperature", "1.0"},
    {"top_p", "1.0"},
    {"max_output_tokens", "null"},
    {"max_tool_calls", "null"},
    {"parallel_tool_calls", "true"},
    {"top_logprobs", "0"},
    {"user", "null"},
    {"safety_identifier", "null"},
    {"prompt_cache_key", "null"},
    {"reasoning", R"({"effort":null,"summary":null})"},
    {"text", R"({"format":{"type":"text"}})"},
};

// {"type": "function", "name", "description", "parameters", "strict"}: without its type, what chat calls a function.
std::optional<ApiError> ReadTool(const JsonValue& value, const std::string& where, const SizeLimits& limits,
                                 std::string& dumped, ApiTool& form) {
  const auto object = AsObject(value);
  const auto type_field = object ? Member(*object, "type") : std::nullopt;
  const auto type = type_field ? AsString(*type_field) : std::nullopt;
  if (!type || *type != "function") {
    return InvalidField(where + ".type", "must be function: this server runs no tools itself");
  }
  const auto name_field = Member(*object, "name");
  const auto name = name_field ? AsString(*name_field) : std::nullopt;
  if (!name || name->empty() || name->size() > limits.tool_name_bytes) {
    return InvalidField(where + ".name", absl::StrCat("must be a string of 1 to ", limits.tool_name_bytes, " bytes"));
  }
  form = {std::string(*name), false, R"({"type":"object"})", where, where + ".parameters"};
  if (const auto parameters = Member(*object, "parameters"); parameters && !IsNull(*parameters)) {
    if (!AsObject(*parameters)) return InvalidField(where + ".parameters", "must be a JSON schema object");
    form.parameters = simdjson::minify(*parameters);
  }
  if (auto error = ReadFlag(*object, "strict", form.is_strict)) return WithPlace(where, error);
  std::string json = "{";
  for (const auto& [key, member] : *object) {
    if (key == "type" || IsNull(member)) continue;
    if (json.size() > 1) json += ", ";
    tokenizer::AppendJsonString(key, json);
    absl::StrAppend(&json, ": ", simdjson::minify(member));
  }
  json += "}";
  if (json.size() > limits.tool_schema_bytes) {
    return InvalidField(where, absl::StrCat("may have at most ", limits.tool_schema_bytes, " bytes"));
  }
  auto python = tokenizer::DumpJsonPythonStyle(json);
  if (!python.ok()) return InvalidField(where, "is not usable JSON");
  dumped = *std::move(python);
  return std::nullopt;
}

// none, auto, required, or {"type": "function", "name": ...}
std::optional<ApiError> ReadToolChoice(const JsonObject& body, bool& none, ApiRequest& request) {
  const auto value = Member(body, "tool_choice");
  if (!value || IsNull(*value)) return std::nullopt;
  if (const auto choice = AsString(*value)) {
    if (*choice == "required") request.forced_call = "";
    none = *choice == "none";
    if (none || *choice == "auto" || *choice == "required") return std::nullopt;
  }
  const auto object = AsObject(*value);
  const auto type = object ? Member(*object, "type") : std::nullopt;
  const auto name = object ? Member(*object, "name") : std::nullopt;
  const std::string_view name_text = name ? AsString(*name).value_or("") : "";
  if (!type || AsString(*type).value_or("") != "function" || name_text.empty()) {
    return InvalidField("tool_choice", R"(must be none, auto, required or {"type":"function","name":"..."})");
  }
  request.forced_call = std::string(name_text);
  request.one_tool_call = true;  // a second call could be of another tool
  return std::nullopt;
}

std::optional<ApiError> ReadTools(const JsonObject& body, const SizeLimits& limits, ApiRequest& request) {
  const auto read = [&](const JsonValue& value, const std::string& where, std::string& dumped, ApiTool& form) {
    return ReadTool(value, where, limits, dumped, form);
  };
  ToolList tools;
  if (auto error = ReadToolsWith(read, body, limits, tools)) return error;
  bool none = false;
  if (auto error = ReadToolChoice(body, none, request)) return error;
  bool parallel = true;
  if (auto error = ReadFlag(body, "parallel_tool_calls", parallel)) return error;
  request.one_tool_call = request.one_tool_call || !parallel;
  return TellOfTools(std::move(tools), none, "tool_choice.name", request);
}

std::optional<ApiError> ReadReasoning(const JsonObject& body, const SizeLimits& limits, ApiRequest& request) {
  const auto value = Member(body, "reasoning");
  if (!value || IsNull(*value)) return std::nullopt;
  const auto object = AsObject(*value);
  if (!object) return InvalidField("reasoning", "must be an object");
  std::string effort;
  if (auto error = ReadText(*object, "effort", limits.tool_name_bytes, effort)) return error;
  if (effort == "none") {
    request.thinking_mode = tokenizer::ThinkingMode::kChat;
  } else if (!effort.empty() && !MapEffort(effort, tokenizer::ChatDialect::kPreview).ok()) {
    return InvalidField("reasoning.effort", "must be one of none, minimal, low, medium, high, xhigh, max, ultra");
  } else {
    request.reasoning_effort = std::move(effort);
  }
  return std::nullopt;
}

// {"format": {"type": "text" | "json_object" | "json_schema", "schema": ...}}
std::optional<ApiError> ReadTextOptions(const JsonObject& body, const SizeLimits& limits, ApiRequest& request) {
  const auto value = Member(body, "text");
  if (!value || IsNull(*value)) return std::nullopt;
  const auto object = AsObject(*value);
  if (!object) return InvalidField("text", "must be an object");
  const auto format_field = Member(*object, "format");
  if (!format_field || IsNull(*format_field)) return std::nullopt;
  const auto format = AsObject(*format_field);
  std::string type;
  if (!format) return InvalidField("text.format", "must be an object with a type");
  if (auto error = ReadText(*format, "type", limits.tool_name_bytes, type)) return WithPlace("text.format", error);
  if (type == "text") return std::nullopt;
  if (type == "json_object") return ReadResponseFormat(*format_field, request);
  if (type != "json_schema") return InvalidField("text.format.type", "must be text, json_object or json_schema");
  const auto schema = Member(*format, "schema");
  if (!schema) return InvalidField("text.format.schema", "must be a JSON schema object");
  return ReadAnswerSchema(*schema, "text.format.schema", request);
}

std::optional<ApiError> ReadNumbers(const JsonObject& body, ApiRequest& request) {
  NumberFields numbers;
  for (const NumericField field :
       {NumericField::kMaxOutputTokens, NumericField::kTemperature, NumericField::kTopP, NumericField::kTopLogprobs}) {
    const auto value = Member(body, LimitOf(field).name);
    if (!value || IsNull(*value)) continue;
    if (auto error = numbers.Read(LimitOf(field), *value)) return error;
  }
  if (const auto& n = numbers[NumericField::kMaxOutputTokens]) request.max_tokens = static_cast<uint32_t>(n->integer);
  if (const auto& n = numbers[NumericField::kTemperature]) request.sampling.temperature = n->real;
  if (const auto& n = numbers[NumericField::kTopP]) request.sampling.top_p = n->real;
  if (const auto& n = numbers[NumericField::kTopLogprobs]) {
    request.sampling.n_top_logprobs = static_cast<uint32_t>(n->integer);
    request.sampling.logprobs = request.sampling.logprobs || n->integer > 0;
  }
  return std::nullopt;
}

std::optional<ApiError> ReadInclude(const JsonObject& body, ApiRequest& request) {
  const auto value = Member(body, "include");
  if (!value || IsNull(*value)) return std::nullopt;
  const auto array = AsArray(*value);
  if (!array) return InvalidField("include", "must be a list");
  for (const JsonValue& entry : *array) {
    const std::string_view name = AsString(entry).value_or("");
    if (name == "message.output_text.logprobs") {
      request.sampling.logprobs = true;
    } else if (name != "reasoning.encrypted_content") {
      return InvalidField("include", "may hold message.output_text.logprobs and reasoning.encrypted_content only");
    }
  }
  return std::nullopt;
}

std::optional<ApiError> ReadModes(const JsonObject& body, const SizeLimits& limits) {
  for (const auto& [name, why] :
       {std::pair("store", "cannot be true: responses are not kept here; send false, or leave it out"),
        std::pair("background", "cannot be true: an answer is made while its client is there")}) {
    bool flag = false;
    if (auto error = ReadFlag(body, name, flag)) return error;
    if (flag) return InvalidField(name, why);
  }
  std::string truncation = "disabled";
  if (auto error = ReadText(body, "truncation", limits.tool_name_bytes, truncation)) return error;
  if (truncation == "disabled") return std::nullopt;
  return InvalidField("truncation", "must be disabled: nothing is taken out of the input");
}

// Members of the response that repeat the request, with a comma in front of each.
std::string EchoOf(const JsonObject& body) {
  std::string out;
  for (const EchoedField& field : kEchoed) {
    const auto value = Member(body, field.name);
    const bool is_sent = value && !IsNull(*value);
    absl::StrAppend(&out, ",\"", std::string(field.name),
                    "\":", is_sent ? simdjson::minify(*value) : std::string(field.default_json));
  }
  return out;
}

std::optional<ApiError> ReadBody(const JsonObject& body, const ParseLimits& limits, ApiRequest& request) {
  if (auto error = CheckNamesOnce(body)) return error;
  for (const RefusedField& refused : kRefusedFields) {
    const auto value = Member(body, refused.name);
    if (value && !IsNull(*value)) return InvalidField(refused.name, refused.why);
  }
  const SizeLimits& sizes = limits.sizes;
  if (auto error = ReadText(body, "model", sizes.model_name_bytes, request.model)) return error;
  if (auto error = ReadModes(body, sizes)) return error;
  const auto input = Member(body, "input");
  if (!input) return InvalidField("input", "is required: a string or a list of items");
  if (auto error = ReadInput(*input, sizes, request)) return error;
  std::string instructions;
  if (auto error = ReadText(body, "instructions", sizes.body_bytes, instructions)) return error;
  if (!instructions.empty()) {
    tokenizer::ChatMessage system;
    system.role = "system";
    system.content = std::move(instructions);
    request.messages.insert(request.messages.begin(), std::move(system));
  }
  if (auto error = ReadTools(body, sizes, request)) return error;
  if (auto error = ReadReasoning(body, sizes, request)) return error;
  if (auto error = ReadTextOptions(body, sizes, request)) return error;
  if (auto error = ReadInclude(body, request)) return error;
  if (auto error = ReadFlag(body, "stream", request.stream)) return error;
  if (auto error = ReadNumbers(body, request)) return error;
  request.echo_members = EchoOf(body);
  return std::nullopt;
}

}  // namespace

std::variant<ApiRequest, ApiError> ParseResponsesBody(std::string_view body, const ParseLimits& limits) {
  simdjson::dom::parser parser;
  const std::variant<JsonObject, ApiError> object = ParseJsonBody(parser, body, limits.sizes);
  if (const auto* error = std::get_if<ApiError>(&object)) return *error;
  ApiRequest request;
  request.api = Api::kChat;
  request.form = AnswerForm::kResponses;
  if (auto error = ReadBody(std::get<JsonObject>(object), limits, request)) return *std::move(error);
  return request;
}

}  // namespace longshelf::router
