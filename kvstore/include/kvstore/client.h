#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/object.h"
#include "kvstore/queries.h"

namespace longshelf::net {
class TlsIdentity;
}

namespace longshelf::kvstore {

using Payload = std::shared_ptr<const std::vector<std::byte>>;

struct GetItem {
  ObjectKey key;
  // The only size that is accepted; a payload of another size is FAILED_PRECONDITION and never allocated.
  uint64_t expected_bytes = 0;
  BlockKey extent{};
};

struct FetchedObject {
  ObjectHead head;
  std::vector<std::byte> payload;
};

struct PutItem {
  ObjectHead head;  // its `digest` and `payload_bytes` are not read: the payload says them
  Payload payload;  // 1 .. kMaxPayloadBytes
  Ack ack = Ack::kMemoryOne;
  uint32_t n_replicas = 1;  // 1 .. kMaxReplicas; fewer nodes than that: as many as there are
  // How many of them `ack` is about: when so many have it the outcome is OK, whether the others do or not. 0: all.
  uint32_t n_acks = 0;
};

// How a put ended well.
struct PutOutcome {
  bool existed = false;    // the first writer won: nothing was sent. A parked put then extended the object's retention.
  Digest digest{};         // what the store holds
  bool conflicts = false;  // another writer computed other bytes for this key
};

// A client of the KV store. Nothing blocks: answers come as callbacks, on threads of the client or within the method
// that asked, one at a time per call, and none after the callback that ends the call. A callback must be short and must
// not wait; it may ask for more. The store is a cache: every failure here means "recompute", never "fail the request".
//
// Errors of a whole call: UNAVAILABLE (node dead, unreachable or restarting; known within about a second, at once when
// the connection is refused), DEADLINE_EXCEEDED, UNAUTHENTICATED (token), INVALID_ARGUMENT (a limit of object.h),
// CANCELLED.
//
// Any thread may call. The destructor cancels what still runs and waits for its last callbacks, so it must not be
// called from one.
class Client {
 public:
  template <typename Result>
  using Done = std::function<void(absl::StatusOr<Result>)>;

  virtual ~Client() = default;

  // Also refreshes the recency of the present prefix, deepest block first.
  virtual void Lookup(const LookupQuery& query, absl::Duration timeout, Done<LookupResult> done) = 0;

  // Many objects, sent one after another in the order of `items`, at most kMaxKeysPerCall.
  struct GetRequest {
    Fingerprint fingerprint{};
    std::vector<GetItem> items;
    absl::Duration timeout;
    // Payload bytes that may be delivered and not yet released; at least one object is. What the receiver does not
    // release is not read from the network, and the store holds one frame and one object meanwhile.
    uint64_t window_bytes = uint64_t{8} << 20;
    // Of the window, what the receiver has of an earlier call and will release along with what this one delivers.
    uint64_t unreleased_bytes = 0;
  };
  struct GetEvents {
    // Once per item, in order, whatever happens. Per object: NOT_FOUND (absent, evicted or another fingerprint:
    // indistinguishable), DATA_LOSS (digest mismatch seen by the store, or by us on what arrived), FAILED_PRECONDITION
    // (another size than expected), RESOURCE_EXHAUSTED (it is on disk, and too many are read from there), or the call's
    // error.
    std::function<void(size_t index, absl::StatusOr<FetchedObject> object)> on_object;
    // Last. OK when every object had an answer, found or not.
    std::function<void(const absl::Status& status)> on_done;
  };
  class GetCall {
   public:
    virtual ~GetCall() = default;
    // The receiver is done with so many delivered payload bytes.
    virtual void Release(uint64_t n_bytes) = 0;
    virtual void Cancel() = 0;
  };
  // Dropping the returned call neither ends nor stalls it, beyond its window.
  virtual std::shared_ptr<GetCall> Get(GetRequest request, GetEvents events) = 0;

  // Many objects on one stream, many in flight, each acknowledged. Parents are offered before their children.
  struct PutEvents {
    // Once per offered object, in any order. `index` counts the offers. Per object: RESOURCE_EXHAUSTED (no room for it:
    // parked share full, or larger than the store), UNAVAILABLE (no memory right now, try later), DATA_LOSS (arrived
    // damaged), INVALID_ARGUMENT, NamespaceDeleted, or the call's error.
    std::function<void(size_t index, absl::StatusOr<PutOutcome> outcome)> on_outcome;
    // Last. OK: Finish was called and every offered object had an answer of its own.
    std::function<void(const absl::Status& status)> on_done;
  };
  class PutCall {
   public:
    virtual ~PutCall() = default;
    // Never blocks and takes everything: whoever offers bounds what is in flight by the outcomes. At most
    // kMaxKeysPerCall. The call holds the payload until the outcome. Ignored (no outcome) after Finish, Cancel or
    // on_done.
    virtual void Offer(PutItem item) = 0;
    virtual void Finish() = 0;  // no more offers
    virtual void Cancel() = 0;
  };
  virtual std::shared_ptr<PutCall> Put(absl::Duration timeout, PutEvents events) = 0;

  // Refreshes recency, and may retain.
  virtual void Touch(TouchQuery query, absl::Duration timeout, Done<TouchResult> done) = 0;

  // Removes objects, parked or not. Their bytes stay in memory only as long as running Gets still send them.
  virtual void Drop(std::vector<PlacedKey> keys, absl::Duration timeout, Done<DropResult> done) = 0;
  // The same, but what is parked stays: for who does not know what others have promised.
  virtual void DropCache(std::vector<PlacedKey> keys, absl::Duration timeout, Done<DropResult> done) = 0;
  virtual void DropNamespace(NamespaceDrop drop, absl::Duration timeout, Done<DropResult> done) = 0;

  virtual void List(ListQuery query, absl::Duration timeout, Done<ListResult> done) = 0;

  virtual void Stats(absl::Duration timeout, Done<StoreStats> done) = 0;
};

struct ClientOptions {
  std::string address;  // host:port
  // Shared token of the store's --token-file; empty when it runs without one.
  std::string token = {};
  // To connect with, to a server with the certificate of a KV store; null: without TLS.
  std::shared_ptr<net::TlsIdentity> tls = {};
  // What that certificate is for; empty: the host in `address`.
  std::string tls_name = {};
};

// Never blocks and never fails: the connection is made by the first call. INVALID_ARGUMENT: an address without a port.
absl::StatusOr<std::unique_ptr<Client>> MakeClient(const ClientOptions& options);

}  // namespace longshelf::kvstore
