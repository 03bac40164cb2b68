#include "engine/kv_copy.h"

#include <utility>

namespace longshelf::engine {

KvCopy::KvCopy(std::shared_ptr<KvCopyLedger> ledger, uint16_t shard, uint64_t number, size_t n_bytes,
               const EncodedStamp& stamp)
    : ledger_(std::move(ledger)), shard_(shard), number_(number), n_bytes_(n_bytes), stamp_(stamp) {}

KvCopy::~KvCopy() { ledger_->Drop(shard_, number_); }

KvCopyPtr KvCopyLedger::Hold(uint16_t shard, uint64_t number, size_t n_bytes, const EncodedStamp& stamp) {
  return std::make_shared<const KvCopy>(shared_from_this(), shard, number, n_bytes, stamp);
}

std::vector<StepPlan::DropCopy> KvCopyLedger::TakeDropped() {
  const std::lock_guard lock(mutex_);
  return std::exchange(dropped_, {});
}

bool KvCopyLedger::has_dropped() const {
  const std::lock_guard lock(mutex_);
  return !dropped_.empty();
}

void KvCopyLedger::OnDropped(std::function<void()> wake) {
  const std::lock_guard lock(mutex_);
  wake_ = std::move(wake);
}

// Wakes under the lock: after OnDropped(nullptr) whoever was to be woken may go.
void KvCopyLedger::Drop(uint16_t shard, uint64_t number) {
  const std::lock_guard lock(mutex_);
  dropped_.push_back({shard, number});
  if (dropped_.size() == 1 && wake_ != nullptr) wake_();
}

}  // namespace longshelf::engine
