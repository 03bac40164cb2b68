#include "program.h"

#include <algorithm>
#include <utility>

namespace longshelf::grammar {
namespace {

// Of one step. A program of ours has no circle of moves that read nothing; this bounds what many ways cost.
constexpr size_t kMovesMax = 1 << 16;

}  // namespace

Position Position::Clamped(uint32_t limit) const {
  Position out = *this;
  for (Way& way : out.ways_) {
    for (Frame& frame : way) {
      frame.need = std::min(frame.need, limit);
      if (frame.room != kUnlimited) frame.room = std::min(frame.room, limit);
    }
  }
  out.Seal();
  return out;
}

Program::Program(const std::vector<std::vector<Move>>& states, uint32_t start) : start_(start) {
  for (const std::vector<Move>& state : states) {
    begins_.push_back(static_cast<uint32_t>(moves_.size()));
    moves_.insert(moves_.end(), state.begin(), state.end());
  }
  begins_.push_back(static_cast<uint32_t>(moves_.size()));
}

void Position::Seal() {
  std::sort(ways_.begin(), ways_.end());
  ways_.erase(std::unique(ways_.begin(), ways_.end()), ways_.end());
}

Position Program::Start() const {
  Position position;
  size_t n_moves = 0;
  Settle({Frame{start_}}, position, n_moves);
  position.Seal();
  return position;
}

void Program::Settle(Way way, Position& position, size_t& n_moves) const {
  std::vector<Way> todo;
  todo.push_back(std::move(way));
  while (!todo.empty()) {
    Way at = std::move(todo.back());
    todo.pop_back();
    bool reads = false;
    for (const Move& move : MovesOf(at.back().state)) {
      if (++n_moves > kMovesMax || position.ways_.size() > 8 * kWaysMax) return;
      const auto go = [&] {
        Way next = at;
        next.back().state = move.to;
        return next;
      };
      const Frame& top = at.back();
      switch (move.kind) {
        case Move::Kind::kRead:
          reads = true;
          break;
        case Move::Kind::kEnd:
          position.may_end_ = true;
          break;
        case Move::Kind::kJump:
          todo.push_back(go());
          break;
        case Move::Kind::kCall:
          if (at.size() < kFramesMax) {
            todo.push_back(go());
            todo.back().push_back(Frame{move.a});
          }
          break;
        case Move::Kind::kReturn:
          if (at.size() > 1) {
            todo.push_back(at);
            todo.back().pop_back();
          }
          break;
        case Move::Kind::kSet:
          todo.push_back(go());
          todo.back().back().need = move.a;
          todo.back().back().room = move.b;
          break;
        case Move::Kind::kTake:
          if (top.room > 0) {
            todo.push_back(go());
            Frame& frame = todo.back().back();
            frame.need -= frame.need > 0 ? 1 : 0;
            frame.room -= frame.room != kUnlimited ? 1 : 0;
          }
          break;
        case Move::Kind::kNeedAtMost:
          if (top.need <= move.a) todo.push_back(go());
          break;
        case Move::Kind::kRoomAtLeast:
          if (top.room >= move.a) todo.push_back(go());
          break;
        case Move::Kind::kFits:
          if (at.size() + move.a <= kFramesMax) todo.push_back(go());
          break;
      }
    }
    if (reads) position.ways_.push_back(std::move(at));
  }
}

Position Program::Next(const Position& position, Symbol symbol) const {
  Position next;
  size_t n_moves = 0;
  for (const Way& way : position.ways_) {
    for (const Move& move : MovesOf(way.back().state)) {
      if (move.kind != Move::Kind::kRead || symbol < move.a || symbol > move.b) continue;
      Way moved = way;
      moved.back().state = move.to;
      Settle(std::move(moved), next, n_moves);
    }
  }
  next.Seal();
  if (n_moves > kMovesMax || next.ways_.size() > kWaysMax) return Position();
  return next;
}

Position Program::Next(Position position, std::string_view bytes) const {
  for (const char byte : bytes) {
    position = Next(position, static_cast<uint8_t>(byte));
    if (position.is_dead()) break;
  }
  return position;
}

}  // namespace longshelf::grammar
