#include "inference_convert_service.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "json_dump.h"
#include "json_fields.h"

namespace longshelf::router {
namespace {

using Json = nlohmann::ordered_json;

template <typename Repeated>
Json ListOf(const Repeated& values) {
  Json out = Json::array();
  for (const auto& value : values) out.push_back(value);
  return out;
}

// What JSON has no number for would become null there, which means the default.
std::optional<ApiError> CheckNumbers(const v1::GenerationOptions& options) {
  for (const auto& [field, value] :
       {std::pair(NumericField::kTemperature, options.temperature()), std::pair(NumericField::kTopP, options.top_p()),
        std::pair(NumericField::kMinP, options.min_p()),
        std::pair(NumericField::kPresencePenalty, options.presence_penalty()),
        std::pair(NumericField::kFrequencyPenalty, options.frequency_penalty())}) {
    if (auto error = CheckNumber(field, value)) return error;
  }
  return std::nullopt;
}

void AddOptions(const v1::GenerationOptions& options, Json& body) {
  if (options.has_max_tokens()) body["max_tokens"] = options.max_tokens();
  if (options.has_temperature()) body["temperature"] = options.temperature();
  if (options.has_top_p()) body["top_p"] = options.top_p();
  if (options.has_top_k()) body["top_k"] = options.top_k();
  if (options.has_min_p()) body["min_p"] = options.min_p();
  // Any 64 bits are a seed.
  if (options.has_seed()) body["seed"] = static_cast<int64_t>(options.seed());
  if (options.has_presence_penalty()) body["presence_penalty"] = options.presence_penalty();
  if (options.has_frequency_penalty()) body["frequency_penalty"] = options.frequency_penalty();
  if (!options.service_tier().empty()) body["service_tier"] = options.service_tier();
  if (options.stop_size() > 0) body["stop"] = ListOf(options.stop());
  if (options.stop_token_ids_size() > 0) body["stop_token_ids"] = ListOf(options.stop_token_ids());
  if (!options.user_id().empty()) body["user_id"] = options.user_id();
  if (options.has_top_logprobs()) body["logprobs"] = options.top_logprobs();
}

void AddSession(const v1::SessionOptions& session, Json& body) {
  Json object = {{"id", session.id()}};
  if (session.retention_s() > 0) object["retention_s"] = session.retention_s();
  if (!session.durability().empty()) object["durability"] = session.durability();
  body["session"] = std::move(object);
}

// A tool's schema is JSON text of the client: it must be one value of bounded depth before it becomes part of a body.
std::optional<std::string> CheckedJson(const std::string& text, const ParseLimits& limits) {
  constexpr size_t kDepthOfBody = 8;  // what the body nests around it
  if (text.size() > limits.sizes.tool_schema_bytes) return std::nullopt;
  simdjson::dom::parser parser;
  if (parser.allocate(std::max<size_t>(text.size(), 1), limits.sizes.json_depth - kDepthOfBody) != simdjson::SUCCESS) {
    return std::nullopt;
  }
  simdjson::dom::element root;
  if (parser.parse(text).get(root) != simdjson::SUCCESS) return std::nullopt;
  return simdjson::minify(root);
}

// {"type":"function","function":{...}} with the schema pasted in.
std::variant<std::string, ApiError> ToolsJson(const v1::ChatRequest& request, const ParseLimits& limits) {
  std::string out = "[";
  for (int i = 0; i < request.tools_size(); ++i) {
    const v1::Tool& tool = request.tools(i);
    Json function = {{"name", tool.name()}};
    if (!tool.description().empty()) function["description"] = tool.description();
    std::string text = DumpJson(function);
    if (!tool.parameters_json().empty()) {
      const auto parameters = CheckedJson(tool.parameters_json(), limits);
      if (!parameters) {
        return InvalidField(
            absl::StrCat("tools[", i, "].parameters_json"),
            absl::StrCat("must be a JSON object of at most ", limits.sizes.tool_schema_bytes, " bytes"));
      }
      text.pop_back();
      absl::StrAppend(&text, ",\"parameters\":", *parameters, "}");
    }
    absl::StrAppend(&out, i > 0 ? "," : "", "{\"type\":\"function\",\"function\":", text, "}");
  }
  return out + "]";
}

Json MessageJson(const v1::ChatMessage& message) {
  Json out = {{"role", message.role()}, {"content", message.content()}};
  if (!message.reasoning_content().empty()) out["reasoning_content"] = message.reasoning_content();
  for (const v1::ToolCall& call : message.tool_calls()) {
    out["tool_calls"].push_back({{"id", call.id()},
                                 {"type", "function"},
                                 {"function", {{"name", call.name()}, {"arguments", call.arguments_json()}}}});
  }
  if (message.role() == "tool") out["tool_call_id"] = message.tool_call_id();
  return out;
}

// Parts of one call in one reply are one delta.
void AddCallPart(const AnswerPart& part, v1::ChatReply& reply) {
  const int n = reply.tool_calls_size();
  const bool goes_on = n > 0 && reply.tool_calls(n - 1).index() == part.call;
  v1::ToolCallDelta& out = goes_on ? *reply.mutable_tool_calls(n - 1) : *reply.add_tool_calls();
  out.set_index(part.call);
  if (part.kind == AnswerPart::Kind::kCallBegin) {
    out.set_id(part.call_id);
    out.set_name(part.text);
  }
  if (part.kind == AnswerPart::Kind::kCallArguments) out.mutable_arguments_json()->append(part.text);
  if (part.kind == AnswerPart::Kind::kCallEnd) out.set_complete(true);
}

}  // namespace

std::variant<ApiRequest, ApiError> FromProto(const v1::GenerateRequest& request, const ParseLimits& limits) {
  if (auto error = CheckNumbers(request.options())) return *std::move(error);
  Json body = {{"model", request.model()}};
  if (request.has_tokens()) {
    body["prompt"] = ListOf(request.tokens().ids());
  } else {
    body["prompt"] = request.text();
  }
  AddOptions(request.options(), body);
  if (request.has_session()) AddSession(request.session(), body);
  return ParseRequestBody(Api::kCompletions, DumpJson(body), limits);
}

std::variant<ApiRequest, ApiError> FromProto(const v1::ChatRequest& request, const ParseLimits& limits) {
  if (auto error = CheckNumbers(request.options())) return *std::move(error);
  if (request.options().has_top_logprobs()) {
    return InvalidField("options.top_logprobs", "is not for Chat: its replies have text, not tokens");
  }
  Json body = {{"model", request.model()}, {"messages", Json::array()}};
  for (const v1::ChatMessage& message : request.messages()) body["messages"].push_back(MessageJson(message));
  AddOptions(request.options(), body);
  if (request.has_session()) AddSession(request.session(), body);
  if (request.has_thinking()) body["thinking"] = {{"type", request.thinking() ? "enabled" : "disabled"}};
  if (!request.reasoning_effort().empty()) body["reasoning_effort"] = request.reasoning_effort();
  if (request.has_tool_choice_mode()) body["tool_choice"] = request.tool_choice_mode();
  if (request.has_tool_choice_name()) {
    body["tool_choice"] = {{"type", "function"}, {"function", {{"name", request.tool_choice_name()}}}};
  }
  std::string text = DumpJson(body);
  if (request.tools_size() > 0) {
    auto tools = ToolsJson(request, limits);
    if (auto* error = std::get_if<ApiError>(&tools)) return std::move(*error);
    text.pop_back();
    absl::StrAppend(&text, ",\"tools\":", std::get<std::string>(tools), "}");
  }
  return ParseRequestBody(Api::kChat, text, limits);
}

std::variant<ApiRequest, ApiError> FromProto(const v1::CountTokensRequest& request, const ParseLimits& limits) {
  if (request.has_chat()) return FromProto(request.chat(), limits);
  v1::GenerateRequest generate;
  generate.set_text(request.text());
  return FromProto(generate, limits);
}

std::variant<ParkTerms, ApiError> FromProto(const v1::ParkSessionRequest& request, const ParseLimits& limits) {
  if (auto error = CheckSessionId(request.id())) return *std::move(error);
  Json body = {{"retention_s", request.retention_s()}};
  if (!request.durability().empty()) body["durability"] = request.durability();
  return ParseParkBody(DumpJson(body), limits);
}

v1::SessionState ToProto(const SessionInfo& info) {
  const auto seconds = [](absl::Time time) {
    return time == absl::InfinitePast() ? int64_t{0} : absl::ToUnixSeconds(time);
  };
  v1::SessionState out;
  out.set_id(info.id);
  out.set_model(info.model);
  out.set_status(info.is_running ? "running" : info.finish_reason.empty() ? "unfinished" : "finished");
  out.set_finish_reason(info.finish_reason);
  out.set_created_unix_s(seconds(info.created));
  out.set_parked_unix_s(seconds(info.parked_at));
  out.set_retain_until_unix_s(seconds(info.retain_until));
  if (info.parked_at != absl::InfinitePast()) out.set_durability(std::string(DurabilityName(info.durability)));
  out.set_prompt_tokens(info.n_prompt_tokens);
  out.set_output_tokens(info.n_output_tokens);
  if (info.kv.has_value()) {
    out.set_kv_tokens(info.kv->state.n_tokens);
    out.set_kv_bytes(info.kv->state.n_bytes);
  }
  return out;
}

v1::Usage ToProto(const Usage& usage) {
  v1::Usage out;
  out.set_prompt_tokens(usage.n_prompt_tokens);
  out.set_completion_tokens(usage.n_completion_tokens);
  out.set_total_tokens(usage.n_prompt_tokens + usage.n_completion_tokens);
  out.set_prompt_cache_hit_tokens(usage.n_cached_tokens);
  out.set_prompt_cache_miss_tokens(usage.n_prompt_tokens - usage.n_cached_tokens);
  out.set_reasoning_tokens(usage.n_reasoning_tokens);
  out.set_accepted_prediction_tokens(usage.drafts.n_accepted);
  out.set_rejected_prediction_tokens(usage.drafts.n_rejected);
  out.set_worker_tokens(usage.n_local_tokens);
  out.set_store_tokens(usage.n_store_tokens);
  out.set_miss_reason(usage.miss_reason);
  return out;
}

void AddDelta(const ChoiceDelta& delta, v1::GenerateReply& reply) {
  reply.mutable_text()->append(delta.Text(AnswerPart::Kind::kContent));
  reply.mutable_tokens()->Add(delta.tokens.begin(), delta.tokens.end());
  for (const TokenLogprobs& entry : delta.logprobs) {
    v1::TokenLogprobInfo& info = *reply.add_logprobs();
    info.set_token(entry.token);
    info.set_logprob(entry.logprob);
    for (const TokenAlternative& alternative : entry.top) {
      v1::TokenLogprobInfo& top = *info.add_top();
      top.set_token(alternative.token);
      top.set_logprob(alternative.logprob);
    }
  }
}

void AddDelta(const ChoiceDelta& delta, v1::ChatReply& reply) {
  for (const AnswerPart& part : delta.parts) {
    switch (part.kind) {
      case AnswerPart::Kind::kReasoning:
        reply.mutable_reasoning_content()->append(part.text);
        break;
      case AnswerPart::Kind::kContent:
        reply.mutable_content()->append(part.text);
        break;
      case AnswerPart::Kind::kCallBegin:
      case AnswerPart::Kind::kCallArguments:
      case AnswerPart::Kind::kCallEnd:
        AddCallPart(part, reply);
        break;
    }
  }
}

}  // namespace longshelf::router
