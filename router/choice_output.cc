#include "router/choice_output.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "tokenizer/chat_markup.h"

namespace longshelf::router {
namespace {

using tokenizer::AnswerPiece;
using tokenizer::CompletionParser;
using tokenizer::ThinkingMode;

std::optional<CompletionParser> ParserFor(const PreparedRequest& prepared) {
  const ApiRequest& request = prepared.request;
  if (request.api != Api::kChat) return std::nullopt;
  // A continued assistant message has its reasoning behind it.
  return CompletionParser(request.continues_assistant ? ThinkingMode::kChat : request.thinking_mode, request.stop);
}

std::optional<tokenizer::StopMatcher> MatcherFor(const ApiRequest& request) {
  if (request.stop.empty() || request.api == Api::kChat) return std::nullopt;
  return tokenizer::StopMatcher(request.stop);
}

std::vector<uint32_t> StopTokens(const ServedModel& model, const ApiRequest& request) {
  std::vector<uint32_t> ids = model.stop_token_ids;
  ids.insert(ids.end(), request.stop_token_ids.begin(), request.stop_token_ids.end());
  return ids;
}

}  // namespace

std::string ChoiceDelta::Text(AnswerPart::Kind kind) const {
  std::string out;
  for (const AnswerPart& part : parts) {
    if (part.kind == kind) out += part.text;
  }
  return out;
}

ChoiceOutput::ChoiceOutput(const ServedModel& model, const PreparedRequest& prepared, uint64_t id_seed)
    : tokenizer_(*model.tokenizer),
      one_tool_call_(prepared.request.one_tool_call),
      logprobs_(prepared.request.sampling.logprobs),
      stop_token_ids_(StopTokens(model, prepared.request)),
      id_seed_(id_seed),
      decoder_(*model.tokenizer),
      matcher_(MatcherFor(prepared.request)),
      parser_(ParserFor(prepared)),
      remembers_(prepared.turns != nullptr && parser_ && !prepared.request.continues_assistant) {
  turn_.content = "";
}

// Control tokens are none, but for those that the parser waits for.
bool ChoiceOutput::IsText(uint32_t token) const {
  if (!tokenizer_.IsSpecial(token)) return true;
  if (!parser_) return false;
  const std::string_view bytes = tokenizer_.TokenBytes(token);
  return bytes == tokenizer::protocol::kDsml || (bytes == tokenizer::protocol::kThinkEnd && parser_->in_reasoning());
}

void ChoiceOutput::Take(std::vector<AnswerPiece> pieces, ChoiceDelta& delta) {
  for (AnswerPiece& piece : pieces) {
    if (one_tool_call_ && n_tool_calls_ > 0) return;
    AnswerPart part{piece.kind, std::move(piece.text), n_tool_calls_, {}};
    if (piece.kind == AnswerPiece::Kind::kCallBegin) {
      part.call_id = absl::StrFormat("call_%016x%04x", id_seed_, n_tool_calls_);
    }
    if (piece.kind == AnswerPiece::Kind::kCallEnd) {
      ++n_tool_calls_;
      if (one_tool_call_) stopped_ = true;
    }
    if (remembers_) AddToTurn(part);
    delta.parts.push_back(std::move(part));
  }
}

void ChoiceOutput::AddToTurn(const AnswerPart& part) {
  switch (part.kind) {
    case AnswerPart::Kind::kReasoning:
      turn_.reasoning_content += part.text;
      break;
    case AnswerPart::Kind::kContent:
      *turn_.content += part.text;
      break;
    case AnswerPart::Kind::kCallBegin:
      turn_.tool_calls.push_back({part.call_id, part.text, ""});
      break;
    case AnswerPart::Kind::kCallArguments:
      turn_.tool_calls.back().arguments += part.text;
      break;
    case AnswerPart::Kind::kCallEnd:
      break;
  }
}

void ChoiceOutput::RememberTurn(TurnMemory& turns, const std::string& namespace_id) {
  const auto end_of_sentence = tokenizer_.TokenId(tokenizer::protocol::kEos);
  if (!remembers_ || stopped_ || tokens_.empty() || tokens_.back() != end_of_sentence) return;
  std::string text;
  for (const uint32_t token : tokens_) text += tokenizer_.TokenBytes(token);
  turns.Remember(namespace_id, turn_, std::move(text), std::move(tokens_));
}

void ChoiceOutput::ParseChat(std::string_view text, ChoiceDelta& delta) {
  std::vector<AnswerPiece> pieces;
  parser_->Push(text, pieces);
  Take(std::move(pieces), delta);
  stopped_ = stopped_ || parser_->stopped();
}

void ChoiceOutput::Parse(std::string_view text, ChoiceDelta& delta) {
  if (text.empty() || stopped_) return;
  if (parser_) return ParseChat(text, delta);
  std::string content(text);
  if (matcher_) {
    tokenizer::StopMatcher::Result match = matcher_->Push(text);
    content = std::move(match.text);
    stopped_ = match.stopped;
  }
  if (!content.empty()) delta.parts.push_back({AnswerPart::Kind::kContent, std::move(content), 0, {}});
}

ChoiceDelta ChoiceOutput::Push(const OutputToken& token) {
  ChoiceDelta delta;
  if (stopped_ || finished_) return delta;
  ++n_tokens_;
  delta.tokens.push_back(token.token);
  if (remembers_) tokens_.push_back(token.token);
  const bool in_reasoning = parser_ && parser_->in_reasoning();
  if (in_reasoning) ++n_reasoning_tokens_;
  const bool ends = std::find(stop_token_ids_.begin(), stop_token_ids_.end(), token.token) != stop_token_ids_.end();
  // Of a text completion the end is told too: who scores texts counts on one entry per token.
  if (logprobs_ && (!ends || !parser_)) delta.logprobs.push_back({token.token, token.logprob, token.top, in_reasoning});
  if (ends) return delta;
  if (IsText(token.token)) Parse(decoder_.Push(token.token), delta);
  return delta;
}

ChoiceDelta ChoiceOutput::Finish(FinishReason reason) {
  ChoiceDelta delta;
  if (finished_) return delta;
  finished_ = true;
  Parse(decoder_.Finish(), delta);
  if (parser_) {
    const bool is_complete = reason == FinishReason::kStop && !stopped_;
    std::vector<AnswerPiece> pieces;
    parser_->Finish(is_complete ? tokenizer::StreamEnd::kComplete : tokenizer::StreamEnd::kCutOff, pieces);
    Take(std::move(pieces), delta);
    stopped_ = stopped_ || parser_->stopped();
  } else if (matcher_ && !stopped_) {
    if (std::string rest = matcher_->Finish(); !rest.empty()) {
      delta.parts.push_back({AnswerPart::Kind::kContent, std::move(rest), 0, {}});
    }
  }
  return delta;
}

std::string_view ChoiceOutput::stopped_by() const {
  if (parser_) return parser_->stopped_by();
  return matcher_ ? std::string_view(matcher_->found()) : std::string_view();
}

std::string_view ChoiceOutput::FinishReasonName(FinishReason reason) const {
  if (!stopped_ && reason != FinishReason::kStop) return "length";
  const bool is_cut = parser_ && parser_->in_call() && !one_tool_call_;
  return n_tool_calls_ > 0 && !is_cut ? "tool_calls" : "stop";
}

}  // namespace longshelf::router
