#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "markup.h"
#include "parameter_stream.h"
#include "tokenizer/completion_parser.h"

namespace longshelf::tokenizer::internal {

// What follows the reasoning: text and tool calls. See CompletionParser for what it promises.
class AnswerReader {
 public:
  void Push(std::string_view text, std::vector<AnswerPiece>& pieces);
  void Finish(StreamEnd end, std::vector<AnswerPiece>& pieces);
  bool in_call() const { return in_call_; }
  uint64_t work() const { return scanner_.work() + work_; }

 private:
  enum class State : uint8_t {
    kText,
    kBetween,    // behind the opening of a block, or behind a call
    kHead,       // behind <｜DSML｜invoke
    kParameter,  // behind <｜DSML｜parameter
    kGap,        // behind </｜DSML｜parameter
  };
  bool InText() const { return state_ <= State::kBetween; }
  void OnMarkupInText(const FoundMarkup& found, std::vector<AnswerPiece>& pieces);
  void OnMarkupInCall(const FoundMarkup& found, std::vector<AnswerPiece>& pieces);
  void BeginParameter();
  void FeedParameter(size_t end, std::vector<AnswerPiece>& pieces);
  void ClosePart(const FoundMarkup& found, std::vector<AnswerPiece>& pieces);
  void CloseParameter(StreamEnd end, bool closed, std::vector<AnswerPiece>& pieces);
  void CloseHead(std::string_view head, std::vector<AnswerPiece>& pieces);
  void EndCall(std::vector<AnswerPiece>& pieces);
  void TakeOutput(ParameterStream::Output& output, std::vector<AnswerPiece>& pieces);
  void AddStray(std::string_view text);
  void FinishCall(StreamEnd end, std::vector<AnswerPiece>& pieces);
  void EmitText(size_t end, size_t newlines_kept_back, std::vector<AnswerPiece>& pieces);
  void EmitBetween(size_t end, std::vector<AnswerPiece>& pieces);
  void EmitContent(std::string_view text, std::vector<AnswerPiece>& pieces);

  MarkupScanner scanner_;
  CleanText clean_;
  State state_ = State::kText;
  bool in_call_ = false;      // one with a name
  bool has_head_ = false;     // the parameter being read is in a call, be it without a name
  bool has_members_ = false;  // of the call's arguments
  std::optional<ParameterStream> parameter_;
  std::string stray_;         // text of the call that belongs to no argument
  bool after_block_ = false;  // only blanks since tool calls
  bool content_emitted_ = false;
  uint64_t work_ = 0;
};

}  // namespace longshelf::tokenizer::internal
