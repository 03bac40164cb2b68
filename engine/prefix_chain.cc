#include "prefix_chain.h"

#include <algorithm>
#include <utility>

#include "engine/model/kv_layout.h"

namespace longshelf::engine {

std::vector<PrefixKey> FullBlockKeys(const PrefixHasher& hasher, std::string_view namespace_salt,
                                     std::span<const uint32_t> prompt, std::span<const uint32_t> committed) {
  PrefixChain chain(hasher, namespace_salt);
  chain.Extend(prompt, static_cast<int64_t>(prompt.size()));
  if (!committed.empty()) {
    std::vector<uint32_t> tokens(prompt.begin(), prompt.end());
    tokens.insert(tokens.end(), committed.begin(), committed.end());
    chain.Extend(tokens, static_cast<int64_t>(tokens.size()));
  }
  return chain.keys();
}

void PrefixChain::Adopt(std::vector<PrefixKey> keys, int64_t n_tokens) {
  keys_ = std::move(keys);
  keys_.resize(std::min(keys_.size(), static_cast<size_t>(n_tokens / kBlockTokens)));
}

void PrefixChain::Extend(std::span<const uint32_t> tokens, int64_t n_tokens) {
  while (static_cast<int64_t>(keys_.size() + 1) * kBlockTokens <= n_tokens) {
    const auto block = tokens.subspan(keys_.size() * kBlockTokens, kBlockTokens);
    keys_.push_back(hasher_->Next(keys_.empty() ? root_ : keys_.back(), block));
  }
  while (digests_.size() <= keys_.size()) {
    const auto block = tokens.subspan((digests_.size() - 1) * kBlockTokens, kBlockTokens);
    digests_.push_back(ExtendDigest(digests_.back(), block));
  }
}

const PrefixKey& PrefixChain::ParentAt(int64_t n_tokens) const {
  const auto n_blocks = static_cast<size_t>(n_tokens / kBlockTokens);
  return n_blocks == 0 ? root_ : keys_[n_blocks - 1];
}

PrefixKey PrefixChain::KeyAt(std::span<const uint32_t> tokens, int64_t n_tokens) const {
  const auto n_tail = static_cast<size_t>(n_tokens % kBlockTokens);
  if (n_tail == 0) return ParentAt(n_tokens);
  return hasher_->Next(ParentAt(n_tokens), tokens.subspan(static_cast<size_t>(n_tokens) - n_tail, n_tail));
}

BlockName PrefixChain::BlockAt(std::span<const uint32_t> tokens, int64_t number) const {
  const auto i = static_cast<size_t>(number);
  return {keys_[i], {digests_[i], tokens.subspan(i * kBlockTokens, kBlockTokens)}};
}

TokenStamp PrefixChain::StampAt(std::span<const uint32_t> tokens, int64_t n_tokens) const {
  const auto n_tail = static_cast<size_t>(n_tokens % kBlockTokens);
  return {DigestAt(n_tokens / kBlockTokens), tokens.subspan(static_cast<size_t>(n_tokens) - n_tail, n_tail)};
}

}  // namespace longshelf::engine
