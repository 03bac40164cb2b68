#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace longshelf::engine {

// Guesses what follows from what followed the same kGram tokens before: agents repeat files and quote what they read.
// No weights; a table of the last kSlotsMax places, written as the sequence grows. Owner: its sequence.
class PromptLookup {
 public:
  static constexpr size_t kGram = 3;
  static constexpr size_t kSlotsMax = size_t{1} << 18;
  // Tokens indexed by one call at most, so that a long prompt does not hold up the step that first asks.
  static constexpr size_t kIndexedPerCall = 8192;

  // What followed the latest earlier place where `tokens` end alike: at most n_max tokens, appended to `out`. `tokens`
  // is the same sequence at every call, grown. Nothing while a long beginning is not indexed yet.
  void Propose(std::span<const uint32_t> tokens, size_t n_max, std::vector<uint32_t>& out);

 private:
  // Of the kGram tokens before position `end`.
  size_t SlotOf(std::span<const uint32_t> tokens, size_t end) const;
  void Index(std::span<const uint32_t> tokens);

  std::vector<uint32_t> slots_;  // the position after a gram; 0 = none
  size_t n_indexed_ = 0;         // grams that end at or before it are in the table
};

}  // namespace longshelf::engine
