#include <algorithm>
#include <array>
#include <utility>

#include "chat_protocol.h"
#include "parameter_json.h"
#include "tokenizer/chat.h"
#include "tokenizer/json_text.h"

namespace longshelf::tokenizer {

struct CompletionParser::Marker {
  enum class Kind : uint8_t {
    kThinkEnd,
    kEos,
    kSentinel,  // ｜DSML｜ that is part of no other marker
    kBlockBegin,
    kBlockEnd,
    kCallBegin,
    kCallEnd,
    kParameterBegin,
    kParameterEnd,
    kCutOff,  // the stream ends inside one of the above
  };
  Kind kind;
  size_t begin;
  size_t end;
};

namespace {

constexpr std::string_view kBlanks = " \t\r\n";
constexpr std::string_view kHarmlessDsml = "|DSML|";
constexpr std::string_view kHarmlessEos = "<|end▁of▁sentence|>";
// What strict parsing takes off before a block.
constexpr size_t kNewlinesBeforeBlock = 2;

std::string_view TrimBlanks(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) + 1 - begin);
}

// Cannot make a new marker out of its surroundings: the bars it puts at its ends are in no marker.
void AppendHarmless(std::string_view text, std::string& out) {
  while (true) {
    const size_t at = text.find(protocol::kDsml);
    out.append(text.substr(0, at));
    if (at == std::string_view::npos) return;
    out.append(kHarmlessDsml);
    text.remove_prefix(at + protocol::kDsml.size());
  }
}

}  // namespace

CompletionParser::CompletionParser(ThinkingMode mode)
    : state_(mode == ThinkingMode::kThinking ? State::kReasoning : State::kContent) {}

std::vector<CompletionParser::Event> CompletionParser::Push(std::string_view text) {
  held_.append(text);
  std::vector<Event> events;
  Run(/*at_end=*/false, events);
  return events;
}

std::vector<CompletionParser::Event> CompletionParser::Finish() {
  std::vector<Event> events;
  Run(/*at_end=*/true, events);
  return events;
}

std::string_view CompletionParser::Slice(Range range) const {
  return std::string_view(held_).substr(range.begin, range.end - range.begin);
}

void CompletionParser::Run(bool at_end, std::vector<Event>& events) {
  Marker marker;
  while (true) {
    if (skip_bracket_ && begin_ < held_.size()) {
      if (held_[begin_] == '>') ++begin_;
      scan_ = std::max(scan_, begin_);
      skip_bracket_ = false;
    }
    if (!FindMarker(at_end, marker)) break;
    if (InText()) {
      OnTextMarker(marker, events);
    } else {
      OnBlockMarker(marker, events);
    }
  }
  // scan_ stands at the end, or at what may become a marker.
  if (InText()) {
    EmitUpTo(scan_, at_end ? 0 : kNewlinesBeforeBlock, events);
  } else if (at_end && InCall()) {
    Emit(Slice({begin_, held_.size()}), events);
  } else if (at_end) {
    Leftover(held_.size(), events);
  }
  if (at_end) begin_ = held_.size();
  if (begin_ > 0) DropDone();
}

// Moves what is held to the front of held_. Once per Push at most, and a call moves only when it begins.
void CompletionParser::DropDone() {
  work_ += held_.size() - begin_;
  held_.erase(0, begin_);
  scan_ -= std::min(scan_, begin_);
  if (InCall()) {
    head_ = {head_.begin - begin_, head_.end - begin_};
    for (Range& parameter : parameters_) parameter = {parameter.begin - begin_, parameter.end - begin_};
    after_parameter_ -= std::min(after_parameter_, begin_);
  }
  begin_ = 0;
}

bool CompletionParser::FindMarker(bool at_end, Marker& marker) {
  using Kind = Marker::Kind;
  struct Pattern {
    Kind kind;
    std::string_view text;
    bool in_text;
    bool in_block;
  };
  static constexpr std::array<Pattern, 11> kPatterns = {{
      {Kind::kThinkEnd, protocol::kThinkEnd, true, false},
      {Kind::kEos, protocol::kEos, true, true},
      {Kind::kSentinel, protocol::kDsml, true, false},
      {Kind::kBlockBegin, protocol::kToolCallsBegin, true, true},
      {Kind::kBlockBegin, "<｜DSML｜function_calls", true, true},  // the name of V3.2
      {Kind::kBlockEnd, "</｜DSML｜tool_calls", false, true},
      {Kind::kBlockEnd, "</｜DSML｜function_calls", false, true},
      {Kind::kCallBegin, protocol::kInvokeBegin, true, true},
      {Kind::kCallEnd, protocol::kInvokeEnd, false, true},
      {Kind::kParameterBegin, protocol::kParameterBegin, false, true},
      {Kind::kParameterEnd, protocol::kParameterEnd, false, true},
  }};
  while (true) {
    const size_t at = std::min(held_.find_first_of("<\xEF", scan_), held_.size());
    work_ += at - scan_;
    scan_ = at;
    if (at == held_.size()) return false;
    const std::string_view rest = std::string_view(held_).substr(at);
    bool may_become = false;
    for (const Pattern& pattern : kPatterns) {
      if (!(InText() ? pattern.in_text : pattern.in_block)) continue;
      if (pattern.kind == Kind::kThinkEnd && state_ != State::kReasoning) continue;
      if (rest.starts_with(pattern.text)) {
        work_ += pattern.text.size();
        marker = {pattern.kind, at, at + pattern.text.size()};
        scan_ = marker.end;
        return true;
      }
      may_become = may_become || pattern.text.starts_with(rest);
    }
    ++work_;
    if (may_become && !at_end) return false;
    if (may_become && rest.find(protocol::kDsml) != std::string_view::npos) {
      marker = {Kind::kCutOff, at, held_.size()};
      scan_ = marker.end;
      return true;
    }
    ++scan_;
  }
}

void CompletionParser::OnTextMarker(const Marker& marker, std::vector<Event>& events) {
  switch (marker.kind) {
    case Marker::Kind::kThinkEnd:
      EmitUpTo(marker.begin, 0, events);
      begin_ = marker.end;
      state_ = State::kContent;
      break;
    case Marker::Kind::kEos:
      EmitUpTo(marker.begin, 0, events);
      begin_ = marker.end;
      eos_pending_ = true;
      break;
    case Marker::Kind::kBlockBegin:
      EmitUpTo(marker.begin, kNewlinesBeforeBlock, events);
      begin_ = marker.end;
      skip_bracket_ = true;
      state_ = State::kBetweenCalls;
      after_block_ = true;
      break;
    case Marker::Kind::kCallBegin:
      EmitUpTo(marker.begin, kNewlinesBeforeBlock, events);
      after_block_ = true;
      BeginCall(marker);
      break;
    case Marker::Kind::kCutOff:
      EmitUpTo(marker.begin, kNewlinesBeforeBlock, events);
      begin_ = marker.end;
      break;
    default:
      break;  // a sentinel is text, made harmless when it is emitted
  }
}

void CompletionParser::OnBlockMarker(const Marker& marker, std::vector<Event>& events) {
  using Kind = Marker::Kind;
  if (marker.kind == Kind::kParameterEnd) {
    if (state_ != State::kParameter) return;
    parameters_.back().end = marker.begin;
    after_parameter_ = marker.end;
    state_ = State::kAfterParameter;
    return;
  }
  if (marker.kind == Kind::kParameterBegin) {
    if (!InCall()) return;
    ClosePart(marker.begin);
    parameters_.push_back({marker.end, marker.end});
    state_ = State::kParameter;
    return;
  }
  const bool stray = InCall() ? marker.kind == Kind::kBlockBegin : marker.kind == Kind::kCallEnd;
  if (stray) return;
  if (InCall() && (marker.kind == Kind::kEos || marker.kind == Kind::kCutOff)) {
    Emit(Slice({begin_, marker.begin}), events);
  } else if (InCall()) {
    ClosePart(marker.begin);
    EndCall(marker.begin, events);
  } else {
    Leftover(marker.begin, events);
  }
  begin_ = marker.end;
  skip_bracket_ = true;
  after_block_ = true;
  state_ = State::kBetweenCalls;
  if (marker.kind == Kind::kCallBegin) BeginCall(marker);
  if (marker.kind == Kind::kBlockEnd) state_ = State::kContent;
  if (marker.kind == Kind::kEos) {
    state_ = State::kContent;
    skip_bracket_ = false;
    eos_pending_ = true;
  }
}

void CompletionParser::BeginCall(const Marker& marker) {
  begin_ = marker.begin;
  skip_bracket_ = false;
  state_ = State::kCallHead;
  head_ = {marker.end, marker.end};
  parameters_.clear();
  stray_.clear();
}

// Ends the head, the gap, or the parameter without end that is being read.
void CompletionParser::ClosePart(size_t end) {
  if (state_ == State::kCallHead) head_.end = end;
  if (state_ == State::kParameter) parameters_.back().end = held_[end - 1] == '\n' ? end - 1 : end;
  if (state_ == State::kAfterParameter) {
    std::string_view gap = Slice({after_parameter_, end});
    if (gap.starts_with('>')) gap.remove_prefix(1);
    stray_ += TrimBlanks(gap);
  }
}

void CompletionParser::EndCall(size_t end, std::vector<Event>& events) {
  work_ += end - begin_;
  Event event{Event::Kind::kToolCall, {}, {}};
  if (!BuildCall(event.tool_call)) {
    Emit(Slice({begin_, end}), events);
    return;
  }
  Emit(stray_, events);
  events.push_back(std::move(event));
}

bool CompletionParser::BuildCall(ChatToolCall& call) {
  constexpr std::string_view kName = "name=\"";
  std::string_view head = TrimBlanks(Slice(head_));
  if (!head.starts_with(kName)) return false;
  head.remove_prefix(kName.size());
  if (head.ends_with("\">")) {
    call.name = head.substr(0, head.size() - 2);
  } else {
    const size_t quote = head.find('"');
    if (quote == std::string_view::npos) return false;
    call.name = head.substr(0, quote);
    head.remove_prefix(quote + 1);
    if (head.starts_with('>')) head.remove_prefix(1);
    stray_.insert(0, TrimBlanks(head));
  }
  internal::ArgumentsBuilder arguments;
  for (const Range& range : parameters_) {
    if (!arguments.AddLenient(Slice(range))) return false;
  }
  call.arguments = arguments.Build();
  return true;
}

// Emits up to `end`, but for as many newlines before it as may belong to a block.
void CompletionParser::EmitUpTo(size_t end, size_t newlines_kept_back, std::vector<Event>& events) {
  while (newlines_kept_back > 0 && end > begin_ && held_[end - 1] == '\n') {
    --end;
    --newlines_kept_back;
  }
  Emit(Slice({begin_, end}), events);
  begin_ = end;
}

// Text between calls, where only blanks belong.
void CompletionParser::Leftover(size_t end, std::vector<Event>& events) {
  Emit(TrimBlanks(Slice({begin_, end})), events);
  begin_ = end;
}

void CompletionParser::Emit(std::string_view text, std::vector<Event>& events) {
  const bool reasoning = state_ == State::kReasoning;
  work_ += text.size();
  if (after_block_ && !reasoning) text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
  if (text.empty()) return;
  const Event::Kind kind = reasoning ? Event::Kind::kReasoning : Event::Kind::kContent;
  if (events.empty() || events.back().kind != kind) events.push_back({kind, {}, {}});
  std::string& out = events.back().text;
  // What stood on two sides of calls does not grow together.
  if (after_block_ && content_emitted_) out += "\n\n";
  if (eos_pending_) out += kHarmlessEos;
  AppendHarmless(text, out);
  eos_pending_ = false;
  if (!reasoning) {
    after_block_ = false;
    content_emitted_ = true;
  }
}

}  // namespace longshelf::tokenizer
