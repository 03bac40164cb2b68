#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/hash/hash.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "kvstore/object.h"
#include "kvstore/queries.h"

namespace longshelf::kvstore::disk {

// Where a record is. The sequence names the segment; a slot is a file that segments use one after another.
struct Place {
  uint64_t sequence = 0;
  uint32_t slot = 0;
  uint64_t offset = 0;
  auto operator<=>(const Place&) const = default;
};

struct DiskEntry {
  ObjectHead head;  // its retention is what was promised
  Place place;
  bool used = false;  // since it was written where it is
  // The retention that records say which are on the device, and which are written or about to be.
  absl::Time durable_until = absl::InfinitePast();
  absl::Time noted_until = absl::InfinitePast();
};

// What becomes of a retention that is asked for.
enum class Retention {
  kAbsent,  // there is no such object
  kNoRoom,  // more would be retained than may be
  kNoted,   // a record says it, but it may not be on the device
  kNew,     // promised now; a record has to say it
};

// Which objects are on disk, and where. Knows nothing of files.
//
// Thread safe: the writer changes it, readers and lookups look. A message to the writer instead would make them wait
// for the device.
class DiskIndex {
 public:
  // Of this key there is one entry: a later place replaces an earlier one, and shortens no retention.
  void Insert(const ObjectHead& head, const Place& place);
  // Of an object that is still at `from`: it is at `to` now, and not used there yet.
  void Move(const ObjectKey& key, const Place& from, const Place& to);
  std::optional<DiskEntry> Find(const ObjectKey& key) const;
  bool Has(const ObjectKey& key, const Fingerprint& fingerprint) const;
  // Counts as a use.
  void Touch(const ObjectKey& key);
  // Retains until the later of the two times, unless more than `limit_bytes` were retained then.
  Retention Retain(const ObjectKey& key, absl::Time until, absl::Time now, uint64_t limit_bytes);
  // A record says so: whatever the limit. Where the object is, if it is.
  std::optional<Place> Extend(const ObjectKey& key, absl::Time until);
  // The record of that will not be there.
  void Unnote(const ObjectKey& key);
  // Of an object that is there: what says it is on the device.
  void MarkDurable(const ObjectKey& key, const Place& place, absl::Time until);
  void MarkAllDurable();
  // Takes back what is not on the device.
  void RevertToDurable();
  bool Remove(const ObjectKey& key);
  // Removes them (how many there were) and keeps them out until the record of that is written, or will not be: what is
  // inserted until then lies before it.
  uint64_t BeginDrop(std::span<const ObjectKey> keys);
  // The same, but what is promised to stay does: takes such keys out of `keys`. Which were there.
  std::set<ObjectKey> BeginDropCache(std::vector<ObjectKey>& keys, absl::Time now);
  // In many short steps: others look in between, and may still see some.
  uint64_t BeginDropNamespaces(const std::set<std::string>& namespace_ids);
  void EndDrop(const ObjectKey& key);
  void EndDropNamespace(const std::string& namespace_id);
  // Only if it is still there: an entry that has moved is another's.
  bool RemoveAt(const ObjectKey& key, const Place& place);
  // The same, and keeps it out until EndDrop; false, and nothing is kept out, when it is not there any more. In one
  // step: a copy that came in between would be dropped, though it is whole.
  bool BeginDropAt(const ObjectKey& key, const Place& place);
  uint64_t RemoveNamespace(const std::string& namespace_id);

  // The checkpoints whose parent this is, deepest first, at most n_max.
  std::vector<ObjectHead> CheckpointsUnder(const BlockKey& parent, size_t n_max) const;
  // Those under a retention, by time: at most n_max behind (until, key), which becomes the last of them.
  std::vector<ObjectHead> Retained(absl::Time& until, ObjectKey& key, size_t n_max) const;
  // What a List finds, at most its limit.
  std::vector<ObjectHead> Manifests(const ListQuery& query) const;
  // What is live in a segment, in the order of the file.
  std::vector<DiskEntry> LiveIn(uint64_t sequence) const;
  // Those that hold something.
  std::set<std::string> Namespaces() const;
  // Of the segments that objects were written to.
  std::vector<uint64_t> Sequences() const;
  // Forgets a segment and whatever is still live in it; how many objects that were. Not while one of them is retained:
  // empty then.
  std::optional<uint64_t> ForgetSegment(uint64_t sequence, absl::Time now);

  uint64_t n_objects() const;
  uint64_t live_bytes() const;
  // Record bytes under an unexpired retention.
  uint64_t RetainedBytes(absl::Time now);

 private:
  struct KeyHash {
    size_t operator()(const BlockKey& key) const {
      return absl::HashOf(absl::string_view(reinterpret_cast<const char*>(key.data()), key.size()));
    }
    size_t operator()(const ObjectKey& key) const { return (*this)(key.hash) * 4 + static_cast<size_t>(key.kind); }
  };
  using Entries = std::unordered_map<ObjectKey, DiskEntry, KeyHash>;
  // By parent; of one parent, the deepest first. Any number may hang off one parent, so none is ever searched for.
  struct Checkpoint {
    BlockKey parent{};
    uint32_t depth_tokens = 0;
    BlockKey hash{};
    bool operator<(const Checkpoint& other) const {
      return std::tie(parent, other.depth_tokens, hash) < std::tie(other.parent, depth_tokens, other.hash);
    }
  };

  // REQUIRES: mutex_ held.
  void Erase(Entries::iterator it);
  bool EraseAt(const ObjectKey& key, const Place& place);
  void Promise(DiskEntry& entry, absl::Time until);
  void Expire(absl::Time now);
  uint64_t EraseKeys(std::span<const ObjectKey> keys);

  mutable std::mutex mutex_;
  Entries entries_;
  std::map<std::string, std::unordered_set<ObjectKey, KeyHash>> namespaces_;  // those that hold something
  std::set<Checkpoint> checkpoints_;
  std::set<std::pair<BlockKey, BlockKey>> manifests_;    // parent and hash
  std::map<uint64_t, std::vector<ObjectKey>> segments_;  // what was ever written there
  std::set<std::pair<absl::Time, ObjectKey>> retained_;
  std::multiset<ObjectKey> dropping_;
  std::multiset<std::string> dropping_namespaces_;
  uint64_t retained_bytes_ = 0;
  uint64_t live_bytes_ = 0;
};

}  // namespace longshelf::kvstore::disk
