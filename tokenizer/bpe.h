#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace longshelf::tokenizer::internal {

// What a pair of neighbouring tokens becomes.
struct BpeMerge {
  uint32_t rank;  // position in the merge list: lower merges first
  uint32_t token;
};

// The merges of a byte-level BPE. Immutable after the last Add.
class BpeMerges {
 public:
  // byte_tokens[b] is the token of the single byte b.
  explicit BpeMerges(const std::array<uint32_t, 256>& byte_tokens) : byte_tokens_(byte_tokens) {}

  void Reserve(size_t n_merges) { merges_.reserve(n_merges); }
  // False if the pair has a merge already. `n_bytes`: of the token that it becomes.
  bool Add(uint32_t left, uint32_t right, BpeMerge merge, size_t n_bytes);

  // Appends the tokens of one piece: repeatedly the pair of lowest rank, leftmost first, is merged. Linear in the piece
  // but for merges that reach across much of it, and with scratch memory that does not grow with it. Stops early when
  // it is certain that `out` will have more than `tokens_max` tokens; it has more then.
  void Encode(std::string_view piece, size_t tokens_max, std::vector<uint32_t>& out) const;

 private:
  struct Scratch;
  static uint64_t Key(uint32_t left, uint32_t right) { return static_cast<uint64_t>(left) << 32 | right; }
  const BpeMerge* Find(uint32_t left, uint32_t right) const;
  size_t LengthOf(uint32_t token) const { return token < lengths_.size() && lengths_[token] > 0 ? lengths_[token] : 1; }
  void EncodeShort(std::string_view piece, std::vector<uint32_t>& out) const;
  void EncodeWindow(std::string_view window, Scratch& scratch, std::vector<uint32_t>& out) const;
  void EncodeLong(std::string_view piece, size_t tokens_max, std::vector<uint32_t>& out) const;
  bool StayApart(std::string_view both, uint32_t left, uint32_t right, Scratch& scratch) const;

  std::array<uint32_t, 256> byte_tokens_;
  absl::flat_hash_map<uint64_t, BpeMerge> merges_;
  std::vector<uint32_t> lengths_;  // in bytes, by token that a merge makes
};

}  // namespace longshelf::tokenizer::internal
