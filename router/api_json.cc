#include "router/api_json.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "json_dump.h"
#include "sse.h"

namespace longshelf::router {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no infinity; OpenAI writes this for "impossible".
constexpr double kLowestLogprob = -9999.0;

double Logprob(float logprob) { return std::isfinite(logprob) ? static_cast<double>(logprob) : kLowestLogprob; }

std::string TokenText(const ServedModel& model, uint32_t token) {
  const uint32_t ids[] = {token};
  return model.tokenizer->Decode(ids);
}

Json TokenBytes(const ServedModel& model, uint32_t token) {
  Json bytes = Json::array();
  for (const char c : model.tokenizer->TokenBytes(token)) bytes.push_back(static_cast<unsigned char>(c));
  return bytes;
}

Json ChatTokenLogprob(const ServedModel& model, const TokenLogprobs& entry) {
  Json top = Json::array();
  for (const TokenAlternative& alternative : entry.top) {
    top.push_back({{"token", TokenText(model, alternative.token)},
                   {"logprob", Logprob(alternative.logprob)},
                   {"bytes", TokenBytes(model, alternative.token)}});
  }
  return {{"token", TokenText(model, entry.token)},
          {"logprob", Logprob(entry.logprob)},
          {"bytes", TokenBytes(model, entry.token)},
          {"top_logprobs", std::move(top)}};
}

Json ChatLogprobs(const ServedModel& model, const AnswerHead& head, const std::vector<TokenLogprobs>& entries) {
  Json content = Json::array();
  Json reasoning = Json::array();
  for (const TokenLogprobs& entry : entries) {
    (entry.in_reasoning ? reasoning : content).push_back(ChatTokenLogprob(model, entry));
  }
  Json out = {{"content", std::move(content)}, {"refusal", nullptr}};
  if (head.thinking) out["reasoning_content"] = std::move(reasoning);
  return out;
}

size_t CountCodePoints(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

size_t CountCodePoints(const ServedModel& model, const std::vector<TokenLogprobs>& entries) {
  size_t n = 0;
  for (const TokenLogprobs& entry : entries) n += CountCodePoints(model.tokenizer->TokenBytes(entry.token));
  return n;
}

Json TextLogprobs(const ServedModel& model, const std::vector<TokenLogprobs>& entries, size_t& offset) {
  Json tokens = Json::array();
  Json logprobs = Json::array();
  Json tops = Json::array();
  Json offsets = Json::array();
  for (const TokenLogprobs& entry : entries) {
    tokens.push_back(TokenText(model, entry.token));
    logprobs.push_back(entry.is_first ? Json() : Json(Logprob(entry.logprob)));
    Json top = entry.is_first ? Json() : Json::object();
    for (const TokenAlternative& alternative : entry.top) {
      top[TokenText(model, alternative.token)] = Logprob(alternative.logprob);
    }
    tops.push_back(std::move(top));
    offsets.push_back(offset);
    offset += CountCodePoints(model.tokenizer->TokenBytes(entry.token));
  }
  return {{"tokens", std::move(tokens)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

Json UsageJson(const Usage& usage) {
  Json details = {{"cached_tokens", usage.n_cached_tokens}};
  if (usage.is_reported) {
    details["worker_tokens"] = usage.n_local_tokens;
    details["store_tokens"] = usage.n_store_tokens;
    details["computed_tokens"] = usage.n_prompt_tokens - usage.n_cached_tokens;
    details["miss_reason"] = usage.miss_reason.empty() ? Json() : Json(usage.miss_reason);
  }
  return {{"prompt_tokens", usage.n_prompt_tokens},
          {"completion_tokens", usage.n_completion_tokens},
          {"total_tokens", uint64_t{usage.n_prompt_tokens} + usage.n_completion_tokens},
          {"prompt_cache_hit_tokens", usage.n_cached_tokens},
          {"prompt_cache_miss_tokens", usage.n_prompt_tokens - usage.n_cached_tokens},
          {"prompt_tokens_details", std::move(details)},
          {"completion_tokens_details",
           {{"reasoning_tokens", usage.n_reasoning_tokens},
            {"accepted_prediction_tokens", usage.drafts.n_accepted},
            {"rejected_prediction_tokens", usage.drafts.n_rejected}}}};
}

Json Head(const AnswerHead& head, std::string_view object) {
  return {{"id", head.id},
          {"object", object},
          {"created", head.created_unix_s},
          {"model", head.model},
          {"system_fingerprint", head.system_fingerprint.empty() ? Json() : Json(head.system_fingerprint)}};
}

std::string_view ChunkObject(const AnswerHead& head) {
  return head.api == Api::kChat ? "chat.completion.chunk" : "text_completion";
}

std::string SseEvent(const Json& json) { return DataEvent(DumpJson(json)); }

Json ToolCallJson(const std::string& id, const std::string& name, const std::string& arguments) {
  return {{"id", id}, {"type", "function"}, {"function", {{"name", name}, {"arguments", arguments}}}};
}

Json ModelObject(const ServedModel& model, uint32_t n_context_max) {
  return {{"id", model.name},
          {"object", "model"},
          {"created", model.created_unix_s},
          {"owned_by", "longshelf"},
          {"context_length", n_context_max}};
}

// One choice of a chunk; `body` is {"delta": ...} or {"text": ...}.
Json ChunkChoice(uint32_t choice, Json body, Json logprobs, Json finish_reason) {
  Json out = {{"index", choice}};
  out.update(body);
  out["logprobs"] = std::move(logprobs);
  out["finish_reason"] = std::move(finish_reason);
  return out;
}

Json Chunk(const AnswerHead& head, bool include_usage, Json choice) {
  Json out = Head(head, ChunkObject(head));
  out["choices"] = Json::array({std::move(choice)});
  if (include_usage) out["usage"] = nullptr;
  return out;
}

}  // namespace

StreamAnswer::StreamAnswer(const ServedModel& model, AnswerHead head, uint32_t n_choices, bool include_usage)
    : model_(model),
      head_(std::move(head)),
      include_usage_(include_usage),
      n_choices_(n_choices),
      text_offset_(n_choices, 0) {}

void StreamAnswer::Skip(uint32_t choice, const ChoiceDelta& delta) {
  text_offset_[choice] += CountCodePoints(model_, delta.logprobs);
}

void StreamAnswer::AnsweredBy(std::string fingerprint, const Usage&) {
  head_.system_fingerprint = std::move(fingerprint);
}

std::string StreamAnswer::Opening() {
  std::string out;
  for (uint32_t i = 0; i < n_choices_; ++i) {
    if (head_.api == Api::kChat) {
      // Clients of thinking models look for the field in the first chunk.
      Json delta = head_.thinking ? Json{{"role", "assistant"}, {"content", nullptr}, {"reasoning_content", ""}}
                                  : Json{{"role", "assistant"}, {"content", ""}};
      out += SseEvent(Chunk(head_, include_usage_, ChunkChoice(i, {{"delta", std::move(delta)}}, nullptr, nullptr)));
    }
  }
  return out;
}

std::string StreamAnswer::Delta(uint32_t choice, const ChoiceDelta& delta) {
  if (delta.empty()) return "";
  if (head_.api == Api::kChat) return ChatDelta(choice, delta);
  Json logprobs = head_.logprobs ? TextLogprobs(model_, delta.logprobs, text_offset_[choice]) : Json();
  return SseEvent(
      Chunk(head_, include_usage_,
            ChunkChoice(choice, {{"text", delta.Text(AnswerPart::Kind::kContent)}}, std::move(logprobs), nullptr)));
}

std::string StreamAnswer::ChatDelta(uint32_t choice, const ChoiceDelta& delta) {
  std::string out;
  Json logprobs = delta.logprobs.empty() ? Json() : ChatLogprobs(model_, head_, delta.logprobs);
  const auto emit = [&](Json body) {
    out += SseEvent(Chunk(head_, include_usage_,
                          ChunkChoice(choice, {{"delta", std::move(body)}}, std::exchange(logprobs, Json()), nullptr)));
  };
  for (const AnswerPart& part : delta.parts) {
    switch (part.kind) {
      case AnswerPart::Kind::kReasoning:
        emit({{"reasoning_content", part.text}});
        break;
      case AnswerPart::Kind::kContent:
        emit({{"content", part.text}});
        break;
      case AnswerPart::Kind::kCallBegin: {
        Json head = {{"index", part.call}};
        head.update(ToolCallJson(part.call_id, part.text, ""));
        emit({{"tool_calls", Json::array({std::move(head)})}});
        break;
      }
      case AnswerPart::Kind::kCallArguments:
        emit({{"tool_calls", Json::array({{{"index", part.call}, {"function", {{"arguments", part.text}}}}})}});
        break;
      case AnswerPart::Kind::kCallEnd:
        break;
    }
  }
  if (!logprobs.is_null()) emit(Json::object());  // of text that is still held back
  return out;
}

std::string StreamAnswer::Finished(uint32_t choice, const ChoiceEnd& end) {
  Json body = head_.api == Api::kChat ? Json{{"delta", Json::object()}} : Json{{"text", ""}};
  return SseEvent(Chunk(head_, include_usage_, ChunkChoice(choice, std::move(body), nullptr, end.finish_reason)));
}

std::string StreamAnswer::Done(const Usage& usage) {
  std::string out;
  if (include_usage_) {
    Json last = Head(head_, ChunkObject(head_));
    last["choices"] = Json::array();
    last["usage"] = UsageJson(usage);
    out = SseEvent(last);
  }
  return out + DataEvent("[DONE]");
}

std::string StreamAnswer::Error(const ApiError& error) {
  return absl::StrCat(DataEvent(ErrorBody(error)), DataEvent("[DONE]"));
}

std::string StreamAnswer::Progress(const PrefillProgress& progress) { return ProgressComment(progress); }
std::string StreamAnswer::KeepAlive() { return std::string(kKeepAliveComment); }

WholeAnswer::WholeAnswer(const ServedModel& model, AnswerHead head, uint32_t n_choices)
    : model_(model), head_(std::move(head)), choices_(n_choices) {}

void WholeAnswer::Skip(uint32_t choice, const ChoiceDelta& delta) {
  Choice& c = choices_[choice];
  c.text_offset += CountCodePoints(model_, delta.logprobs);
  for (const AnswerPart& part : delta.parts) {
    if (part.kind == AnswerPart::Kind::kCallBegin) c.begun_call = {part.call_id, part.text, ""};
    if (part.kind == AnswerPart::Kind::kCallArguments) c.begun_call->arguments += part.text;
    if (part.kind == AnswerPart::Kind::kCallEnd) c.begun_call.reset();
  }
}

void WholeAnswer::AnsweredBy(std::string fingerprint, const Usage&) {
  head_.system_fingerprint = std::move(fingerprint);
}

void WholeAnswer::AddPart(const AnswerPart& part, Choice& choice) {
  const auto begin = [&](tokenizer::ChatToolCall call) {
    if (!choice.first_call) choice.first_call = part.call;
    choice.tool_calls.push_back(std::move(call));
  };
  if (choice.begun_call && part.kind == AnswerPart::Kind::kCallArguments) {
    begin(*std::exchange(choice.begun_call, std::nullopt));
  }
  switch (part.kind) {
    case AnswerPart::Kind::kReasoning:
      choice.reasoning += part.text;
      break;
    case AnswerPart::Kind::kContent:
      choice.content += part.text;
      break;
    case AnswerPart::Kind::kCallBegin:
      begin({part.call_id, part.text, ""});
      break;
    case AnswerPart::Kind::kCallArguments:
      choice.tool_calls.back().arguments += part.text;
      break;
    case AnswerPart::Kind::kCallEnd:
      break;
  }
}

std::string WholeAnswer::Delta(uint32_t choice, const ChoiceDelta& delta) {
  Choice& c = choices_[choice];
  for (const AnswerPart& part : delta.parts) AddPart(part, c);
  c.logprobs.insert(c.logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
  return "";
}

std::string WholeAnswer::Finished(uint32_t choice, const ChoiceEnd& end) {
  choices_[choice].finish_reason = std::string(end.finish_reason);
  return "";
}

std::string WholeAnswer::Error(const ApiError& error) { return ErrorBody(error); }
// JSON may have blank lines in front.
std::string WholeAnswer::KeepAlive() { return "\n"; }

std::string WholeAnswer::Done(const Usage& usage) {
  const bool chat = head_.api == Api::kChat;
  Json out = Head(head_, chat ? "chat.completion" : "text_completion");
  Json choices = Json::array();
  for (uint32_t i = 0; i < choices_.size(); ++i) {
    const Choice& c = choices_[i];
    Json choice = {{"index", i}};
    if (chat) {
      Json message = {{"role", "assistant"}, {"content", c.content}};
      if (head_.thinking) message["reasoning_content"] = c.reasoning;
      if (!c.tool_calls.empty()) {
        Json calls = Json::array();
        for (size_t k = 0; k < c.tool_calls.size(); ++k) {
          const tokenizer::ChatToolCall& of = c.tool_calls[k];
          Json call = {{"index", *c.first_call + k}};
          call.update(ToolCallJson(of.id, of.name, of.arguments));
          calls.push_back(std::move(call));
        }
        message["tool_calls"] = std::move(calls);
      }
      choice["message"] = std::move(message);
      choice["logprobs"] = head_.logprobs ? ChatLogprobs(model_, head_, c.logprobs) : Json();
    } else {
      size_t offset = c.text_offset;
      choice["text"] = c.content;
      choice["logprobs"] = head_.logprobs ? TextLogprobs(model_, c.logprobs, offset) : Json();
    }
    choice["finish_reason"] = c.finish_reason;
    choices.push_back(std::move(choice));
  }
  out["choices"] = std::move(choices);
  out["usage"] = UsageJson(usage);
  return DumpJson(out);
}

std::string TokenLogprobsJson(const ServedModel& model, const std::vector<TokenLogprobs>& entries) {
  Json out = Json::array();
  for (const TokenLogprobs& entry : entries) out.push_back(ChatTokenLogprob(model, entry));
  return DumpJson(out);
}

std::string ModelJson(const ServedModel& model, uint32_t n_context_max) {
  return DumpJson(ModelObject(model, n_context_max));
}

std::string ModelListJson(const ServedModel& model, uint32_t n_context_max) {
  return DumpJson({{"object", "list"}, {"data", Json::array({ModelObject(model, n_context_max)})}});
}

}  // namespace longshelf::router
