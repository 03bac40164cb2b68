#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "router/choice_output.h"
#include "router/completion.h"
#include "router/served_model.h"

// Answers as the OpenAI and DeepSeek APIs write them.
namespace longshelf::router {

// What all parts of one answer repeat.
struct AnswerHead {
  Api api = Api::kChat;
  std::string id;  // "chatcmpl-..." or "cmpl-..."
  int64_t created_unix_s = 0;
  std::string model;
  std::string system_fingerprint;  // known once a worker has begun; null in the answer until then
  bool thinking = false;           // chat: reasoning comes first
  bool logprobs = false;
};

// Server-sent events. Every function returns whole `data: ...\n\n` events, ready to be written, or "".
class StreamAnswer {
 public:
  // `model` must outlive this.
  StreamAnswer(const ServedModel& model, AnswerHead head, uint32_t n_choices, bool include_usage);
  void AnsweredBy(std::string system_fingerprint) { head_.system_fingerprint = std::move(system_fingerprint); }
  // What the client has already: tool calls and places in the text are counted on from there.
  void Skip(uint32_t choice, const ChoiceDelta& delta);
  // The first event of every choice.
  std::string Opening();
  std::string Delta(uint32_t choice, const ChoiceDelta& delta);
  std::string Finished(uint32_t choice, std::string_view finish_reason);
  // Usage when asked for, then [DONE].
  std::string Done(const Usage& usage);
  // An error after the answer began; ends it.
  static std::string Error(const ApiError& error);

 private:
  const ServedModel& model_;
  AnswerHead head_;
  const bool include_usage_;
  std::vector<uint32_t> n_tool_calls_;  // per choice
  std::vector<size_t> text_offset_;     // per choice, for completions logprobs
};

// The answer in one piece.
class WholeAnswer {
 public:
  WholeAnswer(const ServedModel& model, AnswerHead head, uint32_t n_choices);
  void AnsweredBy(std::string system_fingerprint) { head_.system_fingerprint = std::move(system_fingerprint); }
  // As StreamAnswer::Skip.
  void Skip(uint32_t choice, const ChoiceDelta& delta);
  void Add(uint32_t choice, const ChoiceDelta& delta);
  void Finished(uint32_t choice, std::string_view finish_reason);
  std::string Body(const Usage& usage) const;

 private:
  struct Choice {
    std::string reasoning;
    std::string content;
    std::vector<tokenizer::ChatToolCall> tool_calls;
    std::vector<TokenLogprobs> logprobs;
    std::string finish_reason;
    size_t n_tool_calls_skipped = 0;
    size_t text_offset = 0;
  };
  const ServedModel& model_;
  AnswerHead head_;
  std::vector<Choice> choices_;
};

// {"id","object":"model",...}
std::string ModelJson(const ServedModel& model, uint32_t n_context_max);
// {"object":"list","data":[...]}
std::string ModelListJson(const ServedModel& model, uint32_t n_context_max);

}  // namespace longshelf::router
