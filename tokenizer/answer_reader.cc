#include "answer_reader.h"

#include <algorithm>
#include <utility>

namespace longshelf::tokenizer::internal {
namespace {

using Kind = AnswerPiece::Kind;

constexpr std::string_view kBlanks = " \t\r\n";
constexpr std::string_view kCallName = "name=\"";

constexpr MarkupSet kInCall = Markup::kEos | Markup::kBlockEnd | Markup::kCallBegin | Markup::kCallEnd |
                              Markup::kParameterBegin | Markup::kParameterEnd;
constexpr MarkupSet kInText = kInCall | Markup::kSentinel | Markup::kBlockBegin;

std::string_view TrimBlanks(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) + 1 - begin);
}

// Of the head of a call. False: it has none. `rest`: what stands behind it that should not. A whole head may have a
// name with quotes in it.
bool SplitHead(std::string_view head, bool is_whole, std::string_view& name, std::string_view& rest) {
  head = TrimBlanks(head);
  if (!head.starts_with(kCallName)) return false;
  head.remove_prefix(kCallName.size());
  if (is_whole && head.ends_with("\">")) {
    name = head.substr(0, head.size() - 2);
    rest = {};
    return true;
  }
  const size_t quote = head.find('"');
  if (quote == std::string_view::npos) return false;
  name = head.substr(0, quote);
  rest = head.substr(quote + 1);
  if (rest.starts_with('>')) rest.remove_prefix(1);
  return true;
}

void Append(Kind kind, std::string_view text, std::vector<AnswerPiece>& pieces) {
  if (text.empty()) return;
  if (pieces.empty() || pieces.back().kind != kind) pieces.push_back({kind, {}});
  pieces.back().text += text;
}

}  // namespace

void AnswerReader::Push(std::string_view text, std::vector<AnswerPiece>& pieces) {
  scanner_.Append(text);
  while (!scanner_.AwaitsBracket()) {
    const std::optional<FoundMarkup> found = scanner_.Next(InText() ? kInText : kInCall);
    if (!found) break;
    InText() ? OnMarkupInText(*found, pieces) : OnMarkupInCall(*found, pieces);
  }
  if (state_ == State::kText) EmitText(scanner_.safe_end(), kNewlinesBeforeBlock, pieces);
  if (state_ == State::kParameter) FeedParameter(scanner_.safe_end(), pieces);
  scanner_.DropDone();
}

void AnswerReader::OnMarkupInText(const FoundMarkup& found, std::vector<AnswerPiece>& pieces) {
  const bool begins =
      found.kind == Markup::kBlockBegin || found.kind == Markup::kCallBegin || found.kind == Markup::kParameterBegin;
  if (state_ == State::kText) {
    EmitText(found.begin, begins ? kNewlinesBeforeBlock : 0, pieces);
  } else {
    EmitBetween(found.begin, pieces);
  }
  scanner_.DoneUpTo(found.end);
  clean_.Break();
  switch (found.kind) {
    case Markup::kBlockBegin:
      state_ = State::kBetween;
      scanner_.SkipBracket();
      break;
    case Markup::kCallBegin:
      state_ = State::kHead;
      break;
    case Markup::kParameterBegin:
      has_head_ = false;
      BeginParameter();
      break;
    case Markup::kBlockEnd:
    case Markup::kCallEnd:
    case Markup::kParameterEnd:
      if (found.kind == Markup::kBlockEnd) state_ = State::kText;
      scanner_.SkipBracket();
      break;
    default:
      if (found.kind == Markup::kEos) state_ = State::kText;
      return;
  }
  after_block_ = after_block_ || begins;
}

void AnswerReader::OnMarkupInCall(const FoundMarkup& found, std::vector<AnswerPiece>& pieces) {
  ClosePart(found, pieces);
  scanner_.DoneUpTo(found.end);
  if (found.kind == Markup::kParameterBegin) return BeginParameter();
  if (found.kind == Markup::kParameterEnd && has_head_) {
    state_ = State::kGap;
    return scanner_.SkipBracket();
  }
  EndCall(pieces);
  after_block_ = true;
  switch (found.kind) {
    case Markup::kCallBegin:
      state_ = State::kHead;
      break;
    case Markup::kCallEnd:
      state_ = State::kBetween;
      scanner_.SkipBracket();
      break;
    case Markup::kEos:
      state_ = State::kText;
      break;
    default:
      state_ = State::kText;
      scanner_.SkipBracket();
  }
}

void AnswerReader::BeginParameter() {
  parameter_.emplace(in_call_, !has_members_);
  if (!in_call_ && !stray_.empty()) stray_ += '\n';
  state_ = State::kParameter;
}

void AnswerReader::TakeOutput(ParameterStream::Output& output, std::vector<AnswerPiece>& pieces) {
  Append(Kind::kCallArguments, output.members, pieces);
  AddStray(output.text);
}

void AnswerReader::AddStray(std::string_view text) {
  text = TrimBlanks(text);
  if (!text.empty() && !stray_.empty()) stray_ += '\n';
  stray_ += text;
}

void AnswerReader::FeedParameter(size_t end, std::vector<AnswerPiece>& pieces) {
  const std::string_view text = scanner_.UpTo(end);
  work_ += text.size();
  ParameterStream::Output output;
  parameter_->Push(text, output);
  scanner_.DoneUpTo(end);
  Append(Kind::kCallArguments, output.members, pieces);
  stray_ += output.text;
}

void AnswerReader::CloseParameter(StreamEnd end, bool closed, std::vector<AnswerPiece>& pieces) {
  ParameterStream::Output output;
  parameter_->Finish(end, closed, output);
  has_members_ = has_members_ || parameter_->has_member();
  parameter_.reset();
  TakeOutput(output, pieces);
}

// Ends the head, the gap, or the parameter that is being read.
void AnswerReader::ClosePart(const FoundMarkup& found, std::vector<AnswerPiece>& pieces) {
  const std::string_view text = scanner_.UpTo(found.begin);
  switch (state_) {
    case State::kHead:
      work_ += text.size();
      return CloseHead(text, pieces);
    case State::kParameter:
      FeedParameter(found.begin, pieces);
      return CloseParameter(StreamEnd::kComplete, found.kind == Markup::kParameterEnd, pieces);
    default:
      work_ += text.size();
      AddStray(text);
  }
}

void AnswerReader::CloseHead(std::string_view head, std::vector<AnswerPiece>& pieces) {
  std::string_view name;
  std::string_view rest;
  has_head_ = true;
  has_members_ = false;
  stray_.clear();
  if (!SplitHead(head, /*is_whole=*/true, name, rest)) {
    // The bracket of an opening without attributes.
    head = TrimBlanks(head);
    if (head.starts_with('>')) head.remove_prefix(1);
    return AddStray(head);
  }
  AddStray(rest);
  in_call_ = true;
  pieces.push_back({Kind::kCallBegin, std::string(name)});
  pieces.push_back({Kind::kCallArguments, "{"});
}

void AnswerReader::EndCall(std::vector<AnswerPiece>& pieces) {
  if (std::exchange(in_call_, false)) {
    Append(Kind::kCallArguments, "}", pieces);
    pieces.push_back({Kind::kCallEnd, {}});
    after_block_ = true;
  }
  EmitContent(std::exchange(stray_, {}), pieces);
}

// Emits up to `end`, but for as many newlines before it as may belong to a block.
void AnswerReader::EmitText(size_t end, size_t newlines_kept_back, std::vector<AnswerPiece>& pieces) {
  end = scanner_.WithoutNewlines(end, newlines_kept_back);
  EmitContent(scanner_.UpTo(end), pieces);
  scanner_.DoneUpTo(end);
}

// Text between calls, where only blanks belong.
void AnswerReader::EmitBetween(size_t end, std::vector<AnswerPiece>& pieces) {
  EmitContent(TrimBlanks(scanner_.UpTo(end)), pieces);
  scanner_.DoneUpTo(end);
}

void AnswerReader::EmitContent(std::string_view text, std::vector<AnswerPiece>& pieces) {
  work_ += text.size();
  if (after_block_) text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
  std::string clean;
  clean_.Append(text, clean);
  if (clean.empty()) return;
  // What stood on two sides of calls does not grow together.
  if (after_block_ && content_emitted_) Append(Kind::kContent, "\n\n", pieces);
  Append(Kind::kContent, clean, pieces);
  after_block_ = false;
  content_emitted_ = true;
}

void AnswerReader::Finish(StreamEnd end, std::vector<AnswerPiece>& pieces) {
  const size_t size = scanner_.size();
  const size_t safe_end = scanner_.safe_end();
  const std::string_view tail = scanner_.tail();
  const bool is_cut = end == StreamEnd::kCutOff;
  bool drop_tail = scanner_.EndsInsideMarkup(end);
  switch (state_) {
    case State::kText: {
      // Behind an empty line, or where nothing else stands, the bracket of a block.
      const std::string_view before = scanner_.UpTo(safe_end);
      const bool may_open_block = before.ends_with("\n\n") || (before.empty() && !content_emitted_);
      drop_tail = drop_tail || (is_cut && tail == "<" && may_open_block);
      EmitText(drop_tail ? safe_end : size, drop_tail ? kNewlinesBeforeBlock : 0, pieces);
      break;
    }
    case State::kBetween:
      EmitBetween(drop_tail || is_cut ? safe_end : size, pieces);
      break;
    default:
      if (!drop_tail && !is_cut && state_ == State::kParameter) FeedParameter(size, pieces);
      FinishCall(end, pieces);
  }
  scanner_.DoneUpTo(size);
  scanner_.DropDone();
}

void AnswerReader::FinishCall(StreamEnd end, std::vector<AnswerPiece>& pieces) {
  if (state_ == State::kHead) {
    std::string_view name;
    std::string_view rest;
    const std::string_view head = TrimBlanks(scanner_.UpTo(scanner_.safe_end()));
    const bool is_named = SplitHead(head, /*is_whole=*/false, name, rest);
    const bool is_unfinished = head.starts_with(kCallName) || kCallName.starts_with(head);
    if (is_named || !is_unfinished) EmitContent(TrimBlanks(is_named ? rest : head), pieces);
    return;
  }
  if (state_ == State::kGap) AddStray(scanner_.UpTo(scanner_.safe_end()));
  if (state_ == State::kParameter) CloseParameter(end, /*closed=*/false, pieces);
  // Behind an open call nothing else can follow.
  if (end == StreamEnd::kComplete || !in_call_) EndCall(pieces);
}

}  // namespace longshelf::tokenizer::internal
