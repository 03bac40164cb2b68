#include "added_tokens.h"

namespace longshelf::tokenizer::internal {

uint32_t AddedTokenMatcher::Child(uint32_t node, unsigned char byte) const {
  if (node == 0) return root_[byte];
  const auto it = children_.find(static_cast<uint64_t>(node) << 8 | byte);
  return it == children_.end() ? 0 : it->second;
}

void AddedTokenMatcher::Add(std::string_view content, uint32_t id) {
  uint32_t node = 0;
  for (const char c : content) {
    const auto byte = static_cast<unsigned char>(c);
    uint32_t child = Child(node, byte);
    if (child == 0) {
      child = static_cast<uint32_t>(tokens_.size());
      tokens_.push_back(kNoToken);
      if (node == 0) {
        root_[byte] = child;
      } else {
        children_[static_cast<uint64_t>(node) << 8 | byte] = child;
      }
    }
    node = child;
  }
  tokens_[node] = id;
}

AddedTokenMatcher::Match AddedTokenMatcher::Find(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    uint32_t node = root_[static_cast<unsigned char>(text[begin])];
    Match match{begin, 0, kNoToken};
    for (size_t pos = begin + 1; node != 0; ++pos) {
      if (tokens_[node] != kNoToken) {
        match.bytes = pos - begin;
        match.id = tokens_[node];
      }
      if (pos == text.size()) break;
      node = Child(node, static_cast<unsigned char>(text[pos]));
    }
    if (match.bytes != 0) return match;
  }
  return kNoMatch;
}

}  // namespace longshelf::tokenizer::internal
