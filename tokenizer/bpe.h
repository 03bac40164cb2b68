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
  // False if the pair has a merge already.
  bool Add(uint32_t left, uint32_t right, BpeMerge merge) { return merges_.emplace(Key(left, right), merge).second; }

  // Appends the tokens of one piece: repeatedly the pair of lowest rank, leftmost first, is merged. O(n log n).
  void Encode(std::string_view piece, std::vector<uint32_t>& out) const;

 private:
  static uint64_t Key(uint32_t left, uint32_t right) { return static_cast<uint64_t>(left) << 32 | right; }
  const BpeMerge* Find(uint32_t left, uint32_t right) const;
  void EncodeShort(std::string_view piece, std::vector<uint32_t>& out) const;
  void EncodeLong(std::string_view piece, std::vector<uint32_t>& out) const;

  std::array<uint32_t, 256> byte_tokens_;
  absl::flat_hash_map<uint64_t, BpeMerge> merges_;
};

}  // namespace longshelf::tokenizer::internal
