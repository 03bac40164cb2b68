#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace longshelf::grammar {

inline constexpr uint32_t kCodePointMax = 0x10FFFF;
// Of one automaton over code points.
inline constexpr size_t kDfaStatesMax = 4096;

struct CharRange {
  uint32_t lo;
  uint32_t hi;
  bool operator==(const CharRange&) const = default;
};

// Code points, as sorted ranges that do not touch. Surrogates are in none.
class CharSet {
 public:
  CharSet() = default;
  CharSet(std::initializer_list<CharRange> ranges);
  static CharSet All();
  void Add(uint32_t lo, uint32_t hi);
  void Add(const CharSet& other);
  CharSet Negated() const;
  const std::vector<CharRange>& ranges() const { return ranges_; }

 private:
  std::vector<CharRange> ranges_;
};

// Nondeterministic, as regular expressions make them. `when` of a free move: always, only before the first character,
// only behind the last.
struct CharNfa {
  enum class When : uint8_t { kAlways, kAtBegin, kAtEnd };
  struct Free {
    uint32_t to;
    When when;
  };
  struct State {
    CharSet chars;
    uint32_t to = 0;  // by one of chars
    std::vector<Free> free;
  };
  std::vector<State> states;
  uint32_t start = 0;
  uint32_t accept = 0;
};

// A deterministic automaton over code points. State 0 is the first; every state leads to one that accepts; without
// states it accepts nothing. Immutable.
class CharDfa {
 public:
  struct Edge {
    uint32_t lo;
    uint32_t hi;
    uint32_t to;
    bool operator==(const Edge&) const = default;
  };
  struct State {
    bool accepts = false;
    std::vector<Edge> edges;  // sorted, disjoint
    bool operator==(const State&) const = default;
  };

  static CharDfa Any();
  static CharDfa OfWords(const std::vector<std::string>& words);  // in valid UTF-8
  static CharDfa OfLengths(uint64_t min, uint64_t max);  // REQUIRES: both fit kDfaStatesMax, or max is no limit
  // These say RESOURCE_EXHAUSTED when kDfaStatesMax is not enough.
  // `n_steps` (may be null) grows by the work that it took.
  static absl::StatusOr<CharDfa> OfNfa(const CharNfa& nfa, size_t* n_steps = nullptr);
  static absl::StatusOr<CharDfa> Intersect(const CharDfa& a, const CharDfa& b);
  static absl::StatusOr<CharDfa> Unite(const CharDfa& a, const CharDfa& b);
  static CharDfa Complement(const CharDfa& a);

  bool Accepts(std::string_view text) const;  // valid UTF-8
  bool empty() const { return states_.empty(); }
  const std::vector<State>& states() const { return states_; }
  bool operator==(const CharDfa&) const = default;

 private:
  explicit CharDfa(std::vector<State> states) : states_(std::move(states)) {}
  static CharDfa Trimmed(std::vector<State> states);

  std::vector<State> states_;
};

using CharDfaPtr = std::shared_ptr<const CharDfa>;

// The code points of valid UTF-8.
std::vector<uint32_t> CodePoints(std::string_view text);
void AppendUtf8(uint32_t code_point, std::string& out);

}  // namespace longshelf::grammar
