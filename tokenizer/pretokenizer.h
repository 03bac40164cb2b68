#pragma once

#include <cstddef>
#include <string_view>

#include "unicode_class.h"

namespace longshelf::tokenizer::internal {

// Regular expressions of the V4 pre-tokenizer as tokenizer.json spells them, in their order; each is applied to the
// pieces of the one before ("Isolated": matches and the gaps between them are all kept), then ByteLevel without a
// regex. PreTokenizer below is these three, compiled by hand.
inline constexpr std::string_view kSplitPatterns[] = {
    R"(\p{N}{1,3})",
    "[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+",
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+)"
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*"
    "|\\s*[\r\n]+"
    "|\\s+(?!\\S)"
    "|\\s+",
};

// Cuts a text into the pieces that BPE works on. Immutable; one pass, every code point is looked at a bounded number
// of times.
class PreTokenizer {
 public:
  // Calls visit(piece) in order; the pieces concatenate to `text`. visit returns false to stop early.
  // REQUIRES: `text` is valid UTF-8.
  template <typename Visitor>
  void Split(std::string_view text, Visitor&& visit) const {
    size_t pos = 0;
    while (pos < text.size()) {
      const size_t segment_end = SegmentEnd(text, pos);
      const std::string_view segment = text.substr(0, segment_end);
      while (pos < segment_end) {
        const size_t end = PieceEnd(segment, pos);
        if (!visit(text.substr(pos, end - pos))) return;
        pos = end;
      }
    }
  }

 private:
  struct Char;
  Char At(std::string_view text, size_t pos) const;
  // End of the piece of the first two patterns that begins at `pos`.
  size_t SegmentEnd(std::string_view text, size_t pos) const;
  // End of the piece of the third pattern that begins at `pos`; the segment ends with `segment`.
  size_t PieceEnd(std::string_view segment, size_t pos) const;
  // End of a match of the third pattern at `pos`, `pos` if there is none.
  size_t MatchEnd(std::string_view segment, size_t pos) const;
  size_t SpaceMatchEnd(std::string_view segment, size_t pos) const;
  // First position from `pos` on whose class is neither `a` nor `b`.
  size_t RunEnd(std::string_view text, size_t pos, CharClass a, CharClass b) const;

  UnicodeClasses classes_;
};

}  // namespace longshelf::tokenizer::internal
