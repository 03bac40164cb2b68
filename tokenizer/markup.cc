#include "markup.h"

#include <algorithm>
#include <array>
#include <utility>

#include "chat_protocol.h"

namespace longshelf::tokenizer::internal {
namespace {

struct Pattern {
  Markup kind;
  std::string_view text;
};
constexpr std::array<Pattern, 10> kPatterns = {{
    {Markup::kThinkEnd, protocol::kThinkEnd},
    {Markup::kEos, protocol::kEos},
    {Markup::kBlockBegin, protocol::kToolCallsBegin},
    {Markup::kBlockBegin, "<｜DSML｜function_calls"},  // the name of V3.2
    {Markup::kBlockEnd, "</｜DSML｜tool_calls"},
    {Markup::kBlockEnd, "</｜DSML｜function_calls"},
    {Markup::kCallBegin, protocol::kInvokeBegin},
    {Markup::kCallEnd, protocol::kInvokeEnd},
    {Markup::kParameterBegin, protocol::kParameterBegin},
    {Markup::kParameterEnd, protocol::kParameterEnd},
}};
constexpr std::array<std::string_view, 3> kSentinels = {"<｜DSML｜", "</｜DSML｜", protocol::kDsml};

size_t SentinelBytes(std::string_view text) {
  for (const std::string_view sentinel : kSentinels) {
    if (text.starts_with(sentinel)) return sentinel.size();
  }
  return 0;
}

}  // namespace

std::optional<FoundMarkup> MarkupScanner::Next(MarkupSet wanted) {
  const bool sentinels = Contains(wanted, Markup::kSentinel);
  while (true) {
    const size_t at = std::min(held_.find_first_of("<\xEF", scan_), held_.size());
    work_ += at - scan_;
    scan_ = at;
    if (at == held_.size()) return std::nullopt;
    const std::string_view rest = std::string_view(held_).substr(at);
    bool may_become = false;
    for (const Pattern& pattern : kPatterns) {
      if (!Contains(wanted, pattern.kind)) continue;
      if (rest.starts_with(pattern.text)) {
        work_ += pattern.text.size();
        scan_ = at + pattern.text.size();
        return FoundMarkup{pattern.kind, at, scan_};
      }
      may_become = may_become || pattern.text.starts_with(rest);
    }
    for (const std::string_view sentinel : kSentinels) {
      may_become = may_become || (sentinels && sentinel != rest && sentinel.starts_with(rest));
    }
    ++work_;
    if (may_become) return std::nullopt;
    const size_t n_sentinel = sentinels ? SentinelBytes(rest) : 0;
    if (n_sentinel > 0) {
      scan_ = at + n_sentinel;
      return FoundMarkup{Markup::kSentinel, at, scan_};
    }
    ++scan_;
  }
}

bool MarkupScanner::AwaitsBracket() {
  if (!skip_bracket_) return false;
  if (begin_ >= held_.size()) return true;
  if (held_[begin_] == '>') ++begin_;
  scan_ = std::max(scan_, begin_);
  skip_bracket_ = false;
  return false;
}

void MarkupScanner::DropDone() {
  if (begin_ == 0) return;
  work_ += held_.size() - begin_;
  held_.erase(0, begin_);
  scan_ -= std::min(scan_, begin_);
  begin_ = 0;
}

size_t MarkupScanner::WithoutNewlines(size_t end, size_t n_max) const {
  while (n_max > 0 && end > begin_ && held_[end - 1] == '\n') {
    --end;
    --n_max;
  }
  return end;
}

bool MarkupScanner::EndsInsideMarkup(StreamEnd end) const {
  const std::string_view rest = tail();
  if (rest.find(protocol::kDsml) != std::string_view::npos) return true;
  if (end == StreamEnd::kComplete) return false;
  // A bracket alone may be text; one with the bar behind it, whole or in part, is not.
  constexpr char kBar = '\xEF';
  return (rest.size() > 1 && rest[0] == '<' && rest[1] == kBar) ||
         (rest.size() > 2 && rest.starts_with("</") && rest[2] == kBar);
}

void CleanText::Write(std::string_view text, std::string& out) {
  if (text.empty()) return;
  if (std::exchange(is_broken_, false)) {
    for (size_t n = 1; n < protocol::kDsml.size(); ++n) {
      if (!last_.ends_with(protocol::kDsml.substr(0, n))) continue;
      out += ' ';
      break;
    }
  }
  out += text;
  last_ += text.substr(text.size() - std::min(text.size(), protocol::kDsml.size()));
  last_.erase(0, last_.size() - std::min(last_.size(), protocol::kDsml.size()));
}

void CleanText::Append(std::string_view text, std::string& out) {
  size_t begin = 0;
  size_t at = 0;
  while ((at = text.find_first_of("<\xEF", at)) != std::string_view::npos) {
    const size_t n = SentinelBytes(text.substr(at));
    if (n == 0) {
      ++at;
      continue;
    }
    Write(text.substr(begin, at - begin), out);
    Break();
    at += n;
    begin = at;
  }
  Write(text.substr(begin), out);
}

}  // namespace longshelf::tokenizer::internal
