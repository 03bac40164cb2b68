#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace longshelf::tokenizer::internal {

// What the V4 pre-tokenizer asks about a code point: general categories L, M, N, P, S, and White_Space. The six are
// disjoint; everything else (controls, format characters, unassigned) is kOther.
enum class CharClass : uint8_t { kOther = 0, kLetter, kMark, kNumber, kPunct, kSymbol, kSpace };

// unicode_ranges.cc, generated: Unicode 16.0, the version the reference tokenizer knows.
inline constexpr size_t kUnicodeRanges = 2324;
extern const std::array<uint32_t, kUnicodeRanges> kUnicodeRangeStarts;

// The ranges unpacked, one byte per code point. Immutable.
class UnicodeClasses {
 public:
  UnicodeClasses();
  // REQUIRES: code_point <= U+10FFFF.
  CharClass Of(uint32_t code_point) const { return classes_[code_point]; }

 private:
  std::vector<CharClass> classes_;
};

}  // namespace longshelf::tokenizer::internal
