#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "router/served_model.h"
#include "tokenizer/chat.h"
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

// What one token, or the end, added to a choice. Empty strings mean nothing was added.
struct ChoiceDelta {
  std::string reasoning;
  std::string content;
  std::vector<tokenizer::ChatToolCall> tool_calls;  // complete, with ids
  std::vector<TokenLogprobs> logprobs;
  std::vector<uint32_t> tokens;
  bool empty() const { return reasoning.empty() && content.empty() && tool_calls.empty() && logprobs.empty(); }
};

// Tokens to text, text to the parts of an answer; stops at stop strings. Linear in its input. Owner: the router loop.
class ChoiceOutput {
 public:
  // `model` must outlive this. `id_seed` makes the ids of tool calls.
  ChoiceOutput(const ServedModel& model, const PreparedRequest& prepared, uint64_t id_seed);

  ChoiceDelta Push(const OutputToken& token);
  // At the end of the stream, whatever ended it: what was held back.
  ChoiceDelta Finish();

  // True once the output is complete although the worker would go on: a stop string, or the only allowed tool call.
  bool stopped() const { return stopped_; }
  uint32_t n_tokens() const { return n_tokens_; }
  uint32_t n_reasoning_tokens() const { return n_reasoning_tokens_; }
  // "stop", "length" or "tool_calls".
  std::string_view FinishReasonName(FinishReason reason) const;

 private:
  void Parse(std::string_view text, ChoiceDelta& delta);
  void Take(std::vector<tokenizer::CompletionParser::Event> events, ChoiceDelta& delta);

  const bool one_tool_call_;
  const bool logprobs_;
  const std::vector<uint32_t> stop_token_ids_;
  const uint64_t id_seed_;
  tokenizer::StreamDecoder decoder_;
  std::optional<tokenizer::StopMatcher> matcher_;      // with stop strings
  std::optional<tokenizer::CompletionParser> parser_;  // chat only
  bool stopped_ = false;
  bool finished_ = false;
  uint32_t n_tokens_ = 0;
  uint32_t n_reasoning_tokens_ = 0;
  uint32_t n_tool_calls_ = 0;
};

}  // namespace longshelf::router
