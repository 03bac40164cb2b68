#include "utf8.h"

#include <cstring>

namespace longshelf::tokenizer::internal {
namespace {

uint8_t Byte(std::string_view text, size_t i) { return static_cast<uint8_t>(text[i]); }

// Number of leading bytes below 0x80, eight at a time.
size_t AsciiPrefix(std::string_view text) {
  size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + i, 8);
    if ((word & 0x8080808080808080u) != 0) break;
  }
  while (i < text.size() && Byte(text, i) < 0x80) ++i;
  return i;
}

}  // namespace

CodePoint DecodeAt(std::string_view text, size_t pos) {
  const uint32_t b0 = Byte(text, pos);
  if (b0 < 0x80) return {b0, 1};
  if (b0 < 0xE0) return {(b0 & 0x1F) << 6 | (Byte(text, pos + 1) & 0x3Fu), 2};
  if (b0 < 0xF0) {
    return {(b0 & 0x0F) << 12 | (Byte(text, pos + 1) & 0x3Fu) << 6 | (Byte(text, pos + 2) & 0x3Fu), 3};
  }
  return {(b0 & 0x07) << 18 | (Byte(text, pos + 1) & 0x3Fu) << 12 | (Byte(text, pos + 2) & 0x3Fu) << 6 |
              (Byte(text, pos + 3) & 0x3Fu),
          4};
}

void AppendCodePoint(uint32_t code_point, std::string& out) {
  const auto put = [&out](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

Utf8Unit NextUnit(std::string_view bytes) {
  const uint8_t b0 = Byte(bytes, 0);
  if (b0 < 0x80) return {Utf8Unit::Kind::kValid, 1};
  if (b0 < 0xC2 || b0 > 0xF4) return {Utf8Unit::Kind::kInvalid, 1};
  const uint32_t length = b0 < 0xE0 ? 2 : b0 < 0xF0 ? 3 : 4;
  // Only the second byte has a range of its own: it keeps out overlong forms, surrogates and values above U+10FFFF.
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
  if (b0 == 0xE0) low = 0xA0;
  if (b0 == 0xED) high = 0x9F;
  if (b0 == 0xF0) low = 0x90;
  if (b0 == 0xF4) high = 0x8F;
  for (uint32_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {Utf8Unit::Kind::kTruncated, i};
    const uint8_t b = Byte(bytes, i);
    if (b < low || b > high) return {Utf8Unit::Kind::kInvalid, i};
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Unit::Kind::kValid, length};
}

size_t FindInvalidUtf8(std::string_view text) {
  size_t pos = 0;
  while (true) {
    pos += AsciiPrefix(text.substr(pos));
    if (pos == text.size()) return std::string_view::npos;
    const Utf8Unit unit = NextUnit(text.substr(pos));
    if (unit.kind != Utf8Unit::Kind::kValid) return pos;
    pos += unit.bytes;
  }
}

size_t AppendLossy(std::string_view bytes, std::string& out) {
  size_t pos = 0;
  while (pos < bytes.size()) {
    const size_t ascii = AsciiPrefix(bytes.substr(pos));
    out.append(bytes.substr(pos, ascii));
    pos += ascii;
    if (pos == bytes.size()) break;
    const Utf8Unit unit = NextUnit(bytes.substr(pos));
    if (unit.kind == Utf8Unit::Kind::kTruncated) break;
    out.append(unit.kind == Utf8Unit::Kind::kValid ? bytes.substr(pos, unit.bytes) : kReplacementCharacter);
    pos += unit.bytes;
  }
  return pos;
}

}  // namespace longshelf::tokenizer::internal
