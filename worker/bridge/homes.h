#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/kv_copy.h"
#include "kvstore/client.h"
#include "worker/home_store/home_store.h"

namespace longshelf::worker {

// The KV store as the bridge reaches it: every object moves at the shard whose copy it is, and the bridge holds names.
// Threads, callbacks and errors are as those of kvstore::Client, but that callbacks of one put may come at once from
// several shards; the last one comes last. Any thread.
class Homes {
 public:
  // stores: by shard; they outlive this and every call of it.
  Homes(std::vector<HomeStore*> stores, std::shared_ptr<engine::KvCopyLedger> ledger);

  struct GetEvents {
    std::function<void(size_t index, absl::StatusOr<engine::KvCopyPtr> copy)> on_object;
    std::function<void(const absl::Status& status)> on_done;
  };
  // Into the copies of `shard`.
  std::shared_ptr<kvstore::Client::GetCall> Get(uint16_t shard, kvstore::Client::GetRequest request, GetEvents events);

  struct PutItem {
    kvstore::ObjectHead head;  // its `digest` and `payload_bytes` are not read
    engine::KvCopyPtr copy;    // held until the outcome
    kvstore::Ack ack = kvstore::Ack::kMemoryOne;
    uint32_t n_replicas = 1;
  };
  class PutCall;
  // One put of every shard that something is offered of. When one of them breaks, all end.
  std::shared_ptr<PutCall> Put(absl::Duration timeout, kvstore::Client::PutEvents events);

 private:
  const std::vector<HomeStore*> stores_;
  const std::shared_ptr<engine::KvCopyLedger> ledger_;
};

// One thread offers, finishes and cancels.
class Homes::PutCall {
 public:
  virtual ~PutCall() = default;
  virtual void Offer(PutItem item) = 0;
  virtual void Finish() = 0;
  virtual void Cancel() = 0;
};

}  // namespace longshelf::worker
