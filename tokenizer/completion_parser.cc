#include "tokenizer/completion_parser.h"

#include <optional>

#include "answer_reader.h"
#include "markup.h"
#include "tokenizer/tokenizer.h"

namespace longshelf::tokenizer {
namespace {

using internal::FoundMarkup;
using internal::Markup;
using internal::MarkupScanner;
using internal::MarkupSet;

using internal::kNewlinesBeforeBlock;
constexpr MarkupSet kInReasoning = Markup::kThinkEnd | Markup::kEos | Markup::kSentinel | Markup::kBlockBegin |
                                   Markup::kBlockEnd | Markup::kCallBegin | Markup::kCallEnd | Markup::kParameterBegin |
                                   Markup::kParameterEnd;

// Up to </think>, or to tool calls that begin without it.
class ReasoningReader {
 public:
  // True when the reasoning has ended; rest() is what follows it then.
  bool Push(std::string_view text, std::vector<AnswerPiece>& pieces) {
    scanner_.Append(text);
    while (!scanner_.AwaitsBracket()) {
      const std::optional<FoundMarkup> found = scanner_.Next(kInReasoning);
      if (!found) break;
      const bool begins_calls = found->kind == Markup::kBlockBegin || found->kind == Markup::kCallBegin;
      Emit(found->begin, begins_calls ? kNewlinesBeforeBlock : 0, pieces);
      clean_.Break();
      scanner_.DoneUpTo(begins_calls ? found->begin : found->end);
      if (found->kind == Markup::kThinkEnd || begins_calls) {
        rest_ = scanner_.UpTo(scanner_.size());
        return true;
      }
      if (found->kind != Markup::kSentinel && found->kind != Markup::kEos) scanner_.SkipBracket();
    }
    Emit(scanner_.safe_end(), kNewlinesBeforeBlock, pieces);
    scanner_.DropDone();
    return false;
  }
  void Finish(StreamEnd end, std::vector<AnswerPiece>& pieces) {
    const size_t size = scanner_.size();
    const bool drop_tail = scanner_.EndsInsideMarkup(end);
    Emit(drop_tail ? scanner_.safe_end() : size, drop_tail ? kNewlinesBeforeBlock : 0, pieces);
    scanner_.DoneUpTo(size);
    scanner_.DropDone();
  }
  std::string_view rest() const { return rest_; }
  uint64_t work() const { return scanner_.work(); }

 private:
  void Emit(size_t end, size_t newlines_kept_back, std::vector<AnswerPiece>& pieces) {
    end = scanner_.WithoutNewlines(end, newlines_kept_back);
    std::string clean;
    clean_.Append(scanner_.UpTo(end), clean);
    scanner_.DoneUpTo(end);
    if (!clean.empty()) pieces.push_back({AnswerPiece::Kind::kReasoning, std::move(clean)});
  }

  MarkupScanner scanner_;
  internal::CleanText clean_;
  std::string rest_;
};

}  // namespace

struct CompletionParser::Impl {
  std::optional<ReasoningReader> reasoning;
  std::optional<StopMatcher> matcher;
  internal::AnswerReader answer;
  bool stopped = false;
  bool finished = false;
  uint64_t reasoning_work = 0;

  void PushAnswer(std::string_view text, std::vector<AnswerPiece>& pieces) {
    if (stopped || text.empty()) return;
    if (!matcher) return answer.Push(text, pieces);
    const StopMatcher::Result result = matcher->Push(text);
    answer.Push(result.text, pieces);
    stopped = result.stopped;
  }
};

CompletionParser::CompletionParser(ThinkingMode mode, const std::vector<std::string>& stops)
    : impl_(std::make_unique<Impl>()) {
  if (mode == ThinkingMode::kThinking) impl_->reasoning.emplace();
  if (!stops.empty()) impl_->matcher.emplace(stops);
}
CompletionParser::~CompletionParser() = default;
CompletionParser::CompletionParser(CompletionParser&&) noexcept = default;

void CompletionParser::Push(std::string_view text, std::vector<AnswerPiece>& pieces) {
  if (impl_->stopped || impl_->finished) return;
  if (!impl_->reasoning) return impl_->PushAnswer(text, pieces);
  if (!impl_->reasoning->Push(text, pieces)) return;
  const std::string rest(impl_->reasoning->rest());
  impl_->reasoning_work = impl_->reasoning->work();
  impl_->reasoning.reset();
  impl_->PushAnswer(rest, pieces);
}

void CompletionParser::Finish(StreamEnd end, std::vector<AnswerPiece>& pieces) {
  if (impl_->finished) return;
  impl_->finished = true;
  if (impl_->reasoning) return impl_->reasoning->Finish(end, pieces);
  if (impl_->matcher && !impl_->stopped) impl_->answer.Push(impl_->matcher->Finish(), pieces);
  impl_->answer.Finish(impl_->stopped ? StreamEnd::kCutOff : end, pieces);
}

bool CompletionParser::stopped() const { return impl_->stopped; }
std::string_view CompletionParser::stopped_by() const {
  return impl_->stopped ? std::string_view(impl_->matcher->found()) : std::string_view();
}
bool CompletionParser::in_reasoning() const { return impl_->reasoning.has_value(); }
bool CompletionParser::in_call() const { return impl_->answer.in_call(); }
uint64_t CompletionParser::work() const {
  return impl_->answer.work() + (impl_->reasoning ? impl_->reasoning->work() : impl_->reasoning_work);
}

}  // namespace longshelf::tokenizer
