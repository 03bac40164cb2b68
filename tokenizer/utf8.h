#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

// UTF-8 as Unicode table 3-7 defines it: no overlong forms, no surrogates, nothing above U+10FFFF. Pure functions.
namespace longshelf::tokenizer::internal {

struct CodePoint {
  uint32_t value;
  uint32_t bytes;
};

// REQUIRES: `pos` is the first byte of a code point of a valid text.
CodePoint DecodeAt(std::string_view text, size_t pos);

void AppendCodePoint(uint32_t code_point, std::string& out);

// Offset of the first byte that is not valid, npos if all is valid.
size_t FindInvalidUtf8(std::string_view text);

// What stands at the front of `bytes`.
struct Utf8Unit {
  enum class Kind : uint8_t {
    kValid,      // a code point
    kInvalid,    // bytes that no continuation can save: the maximal subpart, replaced by one U+FFFD
    kTruncated,  // all of `bytes` is the beginning of a code point
  };
  Kind kind;
  uint32_t bytes;
};
// REQUIRES: !bytes.empty().
Utf8Unit NextUnit(std::string_view bytes);

// Appends `bytes` to `out` with one U+FFFD for each invalid maximal subpart. Stops before an unfinished code point at
// the end and returns how many bytes were taken.
size_t AppendLossy(std::string_view bytes, std::string& out);

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

}  // namespace longshelf::tokenizer::internal
