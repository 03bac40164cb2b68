#include "pretokenizer.h"

#include "utf8.h"

namespace longshelf::tokenizer::internal {
namespace {

constexpr int kNumbersMax = 3;  // \p{N}{1,3}

bool IsNewline(uint32_t c) { return c == '\r' || c == '\n'; }
bool IsAsciiLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool IsAsciiPunct(uint32_t c) {
  return (c >= 0x21 && c <= 0x2F) || (c >= 0x3A && c <= 0x40) || (c >= 0x5B && c <= 0x60) || (c >= 0x7B && c <= 0x7E);
}
// Second pattern: hiragana and katakana blocks are neighbours.
bool IsCjk(uint32_t c) { return (c >= 0x4E00 && c <= 0x9FA5) || (c >= 0x3040 && c <= 0x30FF); }

}  // namespace

struct PreTokenizer::Char {
  uint32_t value;
  uint32_t bytes;
  CharClass kind;
  bool letter_or_mark() const { return kind == CharClass::kLetter || kind == CharClass::kMark; }
  bool punct_or_symbol() const { return kind == CharClass::kPunct || kind == CharClass::kSymbol; }
};

PreTokenizer::Char PreTokenizer::At(std::string_view text, size_t pos) const {
  const CodePoint c = DecodeAt(text, pos);
  return {c.value, c.bytes, classes_.Of(c.value)};
}

size_t PreTokenizer::RunEnd(std::string_view text, size_t pos, CharClass a, CharClass b) const {
  while (pos < text.size()) {
    const Char c = At(text, pos);
    if (c.kind != a && c.kind != b) break;
    pos += c.bytes;
  }
  return pos;
}

size_t PreTokenizer::SegmentEnd(std::string_view text, size_t pos) const {
  const Char first = At(text, pos);
  if (first.kind == CharClass::kNumber) {
    for (int n = 0; n < kNumbersMax && pos < text.size(); ++n) {
      const Char c = At(text, pos);
      if (c.kind != CharClass::kNumber) break;
      pos += c.bytes;
    }
    return pos;
  }
  const bool cjk = IsCjk(first.value);
  while (pos < text.size()) {
    const Char c = At(text, pos);
    if (c.kind == CharClass::kNumber || IsCjk(c.value) != cjk) break;
    pos += c.bytes;
  }
  return pos;
}

size_t PreTokenizer::PieceEnd(std::string_view segment, size_t pos) const {
  if (const size_t end = MatchEnd(segment, pos); end != pos) return end;
  // A gap: up to where the next match begins.
  do {
    pos += At(segment, pos).bytes;
  } while (pos < segment.size() && MatchEnd(segment, pos) == pos);
  return pos;
}

size_t PreTokenizer::MatchEnd(std::string_view segment, size_t pos) const {
  const Char first = At(segment, pos);
  const size_t next = pos + first.bytes;
  // ASCII punctuation and ASCII letters.
  if (IsAsciiPunct(first.value) && next < segment.size() && IsAsciiLetter(segment[next])) {
    size_t end = next + 1;
    while (end < segment.size() && IsAsciiLetter(segment[end])) ++end;
    return end;
  }
  // Letters and marks after at most one character that is no newline, punctuation or symbol. A mark may play both
  // parts.
  if (first.letter_or_mark()) return RunEnd(segment, next, CharClass::kLetter, CharClass::kMark);
  if (!first.punct_or_symbol() && !IsNewline(first.value) && next < segment.size() &&
      At(segment, next).letter_or_mark()) {
    return RunEnd(segment, next, CharClass::kLetter, CharClass::kMark);
  }
  // Punctuation and symbols after at most one blank, with the newlines behind them.
  const bool blank_before = first.value == ' ' && next < segment.size() && At(segment, next).punct_or_symbol();
  if (first.punct_or_symbol() || blank_before) {
    size_t end = RunEnd(segment, next, CharClass::kPunct, CharClass::kSymbol);
    while (end < segment.size() && IsNewline(static_cast<unsigned char>(segment[end]))) ++end;
    return end;
  }
  return first.kind == CharClass::kSpace ? SpaceMatchEnd(segment, pos) : pos;
}

size_t PreTokenizer::SpaceMatchEnd(std::string_view segment, size_t pos) const {
  size_t end = pos;
  size_t last_begin = pos;   // of the last blank of the run
  size_t newline_end = pos;  // behind the last newline of the run
  while (end < segment.size()) {
    const Char c = At(segment, end);
    if (c.kind != CharClass::kSpace) break;
    last_begin = end;
    end += c.bytes;
    if (IsNewline(c.value)) newline_end = end;
  }
  if (newline_end != pos) return newline_end;   // \s*[\r\n]+
  if (end == segment.size()) return end;        // \s+(?!\S) at the end of the segment
  return last_begin != pos ? last_begin : end;  // \s+(?!\S) leaves the last one to what follows; a single one is \s+
}

}  // namespace longshelf::tokenizer::internal
