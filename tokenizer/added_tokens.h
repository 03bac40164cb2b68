#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace longshelf::tokenizer::internal {

// Finds the contents of added tokens in raw text: leftmost, and of those the longest. A byte trie; a search costs at
// most the longest content per byte and touches only bytes at which a content may begin.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() : tokens_(1, kNoToken) { root_.fill(0); }

  // REQUIRES: content is not empty. A content added twice keeps the last id.
  void Add(std::string_view content, uint32_t id);
  bool empty() const { return tokens_.size() == 1; }

  struct Match {
    size_t begin;  // npos: none
    size_t bytes;
    uint32_t id;
  };
  static constexpr Match kNoMatch{static_cast<size_t>(-1), 0, UINT32_MAX};
  Match Find(std::string_view text, size_t from) const;

 private:
  static constexpr uint32_t kNoToken = UINT32_MAX;
  // 0: no such child.
  uint32_t Child(uint32_t node, unsigned char byte) const;

  std::vector<uint32_t> tokens_;                      // by node: the token whose content ends here; node 0 is the root
  std::array<uint32_t, 256> root_;                    // children of the root
  absl::flat_hash_map<uint64_t, uint32_t> children_;  // node << 8 | byte -> node, below the root
};

}  // namespace longshelf::tokenizer::internal
