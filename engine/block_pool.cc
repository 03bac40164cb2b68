#include "block_pool.h"

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace longshelf::engine {

BlockPool::BlockPool(uint32_t n_blocks) : blocks_(n_blocks) {
  free_.reserve(n_blocks);
  for (uint32_t block = n_blocks; block > 0; --block) free_.push_back(block - 1);
}

void BlockPool::Promise(uint32_t n) {
  LONGSHELF_CHECK(n_promised_ + n <= n_available());
  n_promised_ += n;
}

void BlockPool::Unpromise(uint32_t n) {
  LONGSHELF_CHECK(n <= n_promised_);
  n_promised_ -= n;
}

uint32_t BlockPool::Allocate(std::vector<PrefixKey>& evicted) {
  Unpromise(1);
  if (free_.empty()) evicted.push_back(EvictOne());
  const uint32_t block = free_.back();
  free_.pop_back();
  blocks_[block] = Block{.n_holders = 1};
  return block;
}

PrefixKey BlockPool::EvictOne() {
  LONGSHELF_CHECK(!leaves_.empty());
  const uint32_t victim = leaves_.begin()->second;
  leaves_.erase(leaves_.begin());
  const Block gone = std::exchange(blocks_[victim], {});
  index_.erase(gone.key);
  --n_unheld_;
  if (gone.parent != kNone) {
    Block& parent = blocks_[gone.parent];
    --parent.n_children;
    if (IsEvictableLeaf(parent)) leaves_.emplace(parent.released_at, gone.parent);
  }
  free_.push_back(victim);
  return gone.key;
}

std::optional<uint32_t> BlockPool::Find(const PrefixKey& key) const {
  const auto it = index_.find(key);
  return it == index_.end() ? std::nullopt : std::optional(it->second);
}

std::optional<uint32_t> BlockPool::Find(const BlockName& name) const {
  const auto block = Find(name.key);
  if (!block.has_value()) return std::nullopt;
  const Stamp& stamp = *blocks_[*block].stamp;
  return stamp.before == name.stamp.before && std::ranges::equal(stamp.tokens, name.stamp.tokens) ? block
                                                                                                  : std::nullopt;
}

void BlockPool::Hold(uint32_t id) {
  Block& block = blocks_[id];
  LONGSHELF_CHECK(block.indexed);
  if (block.n_holders++ > 0) return;
  --n_unheld_;
  if (block.n_children == 0) leaves_.erase({block.released_at, id});
}

void BlockPool::Release(uint32_t id) {
  Block& block = blocks_[id];
  LONGSHELF_CHECK(block.n_holders > 0);
  if (--block.n_holders > 0) return;
  if (!block.indexed) {
    free_.push_back(id);
    return;
  }
  ++n_unheld_;
  block.released_at = ++now_;
  if (IsEvictableLeaf(block)) leaves_.emplace(block.released_at, id);
}

uint32_t BlockPool::Publish(uint32_t id, const BlockName& name, std::optional<uint32_t> parent) {
  if (const auto twin = Find(name); twin.has_value()) {
    if (*twin == id) return id;
    Hold(*twin);
    Release(id);
    return *twin;
  }
  Block& block = blocks_[id];
  LONGSHELF_CHECK(!block.indexed && block.n_holders == 1);
  LONGSHELF_CHECK(name.stamp.tokens.size() == static_cast<size_t>(kBlockTokens));
  if (parent.has_value()) {
    LONGSHELF_CHECK(blocks_[*parent].indexed && is_held(*parent));
    block.parent = *parent;
    ++blocks_[*parent].n_children;
  }
  auto stamp = std::make_unique<Stamp>();
  stamp->before = name.stamp.before;
  std::ranges::copy(name.stamp.tokens, stamp->tokens.begin());
  block.stamp = std::move(stamp);
  block.indexed = true;
  block.key = name.key;
  LONGSHELF_CHECK(index_.emplace(name.key, id).second);
  return id;
}

void BlockPool::CheckInvariants() const {
  uint32_t n_unheld = 0;
  uint32_t n_leaves = 0;
  uint32_t n_indexed = 0;
  std::vector<uint32_t> n_children(blocks_.size(), 0);
  for (const Block& block : blocks_) {
    if (block.parent != kNone) ++n_children[block.parent];
  }
  std::vector<bool> is_free(blocks_.size(), false);
  for (const uint32_t id : free_) {
    LONGSHELF_CHECK(!is_free[id]);
    is_free[id] = true;
  }
  for (uint32_t id = 0; id < blocks_.size(); ++id) {
    const Block& block = blocks_[id];
    LONGSHELF_CHECK(block.n_children == n_children[id]);
    LONGSHELF_CHECK(is_free[id] == (!block.indexed && block.n_holders == 0));
    if (block.indexed) LONGSHELF_CHECK(index_.at(block.key) == id);
    LONGSHELF_CHECK(block.indexed == (block.stamp != nullptr));
    if (block.parent != kNone) LONGSHELF_CHECK(block.indexed && blocks_[block.parent].indexed);
    // Holding a block means holding what comes before it.
    if (block.n_holders > 0 && block.parent != kNone) LONGSHELF_CHECK(blocks_[block.parent].n_holders > 0);
    n_indexed += block.indexed ? 1 : 0;
    n_unheld += block.indexed && block.n_holders == 0 ? 1 : 0;
    n_leaves += IsEvictableLeaf(block) ? 1 : 0;
  }
  LONGSHELF_CHECK(n_indexed == index_.size());
  LONGSHELF_CHECK(n_unheld == n_unheld_);
  LONGSHELF_CHECK(n_leaves == leaves_.size());
  LONGSHELF_CHECK(n_promised_ <= n_available());
}

}  // namespace longshelf::engine
