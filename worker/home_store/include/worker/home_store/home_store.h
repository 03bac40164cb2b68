#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/kv_copies.h"
#include "engine/token_stamp.h"
#include "kvstore/client.h"

namespace longshelf::worker {

// The KV store as one shard reaches it: what moves is named by the numbers of the shard's copies, so that who decides,
// the leader, never has the bytes. Threads, callbacks and errors are as those of kvstore::Client.
class HomeStore {
 public:
  virtual ~HomeStore() = default;

  struct GetRequest {
    kvstore::Client::GetRequest objects;
    std::vector<uint64_t> copies;  // one number per item
  };
  struct GetEvents {
    // As kvstore::Client's. OK: verified, of the size that was expected, and among the shard's copies under its number;
    // the stamp is the object's last bytes. An object of less than kStampBytes is FAILED_PRECONDITION.
    std::function<void(size_t index, absl::StatusOr<engine::EncodedStamp> stamp)> on_object;
    // Last; nothing is added to the copies after it.
    std::function<void(const absl::Status& status)> on_done;
  };
  // REQUIRES: a number per item.
  virtual std::shared_ptr<kvstore::Client::GetCall> Get(GetRequest request, GetEvents events) = 0;

  struct PutItem {
    kvstore::ObjectHead head;  // its `digest` and `payload_bytes` are not read
    uint64_t copy = 0;         // kept until the outcome; INVALID_ARGUMENT when there is none of this number
    kvstore::Ack ack = kvstore::Ack::kMemoryOne;
    uint32_t n_replicas = 1;
  };
  class PutCall {
   public:
    virtual ~PutCall() = default;
    // As kvstore::Client::PutCall's.
    virtual void Offer(PutItem item) = 0;
    virtual void Finish() = 0;
    virtual void Cancel() = 0;
  };
  virtual std::shared_ptr<PutCall> Put(absl::Duration timeout, kvstore::Client::PutEvents events) = 0;
};

// Of the shard whose copies these are. Both must outlive it, and every call of it.
std::unique_ptr<HomeStore> MakeHomeStore(kvstore::Client& store, engine::KvCopies& copies);

}  // namespace longshelf::worker
