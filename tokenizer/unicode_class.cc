#include "unicode_class.h"

#include <algorithm>

namespace longshelf::tokenizer::internal {
namespace {

constexpr size_t kCodePoints = 0x110000;

}  // namespace

UnicodeClasses::UnicodeClasses() : classes_(kCodePoints) {
  for (size_t i = 0; i < kUnicodeRanges; ++i) {
    const size_t begin = kUnicodeRangeStarts[i] >> 3;
    const size_t end = i + 1 < kUnicodeRanges ? kUnicodeRangeStarts[i + 1] >> 3 : kCodePoints;
    std::fill(classes_.begin() + static_cast<ptrdiff_t>(begin), classes_.begin() + static_cast<ptrdiff_t>(end),
              static_cast<CharClass>(kUnicodeRangeStarts[i] & 7));
  }
}

}  // namespace longshelf::tokenizer::internal
