#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "router/served_model.h"
#include "tokenizer/completion_parser.h"
#include "tokenizer/tokenizer.h"

namespace longshelf::router {

// One output token as the logprobs of an answer show it.
struct TokenLogprobs {
  uint32_t token = 0;
  float logprob = 0;
  std::vector<TokenAlternative> top;
  bool in_reasoning = false;
  bool is_first = false;  // of an echoed prompt: nothing is before it, so it has no logprob
};

// A part of an answer. Parts come in the order in which the model wrote them.
struct AnswerPart {
  using Kind = tokenizer::AnswerPiece::Kind;
  Kind kind = Kind::kContent;
  std::string text;     // see AnswerPiece
  uint32_t call = 0;    // of the parts of a call: its number in this choice
  std::string call_id;  // kCallBegin
};

// What one token, or the end, added to a choice.
struct ChoiceDelta {
  std::vector<AnswerPart> parts;
  std::vector<TokenLogprobs> logprobs;
  std::vector<uint32_t> tokens;
  bool empty() const { return parts.empty() && logprobs.empty(); }
  // Of all parts of this kind together.
  std::string Text(AnswerPart::Kind kind) const;
};

// Tokens to text, text to the parts of an answer; stops at stop strings. Linear in its input. Owner: the router loop.
class ChoiceOutput {
 public:
  // `model` must outlive this. `id_seed` makes the ids of tool calls.
  ChoiceOutput(const ServedModel& model, const PreparedRequest& prepared, uint64_t id_seed);

  ChoiceDelta Push(const OutputToken& token);
  // At the end of the stream: what was held back.
  ChoiceDelta Finish(FinishReason reason);

  // True once the output is complete although the worker would go on: a stop string, or the only allowed tool call.
  bool stopped() const { return stopped_; }
  // Of a chat, after Finish: all that was sampled, if the model ended it itself and it can be rendered again.
  void RememberTurn(TurnMemory& turns, const std::string& namespace_id);
  // The stop string that ended it; empty when none did.
  std::string_view stopped_by() const;
  uint32_t n_tokens() const { return n_tokens_; }
  uint32_t n_reasoning_tokens() const { return n_reasoning_tokens_; }
  // "stop", "length" or "tool_calls".
  std::string_view FinishReasonName(FinishReason reason) const;

 private:
  bool IsText(uint32_t token) const;
  void Parse(std::string_view text, ChoiceDelta& delta);
  void AddToTurn(const AnswerPart& part);
  void ParseChat(std::string_view text, ChoiceDelta& delta);
  void Take(std::vector<tokenizer::AnswerPiece> pieces, ChoiceDelta& delta);

  const tokenizer::Tokenizer& tokenizer_;
  const bool one_tool_call_;
  const bool logprobs_;
  const std::vector<uint32_t> stop_token_ids_;
  const uint64_t id_seed_;
  tokenizer::StreamDecoder decoder_;
  std::optional<tokenizer::StopMatcher> matcher_;      // completions with stop strings
  std::optional<tokenizer::CompletionParser> parser_;  // chat; it stops by itself
  bool stopped_ = false;
  bool finished_ = false;
  uint32_t n_tokens_ = 0;
  uint32_t n_reasoning_tokens_ = 0;
  uint32_t n_tool_calls_ = 0;  // complete
  const bool remembers_;
  tokenizer::ChatMessage turn_;  // what the client has of it
  std::vector<uint32_t> tokens_;
};

}  // namespace longshelf::router
