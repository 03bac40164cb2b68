#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "char_dfa.h"
#include "number_set.h"
#include "program.h"

namespace longshelf::grammar {

// How a string is written: as JSON has it between its quotes, or as it is.
enum class StringForm : uint8_t { kQuoted, kRaw };

// Makes the states of a program. Beyond kProgramStatesMax nothing is added any more, and is_full() says so.
class ProgramBuilder {
 public:
  uint32_t NewState();
  void Add(uint32_t from, Move move);
  void Jump(uint32_t from, uint32_t to) { Add(from, {Move::Kind::kJump, to}); }
  void Symbols(uint32_t from, Symbol lo, Symbol hi, uint32_t to) { Add(from, {Move::Kind::kRead, to, lo, hi}); }
  // A new state that `from` leads to by a move that reads nothing.
  uint32_t Behind(uint32_t from, Move::Kind kind, uint32_t a = 0, uint32_t b = 0);
  // Reads some bytes. Returns the state behind them.
  uint32_t Bytes(uint32_t from, std::string_view bytes);
  // Reads a text of the chat protocol, of which every marker may be a token of its own.
  uint32_t Text(uint32_t from, std::string_view text);
  // Reads one of several texts, which all lead to `to`.
  void Words(uint32_t from, const std::vector<std::string>& words, uint32_t to);
  // Reads a string of an automaton's; `counted`: each character takes one, and at the end nothing is needed any more.
  void Chars(uint32_t from, const CharDfa& dfa, StringForm form, bool counted, uint32_t to);
  void Number(uint32_t from, const NumberDfa& dfa, uint32_t to);
  // Any bytes in which none of `forbidden` is spelled. All states that it goes through.
  std::vector<uint32_t> FreeBytes(uint32_t from, const std::vector<std::string_view>& forbidden);

  bool is_full() const { return is_full_; }
  const std::vector<std::vector<Move>>& states() const { return states_; }

 private:
  // States behind some bytes of a character or escape, by what is still to come.
  using Tail = std::pair<std::vector<std::pair<uint8_t, uint8_t>>, uint32_t>;
  void ByteRanges(uint32_t from, std::vector<std::pair<uint8_t, uint8_t>> ranges, uint32_t to);
  void CharRange(uint32_t from, uint32_t lo, uint32_t hi, uint32_t to);
  void QuotedRange(uint32_t from, uint32_t lo, uint32_t hi, uint32_t to);

  std::vector<std::vector<Move>> states_;
  std::map<Tail, uint32_t> tails_;
  bool is_full_ = false;
};

// Calls fn(ranges of bytes) for sequences of them that are together the UTF-8 of lo to hi.
void ForEachUtf8Range(uint32_t lo, uint32_t hi,
                      const std::function<void(const std::vector<std::pair<uint8_t, uint8_t>>&)>& fn);

// A string with its quotes, as it is written here.
std::string QuotedString(std::string_view text);

}  // namespace longshelf::grammar
