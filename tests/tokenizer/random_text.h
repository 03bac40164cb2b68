#pragma once

#include <cstdint>
#include <iterator>
#include <random>
#include <string>
#include <string_view>

namespace longshelf::tokenizer::testing {

inline size_t Below(std::mt19937_64& rng, size_t n) { return static_cast<size_t>(rng() % n); }

template <typename Container>
auto Pick(std::mt19937_64& rng, const Container& from) {
  return *(std::begin(from) + static_cast<ptrdiff_t>(Below(rng, std::size(from))));
}

inline void AppendUtf8(uint32_t c, std::string& out) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
  } else if (c < 0x10000) {
    out += {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3F)),
            static_cast<char>(0x80 | (c & 0x3F))};
  } else {
    out += {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 0x3F)),
            static_cast<char>(0x80 | (c >> 6 & 0x3F)), static_cast<char>(0x80 | (c & 0x3F))};
  }
}

// Valid UTF-8 out of scripts, blanks, controls, emoji, markup and any code point.
inline std::string RandomText(std::mt19937_64& rng, size_t parts_max = 12) {
  static constexpr std::string_view kParts[] = {"the ",
                                                "don't",
                                                " 12345",
                                                "\r\n",
                                                "\n\n  \n",
                                                "   ",
                                                "\t",
                                                "!?",
                                                " _x",
                                                "#include",
                                                "한국어",
                                                "ひらがな",
                                                "カタカナ",
                                                "把这段",
                                                "مرحبا",
                                                "हिन्दी",
                                                "é",
                                                "e\u0301",
                                                "½Ⅷ٣",
                                                "\u200d",
                                                "\u00a0",
                                                "\u3000",
                                                "👩‍👩‍👧",
                                                "🫩",
                                                "｜",
                                                "<｜",
                                                "｜DSML｜",
                                                "<think>",
                                                "</think>",
                                                "<｜User｜>",
                                                "<｜end▁of▁sentence｜>",
                                                "\\",
                                                "\"",
                                                "a",
                                                "ａ",
                                                "、",
                                                "\u0001",
                                                "\uFFFD"};
  std::string out;
  for (size_t n = Below(rng, parts_max + 1); n > 0; --n) {
    if (Below(rng, 5) == 0) {
      uint32_t c = static_cast<uint32_t>(Below(rng, Below(rng, 2) == 0 ? 0x3000 : 0x110000));
      if (c >= 0xD800 && c < 0xE000) c = 'x';
      AppendUtf8(c, out);
    } else {
      out += Pick(rng, kParts);
    }
  }
  return out;
}

inline std::string RandomBytes(std::mt19937_64& rng, size_t bytes) {
  std::string out(bytes, '\0');
  for (char& c : out) c = static_cast<char>(rng());
  return out;
}

// An independent check: table 3-7 of the Unicode standard, spelled out.
inline bool IsUtf8(std::string_view s) {
  const auto in = [&s](size_t i, int low, int high) {
    return i < s.size() && static_cast<unsigned char>(s[i]) >= low && static_cast<unsigned char>(s[i]) <= high;
  };
  for (size_t i = 0; i < s.size();) {
    if (in(i, 0, 0x7F)) {
      i += 1;
    } else if (in(i, 0xC2, 0xDF) && in(i + 1, 0x80, 0xBF)) {
      i += 2;
    } else if (((in(i, 0xE0, 0xE0) && in(i + 1, 0xA0, 0xBF)) || (in(i, 0xE1, 0xEC) && in(i + 1, 0x80, 0xBF)) ||
                (in(i, 0xED, 0xED) && in(i + 1, 0x80, 0x9F)) || (in(i, 0xEE, 0xEF) && in(i + 1, 0x80, 0xBF))) &&
               in(i + 2, 0x80, 0xBF)) {
      i += 3;
    } else if (((in(i, 0xF0, 0xF0) && in(i + 1, 0x90, 0xBF)) || (in(i, 0xF1, 0xF3) && in(i + 1, 0x80, 0xBF)) ||
                (in(i, 0xF4, 0xF4) && in(i + 1, 0x80, 0x8F))) &&
               in(i + 2, 0x80, 0xBF) && in(i + 3, 0x80, 0xBF)) {
      i += 4;
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace longshelf::tokenizer::testing
