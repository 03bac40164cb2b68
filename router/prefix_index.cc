#include "router/prefix_index.h"

#include <cstring>

#include "common/check.h"

namespace longshelf::router {

size_t BlockKeyHash::operator()(const BlockKey& key) const {
  size_t hash = 0;
  std::memcpy(&hash, key.data(), sizeof hash);
  return hash;
}

PromptKeys MakePromptKeys(const BlockKey& fingerprint, std::string_view namespace_salt, uint32_t block_tokens,
                          std::span<const uint32_t> tokens) {
  LONGSHELF_CHECK(block_tokens > 0);
  PromptKeys keys{fingerprint, block_tokens, {}};
  keys.chain.reserve(tokens.size() / block_tokens + 1);
  keys.chain.push_back(kvstore::ChainRoot(fingerprint, namespace_salt));
  for (size_t begin = 0; begin + block_tokens <= tokens.size(); begin += block_tokens) {
    keys.chain.push_back(kvstore::ChainNext(keys.chain.back(), tokens.subspan(begin, block_tokens)));
  }
  return keys;
}

void PrefixIndex::Clear() {
  ++version_;
  by_key_.clear();
  tails_of_.clear();
}

void PrefixIndex::Add(const IndexedCheckpoint& checkpoint) {
  if (checkpoint.depth_tokens == 0 || by_key_.size() >= max_entries_) return;
  const auto [it, added] = by_key_.try_emplace(checkpoint.key, Place{checkpoint.parent, checkpoint.depth_tokens});
  if (!added) return;
  ++version_;
  // A block's own checkpoint has its block key, which names its place in a chain by itself.
  if (checkpoint.parent != checkpoint.key) ++tails_of_[checkpoint.parent][checkpoint.depth_tokens];
}

void PrefixIndex::Remove(const BlockKey& key) {
  const auto it = by_key_.find(key);
  if (it == by_key_.end()) return;
  ++version_;
  if (const auto tails = tails_of_.find(it->second.parent); tails != tails_of_.end()) {
    const auto depth = tails->second.find(it->second.depth_tokens);
    if (depth != tails->second.end() && --depth->second == 0) tails->second.erase(depth);
    if (tails->second.empty()) tails_of_.erase(tails);
  }
  by_key_.erase(it);
}

uint32_t PrefixIndex::LongestTail(const PromptKeys& keys, size_t block, std::span<const uint32_t> tokens) const {
  const auto tails = tails_of_.find(keys.chain[block]);
  if (tails == tails_of_.end()) return 0;
  const size_t begin = block * keys.block_tokens;
  for (auto it = tails->second.rbegin(); it != tails->second.rend() && it->first > begin; ++it) {
    const uint32_t depth = it->first;
    if (depth >= tokens.size() || depth - begin > keys.block_tokens) continue;
    ++n_tails_hashed_;
    const auto found = by_key_.find(kvstore::ChainNext(keys.chain[block], tokens.subspan(begin, depth - begin)));
    if (found != by_key_.end() && found->second.depth_tokens == depth) return depth;
  }
  return 0;
}

uint32_t PrefixIndex::UsablePrefix(const PromptKeys& keys, std::span<const uint32_t> tokens) const {
  if (by_key_.empty() || keys.chain.empty()) return 0;
  for (size_t block = keys.chain.size(); block-- > 0;) {
    if (const uint32_t depth = LongestTail(keys, block, tokens); depth > 0) return depth;
    const size_t depth = block * keys.block_tokens;
    if (block > 0 && depth < tokens.size() && by_key_.contains(keys.chain[block])) return static_cast<uint32_t>(depth);
  }
  return 0;
}

}  // namespace longshelf::router
