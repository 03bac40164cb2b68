#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "router/answer_writer.h"
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

// Server-sent events.
class StreamAnswer final : public AnswerWriter {
 public:
  // `model` must outlive this.
  StreamAnswer(const ServedModel& model, AnswerHead head, uint32_t n_choices, bool include_usage);
  void Skip(uint32_t choice, const ChoiceDelta& delta) override;
  void AnsweredBy(std::string fingerprint, const Usage& usage) override;
  std::string Opening() override;
  std::string Delta(uint32_t choice, const ChoiceDelta& delta) override;
  std::string Finished(uint32_t choice, const ChoiceEnd& end) override;
  // Usage when asked for, then [DONE].
  std::string Done(const Usage& usage) override;
  std::string Error(const ApiError& error) override;
  std::string Progress(const PrefillProgress& progress) override;
  std::string KeepAlive() override;
  bool is_stream() const override { return true; }

 private:
  std::string ChatDelta(uint32_t choice, const ChoiceDelta& delta);

  const ServedModel& model_;
  AnswerHead head_;
  const bool include_usage_;
  const size_t n_choices_;
  std::vector<size_t> text_offset_;  // per choice, for completions logprobs
};

// The answer in one piece.
class WholeAnswer final : public AnswerWriter {
 public:
  WholeAnswer(const ServedModel& model, AnswerHead head, uint32_t n_choices);
  void Skip(uint32_t choice, const ChoiceDelta& delta) override;
  void AnsweredBy(std::string fingerprint, const Usage& usage) override;
  std::string Opening() override { return ""; }
  std::string Delta(uint32_t choice, const ChoiceDelta& delta) override;
  std::string Finished(uint32_t choice, const ChoiceEnd& end) override;
  std::string Done(const Usage& usage) override;
  std::string Error(const ApiError& error) override;
  std::string Progress(const PrefillProgress&) override { return ""; }
  std::string KeepAlive() override;
  bool is_stream() const override { return false; }

 private:
  struct Choice;
  static void AddPart(const AnswerPart& part, Choice& choice);
  struct Choice {
    std::string reasoning;
    std::string content;
    std::vector<tokenizer::ChatToolCall> tool_calls;
    std::vector<TokenLogprobs> logprobs;
    std::string finish_reason;
    std::optional<uint32_t> first_call;                 // the number of tool_calls[0]
    std::optional<tokenizer::ChatToolCall> begun_call;  // the client has its beginning; said again as a whole
    size_t text_offset = 0;
  };
  const ServedModel& model_;
  AnswerHead head_;
  std::vector<Choice> choices_;
};

// [{"token","logprob","bytes","top_logprobs"}, ...] as chat and responses have them.
std::string TokenLogprobsJson(const ServedModel& model, const std::vector<TokenLogprobs>& entries);
// {"id","object":"model",...}
std::string ModelJson(const ServedModel& model, uint32_t n_context_max);
// {"object":"list","data":[...]}
std::string ModelListJson(const ServedModel& model, uint32_t n_context_max);

}  // namespace longshelf::router
