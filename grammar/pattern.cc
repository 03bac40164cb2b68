#include "pattern.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"

namespace longshelf::grammar {
namespace {

constexpr size_t kPatternBytesMax = 4096;
constexpr uint32_t kRepeatMax = 4096;
constexpr uint32_t kNoLimit = UINT32_MAX;
constexpr size_t kNfaStatesMax = 32768;
constexpr int kNestingMax = 64;

const CharSet kDigits = {{'0', '9'}};
const CharSet kWordChars = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const CharSet kSpaces = {{9, 13},          {32, 32},         {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
                         {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const CharSet kLineEnds = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

struct Node {
  enum class Kind : uint8_t { kChars, kSequence, kAlternatives, kRepeat, kBegin, kEnd };
  Kind kind;
  CharSet chars = {};                // kChars
  std::vector<uint32_t> parts = {};  // of the others, by number
  uint32_t min = 0;                  // kRepeat
  uint32_t max = 0;
};

class Parser {
 public:
  explicit Parser(std::string_view pattern) : chars_(CodePoints(pattern)) {}

  absl::StatusOr<uint32_t> Run() {
    ASSIGN_OR_RETURN(const uint32_t root, Alternatives(0));
    if (!AtEnd()) return Bad("has a ) without a (");
    return root;
  }
  const std::vector<Node>& nodes() const { return nodes_; }

 private:
  bool AtEnd() const { return pos_ == chars_.size(); }
  bool Is(uint32_t c) const { return !AtEnd() && chars_[pos_] == c; }
  bool Take(uint32_t c) {
    if (!Is(c)) return false;
    ++pos_;
    return true;
  }
  bool Take(std::string_view text) {
    for (size_t i = 0; i < text.size(); ++i) {
      if (pos_ + i >= chars_.size() || chars_[pos_ + i] != static_cast<uint32_t>(text[i])) return false;
    }
    pos_ += text.size();
    return true;
  }
  absl::Status Bad(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(what, " (before character ", pos_, ")"));
  }
  uint32_t Add(Node node) {
    nodes_.push_back(std::move(node));
    return static_cast<uint32_t>(nodes_.size() - 1);
  }

  absl::StatusOr<uint32_t> Alternatives(int depth) {
    if (depth > kNestingMax) return Bad("nests groups too deeply");
    Node all{.kind = Node::Kind::kAlternatives};
    do {
      Node sequence{.kind = Node::Kind::kSequence};
      while (!AtEnd() && !Is('|') && !Is(')')) {
        ASSIGN_OR_RETURN(const uint32_t part, Term(depth));
        sequence.parts.push_back(part);
      }
      all.parts.push_back(Add(std::move(sequence)));
    } while (Take('|'));
    return Add(std::move(all));
  }

  absl::StatusOr<uint32_t> Term(int depth) {
    if (Take('^')) return Add({.kind = Node::Kind::kBegin});
    if (Take('$')) return Add({.kind = Node::Kind::kEnd});
    ASSIGN_OR_RETURN(const uint32_t atom, Atom(depth));
    ASSIGN_OR_RETURN(const auto bounds, Quantifier());
    if (!bounds.has_value()) return atom;
    Take('?');  // lazy: the same strings
    return Add({.kind = Node::Kind::kRepeat, .parts = {atom}, .min = bounds->first, .max = bounds->second});
  }

  absl::StatusOr<uint32_t> Atom(int depth) {
    if (Take('(')) {
      if (Take("?:")) {
      } else if (Take("?=") || Take("?!") || Take("?<=") || Take("?<!")) {
        return Bad("looks around, which is not supported");
      } else if (Take("?<")) {
        while (!AtEnd() && !Is('>')) ++pos_;
        if (!Take('>')) return Bad("has a group without the end of its name");
      } else if (Is('?')) {
        return Bad("has an unknown kind of group");
      }
      ASSIGN_OR_RETURN(const uint32_t inner, Alternatives(depth + 1));
      if (!Take(')')) return Bad("has a ( without a )");
      return inner;
    }
    if (Take('[')) {
      ASSIGN_OR_RETURN(CharSet set, Class());
      return Add({.kind = Node::Kind::kChars, .chars = std::move(set)});
    }
    if (Take('.')) return Add({.kind = Node::Kind::kChars, .chars = kLineEnds.Negated()});
    if (Is('*') || Is('+') || Is('?')) return Bad("has nothing to repeat");
    if (Take('\\')) {
      ASSIGN_OR_RETURN(CharSet set, Escape(/*in_class=*/false));
      return Add({.kind = Node::Kind::kChars, .chars = std::move(set)});
    }
    const uint32_t c = chars_[pos_++];
    return Add({.kind = Node::Kind::kChars, .chars = {{c, c}}});
  }

  std::optional<uint32_t> Number() {
    if (AtEnd() || chars_[pos_] < '0' || chars_[pos_] > '9') return std::nullopt;
    uint32_t n = 0;
    while (!AtEnd() && chars_[pos_] >= '0' && chars_[pos_] <= '9') {
      n = std::min<uint32_t>(n * 10 + (chars_[pos_++] - '0'), kRepeatMax + 1);
    }
    return n;
  }

  // Nothing when there is none.
  absl::StatusOr<std::optional<std::pair<uint32_t, uint32_t>>> Quantifier() {
    using Bounds = std::optional<std::pair<uint32_t, uint32_t>>;
    if (Take('*')) return Bounds({0, kNoLimit});
    if (Take('+')) return Bounds({1, kNoLimit});
    if (Take('?')) return Bounds({0, 1});
    const size_t begin = pos_;
    if (!Take('{')) return Bounds();
    const std::optional<uint32_t> min = Number();
    std::optional<uint32_t> max = min;
    if (min && Take(',')) {
      max = Number();
      if (!max) max = kNoLimit;
    }
    if (!min || !Take('}')) {  // a brace that is one
      pos_ = begin;
      return Bounds();
    }
    if (*min > kRepeatMax || (*max != kNoLimit && *max > kRepeatMax)) {
      return Bad(absl::StrCat("repeats more than ", kRepeatMax, " times"));
    }
    if (*min > *max) return Bad("has a quantifier whose bounds are in the wrong order");
    return Bounds({*min, *max});
  }

  absl::StatusOr<uint32_t> Hex(size_t n) {
    uint32_t value = 0;
    for (size_t i = 0; i < n; ++i) {
      const uint32_t c = AtEnd() ? 0 : chars_[pos_];
      const uint32_t lower = c | 0x20;
      if (c >= '0' && c <= '9') {
        value = value << 4 | (c - '0');
      } else if (lower >= 'a' && lower <= 'f') {
        value = value << 4 | (lower - 'a' + 10);
      } else {
        return Bad("has an escape with too few hexadecimal digits");
      }
      ++pos_;
    }
    return value;
  }

  absl::StatusOr<CharSet> Unicode() {
    uint32_t c = 0;
    if (Take('{')) {
      size_t n = 0;
      while (pos_ + n < chars_.size() && chars_[pos_ + n] != '}') ++n;
      if (n == 0 || n > 6) return Bad("has an escape that is no code point");
      ASSIGN_OR_RETURN(c, Hex(n));
      if (!Take('}')) return Bad("has an escape without an end");
    } else {
      ASSIGN_OR_RETURN(c, Hex(4));
      if (c >= 0xD800 && c <= 0xDBFF && Take("\\u")) {
        ASSIGN_OR_RETURN(const uint32_t low, Hex(4));
        if (low < 0xDC00 || low > 0xDFFF) return Bad("has half of a surrogate pair");
        c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
      }
    }
    if (c > kCodePointMax || (c >= 0xD800 && c <= 0xDFFF)) return Bad("has an escape that is no code point");
    return CharSet{{c, c}};
  }

  absl::StatusOr<CharSet> Escape(bool in_class) {
    if (AtEnd()) return Bad("ends with a backslash");
    const uint32_t c = chars_[pos_++];
    const auto one = [](uint32_t value) { return CharSet{{value, value}}; };
    switch (c) {
      case 'd':
        return kDigits;
      case 'D':
        return kDigits.Negated();
      case 'w':
        return kWordChars;
      case 'W':
        return kWordChars.Negated();
      case 's':
        return kSpaces;
      case 'S':
        return kSpaces.Negated();
      case 'n':
        return one('\n');
      case 'r':
        return one('\r');
      case 't':
        return one('\t');
      case 'f':
        return one('\f');
      case 'v':
        return one('\v');
      case '0':
        return one(0);
      case 'x': {
        ASSIGN_OR_RETURN(const uint32_t value, Hex(2));
        return one(value);
      }
      case 'u':
        return Unicode();
      case 'c': {
        const uint32_t letter = AtEnd() ? 0 : chars_[pos_] | 0x20;
        if (letter < 'a' || letter > 'z') return Bad("has a \\c without a letter");
        ++pos_;
        return one(letter - 'a' + 1);
      }
      case 'b':
        if (in_class) return one('\b');
        [[fallthrough]];
      case 'B':
        return Bad("has a word boundary, which is not supported");
      case 'p':
      case 'P':
        return Bad("has a class of Unicode properties (\\p), which is not supported");
      case 'k':
        return Bad("refers back to a group, which is not supported");
      default:
        break;
    }
    if (c >= '1' && c <= '9') return Bad("refers back to a group, which is not supported");
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return Bad("has an unknown escape");
    return one(c);
  }

  // One character, or a set of them that no range can begin or end with.
  absl::StatusOr<CharSet> ClassAtom() {
    if (AtEnd()) return Bad("has a [ without a ]");
    if (Take('\\')) return Escape(/*in_class=*/true);
    const uint32_t c = chars_[pos_++];
    return CharSet{{c, c}};
  }

  absl::StatusOr<CharSet> Class() {
    const bool is_negated = Take('^');
    CharSet set;
    while (!Take(']')) {
      ASSIGN_OR_RETURN(const CharSet first, ClassAtom());
      const bool is_range = Is('-') && pos_ + 1 < chars_.size() && chars_[pos_ + 1] != ']';
      if (!is_range) {
        set.Add(first);
        continue;
      }
      ++pos_;
      ASSIGN_OR_RETURN(const CharSet last, ClassAtom());
      const auto is_one = [](const CharSet& s) {
        return s.ranges().size() == 1 && s.ranges()[0].lo == s.ranges()[0].hi;
      };
      if (!is_one(first) || !is_one(last)) return Bad("has a range that does not go from a character to a character");
      if (first.ranges()[0].lo > last.ranges()[0].lo) return Bad("has a range in the wrong order");
      set.Add(first.ranges()[0].lo, last.ranges()[0].lo);
    }
    return is_negated ? set.Negated() : set;
  }

  const std::vector<uint32_t> chars_;
  size_t pos_ = 0;
  std::vector<Node> nodes_;
};

// Thompson's construction.
class NfaBuilder {
 public:
  explicit NfaBuilder(const std::vector<Node>& nodes) : nodes_(nodes) {}

  absl::StatusOr<CharNfa> Run(uint32_t root) {
    nfa_.start = Loop();
    ASSIGN_OR_RETURN(const uint32_t end, Emit(root, nfa_.start));
    nfa_.accept = Loop();
    Link(end, nfa_.accept);
    return std::move(nfa_);
  }

 private:
  uint32_t NewState() {
    nfa_.states.emplace_back();
    return static_cast<uint32_t>(nfa_.states.size() - 1);
  }
  uint32_t Loop() {
    const uint32_t state = NewState();
    nfa_.states[state].chars = CharSet::All();
    nfa_.states[state].to = state;
    return state;
  }
  void Link(uint32_t from, uint32_t to, CharNfa::When when = CharNfa::When::kAlways) {
    nfa_.states[from].free.push_back({to, when});
  }

  // Returns the state behind it. From `from` only free moves are added.
  absl::StatusOr<uint32_t> Emit(uint32_t number, uint32_t from) {
    if (nfa_.states.size() > kNfaStatesMax) {
      return absl::ResourceExhaustedError(absl::StrCat("takes more than ", kNfaStatesMax, " states"));
    }
    const Node& node = nodes_[number];
    switch (node.kind) {
      case Node::Kind::kChars: {
        const uint32_t begin = NewState();
        const uint32_t end = NewState();
        nfa_.states[begin].chars = node.chars;
        nfa_.states[begin].to = end;
        Link(from, begin);
        return end;
      }
      case Node::Kind::kSequence:
        for (const uint32_t part : node.parts) {
          ASSIGN_OR_RETURN(from, Emit(part, from));
        }
        return from;
      case Node::Kind::kAlternatives: {
        const uint32_t end = NewState();
        for (const uint32_t part : node.parts) {
          const uint32_t begin = NewState();
          Link(from, begin);
          ASSIGN_OR_RETURN(const uint32_t behind, Emit(part, begin));
          Link(behind, end);
        }
        return end;
      }
      case Node::Kind::kRepeat:
        return EmitRepeat(node, from);
      case Node::Kind::kBegin:
      case Node::Kind::kEnd: {
        const uint32_t end = NewState();
        Link(from, end, node.kind == Node::Kind::kBegin ? CharNfa::When::kAtBegin : CharNfa::When::kAtEnd);
        return end;
      }
    }
    return from;
  }

  absl::StatusOr<uint32_t> EmitRepeat(const Node& node, uint32_t from) {
    for (uint32_t i = 0; i < node.min; ++i) {
      ASSIGN_OR_RETURN(from, Emit(node.parts[0], from));
    }
    const uint32_t end = NewState();
    Link(from, end);
    if (node.max == kNoLimit) {
      const uint32_t begin = NewState();
      Link(from, begin);
      ASSIGN_OR_RETURN(const uint32_t behind, Emit(node.parts[0], begin));
      Link(behind, begin);
      Link(behind, end);
      return end;
    }
    for (uint32_t i = node.min; i < node.max; ++i) {
      const uint32_t begin = NewState();
      Link(from, begin);
      ASSIGN_OR_RETURN(from, Emit(node.parts[0], begin));
      Link(from, end);
    }
    return end;
  }

  const std::vector<Node>& nodes_;
  CharNfa nfa_;
};

}  // namespace

absl::StatusOr<CharDfa> CompilePattern(std::string_view pattern, size_t* n_steps) {
  if (pattern.size() > kPatternBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("has more than ", kPatternBytesMax, " bytes"));
  }
  Parser parser(pattern);
  ASSIGN_OR_RETURN(const uint32_t root, parser.Run());
  ASSIGN_OR_RETURN(const CharNfa nfa, NfaBuilder(parser.nodes()).Run(root));
  return CharDfa::OfNfa(nfa, n_steps);
}

}  // namespace longshelf::grammar
