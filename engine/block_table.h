#pragma once

#include <cstdint>
#include <vector>

#include "common/check.h"
#include "engine/step_plan.h"

namespace longshelf::engine {

// The blocks of a running sequence, in order, and which of them its shard has not been told of yet. Owner: the leader's
// engine thread; the executor's table of the same slot equals this one whenever a row of the sequence runs.
class BlockTable {
 public:
  size_t size() const { return blocks_.size(); }
  uint32_t operator[](size_t i) const { return blocks_[i]; }
  const std::vector<uint32_t>& blocks() const { return blocks_; }

  void Append(uint32_t block) { blocks_.push_back(block); }
  void Replace(size_t i, uint32_t block) {
    if (blocks_[i] == block) return;
    blocks_[i] = block;
    if (i < n_told_) replaced_.push_back(i);
  }
  // REQUIRES: its shard was not told of the last one.
  void DropLast() {
    LONGSHELF_CHECK(n_told_ < blocks_.size());
    blocks_.pop_back();
  }
  // For a slot that is opened anew: its shard's table is empty too.
  void Clear() { *this = BlockTable(); }

  // Appends what changed since the last call. Costs what changed, not what is there.
  void TakeChanges(SlotId slot, std::vector<StepPlan::SetBlock>& changes) {
    for (const size_t i : replaced_) changes.push_back({slot, static_cast<uint32_t>(i), blocks_[i]});
    replaced_.clear();
    for (; n_told_ < blocks_.size(); ++n_told_) {
      changes.push_back({slot, static_cast<uint32_t>(n_told_), blocks_[n_told_]});
    }
  }

 private:
  std::vector<uint32_t> blocks_;
  size_t n_told_ = 0;
  std::vector<size_t> replaced_;  // below n_told_
};

}  // namespace longshelf::engine
