#include "router/choice_output.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"

namespace longshelf::router {
namespace {

using tokenizer::CompletionParser;
using tokenizer::ThinkingMode;

std::optional<CompletionParser> ParserFor(const ApiRequest& request) {
  if (request.api != Api::kChat) return std::nullopt;
  // A continued assistant message has its reasoning behind it.
  return CompletionParser(request.continues_assistant ? ThinkingMode::kChat : request.thinking_mode);
}

std::optional<tokenizer::StopMatcher> MatcherFor(const ApiRequest& request) {
  if (request.stop.empty()) return std::nullopt;
  return tokenizer::StopMatcher(request.stop);
}

std::vector<uint32_t> StopTokens(const ServedModel& model, const ApiRequest& request) {
  std::vector<uint32_t> ids = model.stop_token_ids;
  ids.insert(ids.end(), request.stop_token_ids.begin(), request.stop_token_ids.end());
  return ids;
}

}  // namespace

ChoiceOutput::ChoiceOutput(const ServedModel& model, const PreparedRequest& prepared, uint64_t id_seed)
    : one_tool_call_(prepared.request.one_tool_call),
      logprobs_(prepared.request.sampling.logprobs),
      stop_token_ids_(StopTokens(model, prepared.request)),
      id_seed_(id_seed),
      // The markers of reasoning and tool calls are special tokens: the parser needs them, plain text does not.
      decoder_(*model.tokenizer, /*skip_special=*/prepared.request.api != Api::kChat),
      matcher_(MatcherFor(prepared.request)),
      parser_(ParserFor(prepared.request)) {}

void ChoiceOutput::Take(std::vector<CompletionParser::Event> events, ChoiceDelta& delta) {
  for (CompletionParser::Event& event : events) {
    if (stopped_ && one_tool_call_ && n_tool_calls_ > 0) return;
    switch (event.kind) {
      case CompletionParser::Event::Kind::kReasoning:
        delta.reasoning += event.text;
        break;
      case CompletionParser::Event::Kind::kContent:
        delta.content += event.text;
        break;
      case CompletionParser::Event::Kind::kToolCall:
        event.tool_call.id = absl::StrFormat("call_%016x%04x", id_seed_, n_tool_calls_++);
        delta.tool_calls.push_back(std::move(event.tool_call));
        if (one_tool_call_) stopped_ = true;
        break;
    }
  }
}

void ChoiceOutput::Parse(std::string_view text, ChoiceDelta& delta) {
  if (text.empty()) return;
  if (parser_) {
    Take(parser_->Push(text), delta);
  } else {
    delta.content += text;
  }
}

ChoiceDelta ChoiceOutput::Push(const OutputToken& token) {
  ChoiceDelta delta;
  if (stopped_ || finished_) return delta;
  ++n_tokens_;
  delta.tokens.push_back(token.token);
  const bool in_reasoning = parser_ && parser_->in_reasoning();
  if (in_reasoning) ++n_reasoning_tokens_;
  const bool ends = std::find(stop_token_ids_.begin(), stop_token_ids_.end(), token.token) != stop_token_ids_.end();
  // Of a text completion the end is told too: who scores texts counts on one entry per token.
  if (logprobs_ && (!ends || !parser_)) delta.logprobs.push_back({token.token, token.logprob, token.top, in_reasoning});
  if (ends) return delta;
  const std::string text = decoder_.Push(token.token);
  if (!matcher_) {
    Parse(text, delta);
    return delta;
  }
  const auto match = matcher_->Push(text);
  Parse(match.text, delta);
  if (match.stopped) stopped_ = true;
  return delta;
}

ChoiceDelta ChoiceOutput::Finish() {
  ChoiceDelta delta;
  if (finished_) return delta;
  finished_ = true;
  if (!stopped_) {
    std::string rest = decoder_.Finish();
    if (matcher_) {
      const auto match = matcher_->Push(rest);
      rest = match.text;
      match.stopped ? void(stopped_ = true) : void(rest += matcher_->Finish());
    }
    Parse(rest, delta);
  }
  if (parser_) Take(parser_->Finish(), delta);
  return delta;
}

std::string_view ChoiceOutput::FinishReasonName(FinishReason reason) const {
  if (n_tool_calls_ > 0 && (stopped_ || reason == FinishReason::kStop)) return "tool_calls";
  if (stopped_ || reason == FinishReason::kStop) return "stop";
  return "length";
}

}  // namespace longshelf::router
