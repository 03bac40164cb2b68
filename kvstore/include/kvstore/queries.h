#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "kvstore/object.h"

namespace longshelf::kvstore {

// The longest present prefix of a chain and the positions it can be resumed at.
struct LookupQuery {
  Fingerprint fingerprint{};
  // h_-1 of the chain: checkpoints of sequences shorter than one block hang off it.
  BlockKey root{};
  // Block keys h_0, h_1, ..: parents first; at most kMaxChainKeys.
  std::vector<BlockKey> chain = {};
  // False: only n_present is wanted.
  bool want_checkpoints = true;
  // Checkpoint hashes to look for by name, whatever hangs off the prefix; at most kMaxProbes. Exact where the listing
  // below is bounded: ask for the (at most block size - 1) tail hashes that this prompt could have.
  std::vector<BlockKey> probes = {};
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
  // Of what hangs off the root or a block of the present prefix: the deepest kMaxListedTails that lie inside a block
  // and the deepest kMaxListedBoundaries at the end of one, together, deepest first; then the probes that were found.
  // The two are counted apart, so that the many continuations of a popular prefix do not hide its own end. Others may
  // share the block but not the tokens: compare `hash` with your own.
  std::vector<CheckpointInfo> checkpoints;
};

// The manifests that hang off a hash.
struct ListQuery {
  BlockKey parent{};
  std::string hash_prefix = {};  // 0 to 32 bytes: only hashes that begin so
  BlockKey after{};              // only larger hashes, unless all zero: to go on with the next page
  uint32_t limit = kMaxListed;   // 1 .. kMaxListed
};

struct ListResult {
  std::vector<ObjectHead> heads;  // by hash, smallest first
  bool more = false;
  uint32_t n_nodes_missed = 0;  // that did not answer and may have others; of one node alone never
};

// What a put or a retention is answered after.
enum class Ack : uint8_t {
  kMemoryOne,   // in the memory of one node
  kMemoryAll,   // of as many as there are to be replicas
  kDurableOne,  // as kMemoryAll, and on the disk of one: survives a loss of power of all nodes
  kDurableAll,  // on the disks of all
};

constexpr bool IsDurable(Ack ack) { return ack == Ack::kDurableOne || ack == Ack::kDurableAll; }

struct TouchQuery {
  std::vector<PlacedKey> keys;  // parents first; at most kMaxKeysPerCall
  // After the epoch: the objects are parked until then (a retention is never shortened).
  absl::Time retain_until = absl::UnixEpoch();
  Ack ack = Ack::kMemoryOne;  // of the retention
  uint32_t n_replicas = 1;    // nodes that must hold and retain an object for it to count
};

struct TouchResult {
  uint32_t n_present = 0;
  uint32_t n_refused = 0;  // present, but the parked share, or the disk, has no room to retain them
  // Per key: present and, with a retention, retained as was asked for.
  std::vector<bool> retained = {};
};

// Whole namespaces that are to be dropped.
struct NamespaceDrop {
  std::string id;
  // Not 0: `id` is a name, and of it and of its users (namespace_id.h) all generations before this one go.
  uint64_t before_generation = 0;
  // Then only. They are deleted for good: for a day the store takes no objects of them any more, from nobody.
  bool retire = false;
};

struct DropResult {
  uint64_t n_dropped = 0;
  uint64_t bytes_dropped = 0;
  uint32_t n_nodes_missed = 0;  // that did not answer and may still hold something; of one node alone never
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

  StoreStats& operator+=(const StoreStats& other);
};

}  // namespace longshelf::kvstore
