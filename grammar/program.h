#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace longshelf::grammar {

// What a program reads: bytes, and the markers that are tokens of their own.
using Symbol = uint16_t;
inline constexpr Symbol kDsmlSymbol = 256;
inline constexpr Symbol kThinkEndSymbol = 257;
inline constexpr size_t kSymbols = 258;

inline constexpr uint32_t kUnlimited = UINT32_MAX;
// Rules inside one another, values in values.
inline constexpr uint32_t kFramesMax = 64;
inline constexpr size_t kProgramStatesMax = 1 << 16;
// Ways to read one text at the same time.
inline constexpr size_t kWaysMax = 512;

// One way to go on from a state. `need` and `room` are registers of the current frame: members, items or characters
// that must still come, and that still may.
struct Move {
  enum class Kind : uint8_t {
    kRead,         // reads one of a to b
    kJump,         //
    kCall,         // runs the rule that begins at a, in a frame of its own, then goes on at `to`
    kReturn,       // ends this frame's rule
    kSet,          // need = a, room = b
    kTake,         // if there is room: one of it, and of the need
    kNeedAtMost,   // if need <= a
    kRoomAtLeast,  // if room >= a
    kFits,         // if a more frames may be opened
    kEnd,          // the text may end here
  };
  Kind kind;
  uint32_t to = 0;
  uint32_t a = 0;
  uint32_t b = 0;
};

// Where one way of reading stands.
struct Frame {
  uint32_t state = 0;
  uint32_t need = 0;
  uint32_t room = kUnlimited;
  auto operator<=>(const Frame&) const = default;
};
using Way = std::vector<Frame>;  // innermost last

// All ways to read what was read so far. Dead: it is no beginning of a text. A value.
class Position {
 public:
  bool is_dead() const { return ways_.empty() && !may_end_; }
  bool may_end() const { return may_end_; }
  const std::vector<Way>& ways() const { return ways_; }
  // Registers above `limit` are lowered to it: the same for whoever reads fewer symbols than that.
  Position Clamped(uint32_t limit) const;
  bool operator==(const Position&) const = default;

 private:
  friend class Program;
  void Seal();

  std::vector<Way> ways_;  // that can go on; sorted, none twice
  bool may_end_ = false;
};

// A pushdown automaton. Immutable; any thread.
class Program {
 public:
  explicit Program(const std::vector<std::vector<Move>>& states, uint32_t start);
  Position Start() const;
  // Dead when it cannot follow, or in more than kWaysMax ways.
  Position Next(const Position& position, Symbol symbol) const;
  Position Next(Position position, std::string_view bytes) const;
  size_t n_states() const { return begins_.size() - 1; }
  size_t n_moves() const { return moves_.size(); }

 private:
  std::span<const Move> MovesOf(uint32_t state) const {
    return {moves_.data() + begins_[state], moves_.data() + begins_[state + 1]};
  }
  // Follows all moves that read nothing.
  void Settle(Way way, Position& position, size_t& n_moves) const;

  std::vector<uint32_t> begins_;
  std::vector<Move> moves_;
  uint32_t start_;
};

}  // namespace longshelf::grammar
