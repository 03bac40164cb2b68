// Bodies that clients send: chat, completions, messages, responses, park, resume; names of sessions. What is accepted
// is within the limits table, is JSON to another parser too, and can be rendered; what is refused is refused in words
// that JSON can carry.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "anthropic/messages_request.h"
#include "common/check.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "random_text.h"
#include "responses/responses_request.h"
#include "router/api_request.h"
#include "router/effort.h"

namespace longshelf::router {
namespace {

using tokenizer::ChatMessage;
using tokenizer::testing::IsUtf8;

enum Kind : uint8_t { kChatBody, kCompletionBody, kMessagesBody, kResponsesBody, kPark, kResume, kSessionId, kKinds };
const ParseLimits kLimits{kSizeLimits, 1000};

bool IsIn(double value, double min, double max) { return value >= min && value <= max; }

void CheckError(const ApiError& error) {
  LONGSHELF_CHECK(error.http_status == 400 && !error.message.empty());
  LONGSHELF_CHECK(IsUtf8(error.message) && IsUtf8(error.param));
}

void CheckTokens(const std::vector<uint32_t>& tokens) {
  LONGSHELF_CHECK(std::ranges::all_of(tokens, [](uint32_t token) { return token < kLimits.vocab_size; }));
}

void CheckNumbers(const ApiRequest& request) {
  LONGSHELF_CHECK(request.n >= 1 && request.n <= 16);
  LONGSHELF_CHECK(!request.max_tokens || IsIn(*request.max_tokens, request.echo ? 0 : 1, 1 << 20));
  const Sampling& sampling = request.sampling;
  LONGSHELF_CHECK(IsIn(sampling.temperature, 0, 2) && IsIn(sampling.top_p, 0, 1) && IsIn(sampling.min_p, 0, 1));
  LONGSHELF_CHECK(IsIn(sampling.presence_penalty, -2, 2) && IsIn(sampling.frequency_penalty, -2, 2));
  LONGSHELF_CHECK(sampling.top_k <= 1u << 20 && sampling.n_top_logprobs <= 20);
  LONGSHELF_CHECK(sampling.logprobs || sampling.n_top_logprobs == 0);
  LONGSHELF_CHECK(sampling.logit_bias.size() <= 1024);
  for (size_t i = 0; i < sampling.logit_bias.size(); ++i) {
    const TokenBias& entry = sampling.logit_bias[i];
    LONGSHELF_CHECK(entry.token < kLimits.vocab_size && IsIn(entry.bias, -100, 100));
    LONGSHELF_CHECK(i == 0 || sampling.logit_bias[i - 1].token < entry.token);
  }
}

void CheckTerms(const ParkTerms& terms) {
  LONGSHELF_CHECK(terms.retention >= absl::Seconds(1) && terms.retention <= absl::Hours(24 * 366));
}

void CheckCommon(const ApiRequest& request, std::string_view body) {
  CheckNumbers(request);
  LONGSHELF_CHECK(request.model.size() <= kSizeLimits.model_name_bytes);
  LONGSHELF_CHECK(request.stop.size() <= kSizeLimits.stop_strings);
  for (const std::string& stop : request.stop) {
    LONGSHELF_CHECK(!stop.empty() && stop.size() <= kSizeLimits.stop_string_bytes && IsUtf8(stop));
  }
  LONGSHELF_CHECK(request.stop_token_ids.size() <= kSizeLimits.stop_token_ids);
  CheckTokens(request.stop_token_ids);
  LONGSHELF_CHECK(request.user_id.size() <= kSizeLimits.user_id_bytes);
  LONGSHELF_CHECK(request.stream || !request.include_usage);
  const bool has_session = !request.session.empty();
  LONGSHELF_CHECK(!has_session || (!CheckSessionId(request.session) && *request.body == body && request.n == 1));
  if (request.park) CheckTerms(*request.park);
  LONGSHELF_CHECK(has_session || !request.park);
}

void CheckChat(const ApiRequest& request) {
  LONGSHELF_CHECK(!request.messages.empty() && request.messages.size() <= kSizeLimits.messages + 1);
  LONGSHELF_CHECK(request.continues_assistant == (request.messages.back().role == "assistant"));
  for (const ChatMessage& message : request.messages) {
    LONGSHELF_CHECK(message.tool_calls.size() <= kSizeLimits.tool_calls);
    for (const std::string& tool : message.tools) LONGSHELF_CHECK(nlohmann::json::accept(tool));
  }
  LONGSHELF_CHECK(!request.forced_call || !request.tools.empty());
  LONGSHELF_CHECK(request.answer_schema.empty() || nlohmann::json::accept(request.answer_schema));
  const auto effort = MapEffort(request.reasoning_effort, tokenizer::ChatDialect::kPreview);
  LONGSHELF_CHECK(effort.ok());
  const auto prompt = tokenizer::RenderChatPrompt(
      request.messages, {.thinking_mode = request.thinking_mode, .reasoning_effort = *effort});
  LONGSHELF_CHECK(prompt.ok() && IsUtf8(prompt->text));
  size_t end = 0;
  for (const tokenizer::TextRange& range : prompt->ordinary) {
    LONGSHELF_CHECK(end <= range.begin && range.begin < range.end && range.end <= prompt->text.size());
    LONGSHELF_CHECK(IsUtf8(prompt->text.substr(range.begin, range.end - range.begin)));
    end = range.end;
  }
}

std::variant<ApiRequest, ApiError> Parsed(Kind kind, std::string_view body) {
  static const ThinkingSigner kSigner("secret", "tenant");
  switch (kind) {
    case kMessagesBody:
      return ParseMessagesBody(body, kLimits, kSigner, /*counts_only=*/body.size() % 2 == 0);
    case kResponsesBody:
      return ParseResponsesBody(body, kLimits);
    default:
      return ParseRequestBody(kind == kChatBody ? Api::kChat : Api::kCompletions, body, kLimits);
  }
}

void ParseRequest(Kind kind, std::string_view body) {
  const Api api = kind == kCompletionBody ? Api::kCompletions : Api::kChat;
  const auto parsed = Parsed(kind, body);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return CheckError(*error);
  LONGSHELF_CHECK(nlohmann::json::accept(body));
  const auto& request = std::get<ApiRequest>(parsed);
  LONGSHELF_CHECK(request.api == api);
  CheckCommon(request, body);
  if (api == Api::kChat) return CheckChat(request);
  LONGSHELF_CHECK(!request.prompts.empty());
  LONGSHELF_CHECK(request.prompts.size() <= 128 && request.prompts.size() * request.n_candidates() <= 256);
  LONGSHELF_CHECK(!request.stream || request.best_of <= request.n);
  for (const PromptInput& prompt : request.prompts) {
    if (const auto* tokens = std::get_if<std::vector<uint32_t>>(&prompt)) CheckTokens(*tokens);
    if (const auto* text = std::get_if<std::string>(&prompt)) LONGSHELF_CHECK(IsUtf8(*text));
  }
  LONGSHELF_CHECK(IsUtf8(request.suffix));
}

void ParseSmall(Kind kind, std::string_view text) {
  if (kind == kPark) {
    const auto terms = ParseParkBody(text, kLimits);
    if (const auto* error = std::get_if<ApiError>(&terms)) return CheckError(*error);
    CheckTerms(std::get<ParkTerms>(terms));
  } else if (kind == kResume) {
    const auto stream = ParseResumeBody(text, kLimits);
    if (const auto* error = std::get_if<ApiError>(&stream)) return CheckError(*error);
  } else if (const auto error = CheckSessionId(text)) {
    CheckError(*error);
  } else {
    LONGSHELF_CHECK(!text.empty() && text.size() <= kSizeLimits.session_id_bytes);
    LONGSHELF_CHECK(std::ranges::all_of(text, [](char c) { return c > ' ' && c < 0x7f && c != '/' && c != '%'; }));
  }
}

std::string Input(Kind kind, std::string_view text) { return std::string(1, static_cast<char>(kind)).append(text); }

constexpr std::string_view kChat =
    R"({"model":"m","messages":[{"role":"system","content":"s","tools":[{"type":"function","function":{"name":"g"}}]},)"
    R"({"role":"user","content":[{"type":"text","text":"\u00e9\ud83d\ude00"},{"type":"text","text":"b"}]},)"
    R"({"role":"assistant","content":null,"reasoning_content":"r","tool_calls":[{"id":"c","type":"function",)"
    R"("function":{"name":"f","arguments":"{\"a\":[1,{\"b\":\"c\"}],\"d\":-0.5}"}}]},)"
    R"({"role":"tool","tool_call_id":"c","content":[{"type":"text","text":"x"}]},{"role":"user","content":"u"}],)"
    R"("tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","x":[1.5e3,null]}}}],)"
    R"("tool_choice":{"type":"function","function":{"name":"f"}},"thinking":{"type":"disabled"},"stream":true,)"
    R"("stream_options":{"include_usage":true},"stop":["a","b"],"n":1,"temperature":0.5,"logprobs":true,)"
    R"("top_logprobs":3,"session":{"id":"s-1","retention_s":60,"durability":"disk"},"user_id":"u1"})";
constexpr std::string_view kMessages =
    R"({"model":"claude-x","max_tokens":9,"system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],)"
    R"("messages":[{"role":"user","content":"u"},{"role":"assistant","content":[{"type":"text","text":"t"},)"
    R"({"type":"tool_use","id":"i","name":"f","input":{"a":[1]}}]},{"role":"user","content":[{"type":"tool_result",)"
    R"("tool_use_id":"i","content":[{"type":"text","text":"r"}],"is_error":false}]}],"tools":[{"name":"f","strict":true,)"
    R"("description":"d","input_schema":{"type":"object"}}],"tool_choice":{"type":"tool","name":"f"},"stop_sequences":)"
    R"(["x"],"thinking":{"type":"enabled","budget_tokens":1024},"metadata":{"user_id":"{\"session_id\":\"1\"}"},)"
    R"("output_config":{"effort":"low","format":{"type":"json_schema","schema":{"type":"object"}}},"top_k":5})";
constexpr std::string_view kResponses =
    R"({"input":[{"role":"developer","content":"d"},{"role":"user","content":[{"type":"input_text","text":"u"}]},)"
    R"({"type":"reasoning","content":[{"type":"reasoning_text","text":"r"}]},{"type":"function_call","call_id":"c",)"
    R"("name":"f","arguments":"{}"},{"type":"function_call_output","call_id":"c","output":"o"}],"tools":[{"type":)"
    R"("function","name":"f","parameters":{"type":"object"},"strict":true}],"tool_choice":"required","stream":true,)"
    R"("instructions":"i","reasoning":{"effort":"high"},"text":{"format":{"type":"json_object"}},"store":false,)"
    R"("include":["message.output_text.logprobs"],"max_output_tokens":7,"metadata":{"a":"b"},"top_logprobs":2})";
constexpr std::string_view kChatPrefix =
    R"({"messages":[{"role":"user","content":"u"},{"role":"assistant","content":"so","prefix":true}],)"
    R"("reasoning_effort":"max","response_format":{"type":"json_object"},"chat_template_kwargs":{"thinking":true}})";
constexpr std::string_view kCompletion =
    R"({"prompt":[1,2,999],"max_tokens":5,"top_p":0.9,"top_k":-1,"min_p":0.1,"seed":-7,"presence_penalty":1.5,)"
    R"("frequency_penalty":-2,"logprobs":5,"stop_token_ids":[3],"best_of":1,"logit_bias":{},"service_tier":"flex",)"
    R"("session":"name","cache_report":true})";
constexpr std::string_view kPrompts =
    R"({"prompt":["one",[5,6],""],"n":2,"echo":true,"logprobs":1,"max_tokens":0,"logit_bias":{"5":-100,"17":0.5},)"
    R"("suffix":null,"seed":null,"best_of":null})";

}  // namespace
}  // namespace longshelf::router

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  using namespace router;  // all of the input is of the router
  return {
      .inputs = {Input(kChatBody, kChat), Input(kChatBody, kChatPrefix), Input(kCompletionBody, kCompletion),
                 Input(kCompletionBody, R"({"prompt":["one \u00e9"],"echo":true})"), Input(kCompletionBody, kPrompts),
                 Input(kCompletionBody, R"({"prompt":"a","suffix":"b"})"), Input(kMessagesBody, kMessages),
                 Input(kResponsesBody, kResponses), Input(kPark, R"({"retention_s":3600,"durability":"disk_all"})"),
                 Input(kResume, R"({"stream":true})"), Input(kSessionId, "agent-7:main_1.b")},
      .words = {"null",
                "true",
                "[]",
                "{}",
                "\"\"",
                "1e309",
                "-0.0",
                "1e15",
                "18446744073709551615",
                "\"role\":",
                "\"content\":",
                "\"tools\":",
                "\"prefix\":true",
                "\"tool_choice\":\"required\",",
                "\"n\":2,",
                "\"logit_bias\":{\"5\":1},",
                "\"suffix\":\"s\",",
                "\"tool_call_id\":\"c\"",
                "\\ud800",
                "\\u0000",
                "\"assistant\"",
                "\"developer\"",
                "\"latest_reminder\"",
                "é",
                "\xf0\x9f\x98\x80",
                "[[[[[[[[[[[[[[[[",
                "{\"a\":",
                "\"type\":\"tool_result\",",
                "\"call_id\":\"c\",",
                "\"system\":",
                "\"session\":\"s\","}};
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longshelf;  // the entry point has no namespace of its own
  using namespace longshelf::router;
  fuzz::FuzzInput input(data, size);
  const auto kind = static_cast<Kind>(input.Byte() % kKinds);
  const std::string_view text = input.Rest();
  if (kind <= kResponsesBody) {
    ParseRequest(kind, text);
  } else {
    ParseSmall(kind, text);
  }
  return 0;
}
