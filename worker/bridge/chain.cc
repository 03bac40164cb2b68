#include "chain.h"

#include <algorithm>
#include <utility>

#include "engine/model/kv_layout.h"

namespace longshelf::worker {

using engine::kBlockTokens;
using kvstore::BlockKey;

static_assert(kBlockTokens == kvstore::kChainBlockTokens);

Chain::Chain(const engine::PrefixHasher& hasher, std::string_view namespace_salt, std::span<const uint32_t> tokens,
             std::vector<BlockKey> known)
    : hasher_(&hasher),
      n_usable_(std::min<int64_t>(std::ssize(tokens), kvstore::kMaxDepthTokens) - 1),
      root_(hasher.Root(namespace_salt)),
      blocks_(std::move(known)) {
  const auto n_known_max = static_cast<size_t>(std::max<int64_t>(n_usable_, 0) / kBlockTokens);
  blocks_.resize(std::min(blocks_.size(), n_known_max));
  for (int64_t end = (std::ssize(blocks_) + 1) * kBlockTokens; end <= n_usable_; end += kBlockTokens) {
    blocks_.push_back(CheckpointAt(tokens, end));
  }
}

const BlockKey& Chain::ParentAt(int64_t n_tokens) const {
  const int64_t n_blocks = n_tokens / kBlockTokens;
  return n_blocks == 0 ? root_ : blocks_[static_cast<size_t>(n_blocks) - 1];
}

const BlockKey& Chain::ExtentAt(int64_t n_tokens) const {
  return kvstore::ExtentOf(root_, blocks_, static_cast<uint64_t>(n_tokens));
}

BlockKey Chain::CheckpointAt(std::span<const uint32_t> tokens, int64_t n_tokens) const {
  const int64_t n_full = n_tokens / kBlockTokens * kBlockTokens;
  if (n_full == n_tokens && std::ssize(blocks_) * kBlockTokens >= n_tokens) return ParentAt(n_tokens);
  const int64_t begin = n_full == n_tokens ? n_tokens - kBlockTokens : n_full;
  return hasher_->Next(ParentAt(begin),
                       tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(n_tokens - begin)));
}

}  // namespace longshelf::worker
