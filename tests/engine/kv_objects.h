#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "common/check.h"
#include "engine/cache_objects.h"
#include "engine/kv_copies.h"
#include "engine/kv_copy.h"

namespace longshelf::engine {

using KvBytes = KvCopies::Bytes;

// A piece of cached KV as tests look at it: with its bytes.
struct KvObject {
  ParkedObject::Kind kind = ParkedObject::Kind::kBlock;
  PrefixKey key{};
  PrefixKey parent{};
  int64_t n_tokens = 0;
  KvBytes bytes;
};

// The copies of all shards of a test, and their ledger.
class TestCopies {
 public:
  using OfShard = std::function<KvCopies&(uint16_t shard)>;
  TestCopies(std::shared_ptr<KvCopyLedger> ledger, OfShard of_shard)
      : ledger_(std::move(ledger)), of_shard_(std::move(of_shard)) {}

  KvBytes Read(const KvCopyPtr& copy) const {
    if (copy == nullptr) return nullptr;
    KvBytes bytes = of_shard_(copy->shard()).Find(copy->number());
    LONGSHELF_CHECK(bytes != nullptr && bytes->size() == copy->n_bytes());
    LONGSHELF_CHECK(StampOf(*bytes) == copy->stamp());
    return bytes;
  }
  KvObject Read(const ParkedObject& object) const {
    return {object.kind, object.key, object.parent, object.n_tokens, Read(object.copy)};
  }
  KvCopyPtr Add(uint16_t shard, const std::vector<std::byte>& bytes) const {
    KvCopyPtr copy =
        ledger_->HoldNew(shard, bytes.size(), bytes.size() < kStampBytes ? EncodedStamp{} : StampOf(bytes));
    of_shard_(shard).Add(copy->number(), std::make_shared<const std::vector<std::byte>>(bytes));
    return copy;
  }
  // What is not there stays so.
  KvCopyPtr Add(uint16_t shard, const KvBytes& bytes) const { return bytes == nullptr ? nullptr : Add(shard, *bytes); }
  ParkedObject Add(uint16_t shard, const KvObject& object) const {
    return {object.kind, object.key, object.parent, object.n_tokens, Add(shard, object.bytes)};
  }
  // As a step would.
  void DropUnheld() const {
    for (const StepPlan::DropCopy& drop : ledger_->TakeDropped()) of_shard_(drop.shard).Drop(drop.copy);
  }
  const std::shared_ptr<KvCopyLedger>& ledger() const { return ledger_; }

 private:
  std::shared_ptr<KvCopyLedger> ledger_;
  OfShard of_shard_;
};

// What a group does before it executes a plan.
inline void MoveCopies(const StepPlan& plan, const TestCopies::OfShard& of_shard) {
  for (const StepPlan::MoveCopy& move : plan.move_copies) {
    const KvBytes bytes = of_shard(move.from).Find(move.copy);
    LONGSHELF_CHECK(bytes != nullptr && bytes->size() == move.n_bytes && move.from != move.to);
    of_shard(move.to).Add(move.new_copy, bytes);
  }
}

}  // namespace longshelf::engine
