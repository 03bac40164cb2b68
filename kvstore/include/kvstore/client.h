#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/object.h"
#include "kvstore/queries.h"

namespace longshelf::kvstore {

struct GetItem {
  ObjectKey key;
  // The only size that is accepted; a payload of another size is FAILED_PRECONDITION and never allocated.
  uint64_t expected_bytes = 0;
};

struct FetchedObject {
  ObjectHead head;
  std::vector<std::byte> payload;
};

struct PutItem {
  // `digest` and `payload_bytes` are filled in by the client from the payload.
  ObjectHead head;
  // Must stay valid until PutMany returns.
  std::span<const std::byte> payload;
};

// How a put ended well.
struct PutOutcome {
  bool existed = false;  // the first writer won: nothing was sent. A parked put then extended the object's retention.
  Digest digest{};       // what the store holds; equal to our digest unless another writer computed other bytes
};

// A client of one KV store node. Calls block the calling thread until the answer or the timeout, whichever is first,
// and may be made from any number of threads at once. The store is a cache: every failure here means "recompute",
// never "fail the request".
//
// Errors of a whole call: UNAVAILABLE (node dead, unreachable or restarting; known within about a second, at once when
// the connection is refused), DEADLINE_EXCEEDED, UNAUTHENTICATED (token), INVALID_ARGUMENT (a limit of object.h).
class Client {
 public:
  virtual ~Client() = default;

  // Also refreshes the recency of the present prefix, deepest block first.
  virtual absl::StatusOr<LookupResult> Lookup(const LookupQuery& query, absl::Duration timeout) = 0;

  // Called on the calling thread, once per item, in the order of `items`. Must not call back into the client's Get.
  using OnObject = std::function<void(size_t index, absl::StatusOr<FetchedObject> object)>;

  // Fetches objects one after another, holding one payload in memory at a time: for chains too long to hold whole.
  // At most kMaxKeysPerCall. Per object: NOT_FOUND (absent, evicted or another fingerprint: indistinguishable),
  // DATA_LOSS (digest mismatch seen by the store, or by us on what arrived), FAILED_PRECONDITION (another size than
  // expected). When the call breaks, the objects that had not arrived get the call's error; the return value repeats
  // it.
  virtual absl::Status Get(const Fingerprint& fingerprint, std::span<const GetItem> items, absl::Duration timeout,
                           const OnObject& on_object) = 0;

  // Stores objects, each with its own outcome, in the order of `items` (parents before children). At most
  // kMaxKeysPerCall. Per object: RESOURCE_EXHAUSTED (no room for it: parked share full, or larger than the store),
  // UNAVAILABLE (no memory right now, try later), DATA_LOSS (arrived damaged), or the call's error.
  virtual std::vector<absl::StatusOr<PutOutcome>> PutMany(std::span<const PutItem> items, absl::Duration timeout) = 0;

  // Refreshes recency. A retain_until after the epoch also parks the objects until then (never shortens a retention).
  virtual absl::StatusOr<TouchResult> Touch(std::span<const ObjectKey> keys, absl::Time retain_until,
                                            absl::Duration timeout) = 0;

  // Removes objects, parked or not. Their bytes stay in memory only as long as running Gets still send them.
  virtual absl::StatusOr<DropResult> Drop(std::span<const ObjectKey> keys, absl::Duration timeout) = 0;
  virtual absl::StatusOr<DropResult> DropNamespace(std::string_view namespace_id, absl::Duration timeout) = 0;

  virtual absl::StatusOr<StoreStats> Stats(absl::Duration timeout) = 0;

  // Get with every payload kept: result[i] is the payload of items[i]. The caller's memory is bounded by the sum of
  // expected_bytes.
  std::vector<absl::StatusOr<std::vector<std::byte>>> GetMany(const Fingerprint& fingerprint,
                                                              std::span<const GetItem> items, absl::Duration timeout);
};

struct ClientOptions {
  std::string address;  // host:port
  // Shared token of the store's --token-file; empty when it runs without one.
  std::string token = {};
};

// Never blocks and never fails: the connection is made by the first call. INVALID_ARGUMENT: an address without a port.
absl::StatusOr<std::unique_ptr<Client>> MakeClient(const ClientOptions& options);

}  // namespace longshelf::kvstore
