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

namespace longshelf::kvstore {

// The longest present prefix of a chain and the positions it can be resumed at.
struct LookupQuery {
  Fingerprint fingerprint{};
  // h_-1 of the chain: checkpoints of sequences shorter than one block hang off it.
  BlockKey root{};
  // Block keys h_0, h_1, ..: parents first; at most kMaxChainKeys.
  std::vector<BlockKey> chain;
  // False: only n_present is wanted.
  bool want_checkpoints = true;
  // Checkpoint hashes to look for by name, whatever hangs off the prefix; at most kMaxProbes. Exact where the listing
  // below is bounded: ask for the (at most block size - 1) tail hashes that this prompt could have.
  std::vector<BlockKey> probes;
};

struct CheckpointInfo {
  BlockKey hash{};    // ObjectKey{hash, kCheckpoint} fetches it
  BlockKey parent{};  // last full block before it, or the root
  uint32_t depth_tokens = 0;
  uint64_t payload_bytes = 0;
  bool has_tail = false;  // ObjectKey{hash, kTail} is present too
  uint64_t tail_bytes = 0;
};

struct LookupResult {
  // chain[0 .. n_present) are all present now. A hint: what is not parked may be evicted before it is fetched.
  uint32_t n_present = 0;
  // At most kMaxListedCheckpoints that hang off the root or a block of the present prefix, deepest first, then the
  // probes that were found. Others may share the block but not the tokens: compare `hash` with your own.
  std::vector<CheckpointInfo> checkpoints;
};

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

struct TouchResult {
  uint32_t n_present = 0;
  uint32_t n_refused = 0;  // present, but the parked share has no room to retain them
};

struct DropResult {
  uint64_t n_dropped = 0;
  uint64_t bytes_dropped = 0;
};

// Bytes include the fixed per-object overhead that the store charges against its limit.
struct StoreStats {
  uint64_t capacity_bytes = 0;
  uint64_t used_bytes = 0;      // committed objects
  uint64_t reserved_bytes = 0;  // opened puts not yet committed
  uint64_t parked_bytes = 0;    // of used and reserved: under an unexpired retention
  uint64_t parked_limit_bytes = 0;
  uint64_t n_objects = 0;
  uint64_t n_reservations = 0;
  uint64_t n_hits = 0;  // objects asked for by Get and found
  uint64_t n_misses = 0;
  uint64_t n_evicted = 0;
  uint64_t n_quarantined = 0;  // removed because the bytes in memory no longer matched their digest
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
  std::string token;
};

// Never blocks and never fails: the connection is made by the first call. INVALID_ARGUMENT: an address without a port.
absl::StatusOr<std::unique_ptr<Client>> MakeClient(const ClientOptions& options);

}  // namespace longshelf::kvstore
