#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/step_plan.h"
#include "engine/token_stamp.h"

namespace longshelf::engine {

class KvCopyLedger;

// The leader's hold on a copy of KV that a shard keeps (kv_copies.h). The bytes are where the shard is; here is what
// has to be known of them to use them. The copy goes when its last hold goes.
class KvCopy {
 public:
  // Use KvCopyLedger.
  KvCopy(std::shared_ptr<KvCopyLedger> ledger, uint16_t shard, uint64_t number, size_t n_bytes,
         const EncodedStamp& stamp);
  ~KvCopy();
  KvCopy(const KvCopy&) = delete;
  KvCopy& operator=(const KvCopy&) = delete;

  uint16_t shard() const { return shard_; }
  uint64_t number() const { return number_; }
  size_t n_bytes() const { return n_bytes_; }  // with the stamp
  const EncodedStamp& stamp() const { return stamp_; }

 private:
  const std::shared_ptr<KvCopyLedger> ledger_;
  const uint16_t shard_;
  const uint64_t number_;
  const size_t n_bytes_;
  const EncodedStamp stamp_;
};
using KvCopyPtr = std::shared_ptr<const KvCopy>;

// Numbers the copies of all shards, and tells the engine which of them nobody holds any more. Any thread; outlives the
// engine as long as there are holds.
class KvCopyLedger : public std::enable_shared_from_this<KvCopyLedger> {
 public:
  // For a copy that is yet to be made.
  uint64_t NextNumber() { return next_.fetch_add(1, std::memory_order_relaxed); }
  // Of a copy that is there, or will be when the step that it is for is over. `n_bytes` with the stamp.
  KvCopyPtr Hold(uint16_t shard, uint64_t number, size_t n_bytes, const EncodedStamp& stamp);
  KvCopyPtr HoldNew(uint16_t shard, size_t n_bytes, const EncodedStamp& stamp) {
    return Hold(shard, NextNumber(), n_bytes, stamp);
  }

  // Of those that went since the last call.
  std::vector<StepPlan::DropCopy> TakeDropped();
  bool has_dropped() const;
  // Called when there is something to take where there was nothing, on any thread; null: nobody takes any more.
  void OnDropped(std::function<void()> wake);

 private:
  friend class KvCopy;
  void Drop(uint16_t shard, uint64_t number);

  std::atomic<uint64_t> next_{1};
  mutable std::mutex mutex_;  // guards all below: holds go on any thread
  std::vector<StepPlan::DropCopy> dropped_;
  std::function<void()> wake_;
};

}  // namespace longshelf::engine
