#pragma once

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "digest_stream.h"
#include "disk/disk_tier.h"
#include "disk/read_pool.h"
#include "fifo_mutex.h"
#include "kvstore/store.h"
#include "object_index.h"
#include "page_arena.h"
#include "retired_namespaces.h"

// What store.cc and store_disk.cc share. Nobody else includes it.
namespace longshelf::kvstore {

inline constexpr size_t kDiskReaders = 4;
inline constexpr size_t kDiskReadsQueuedMax = 4096;
// Of a call that names many keys, those that are handled before others may take their turn.
inline constexpr size_t kKeysPerTurn = 64;
inline constexpr uint64_t kCacheReservedPart = 8;  // of the capacity, whatever the parked share is
inline uint64_t ShareOf(uint64_t capacity_bytes, double share) {
  return static_cast<uint64_t>(share * static_cast<double>(capacity_bytes));
}

inline void Answer(const Store::Durable& on_durable, const absl::Status& status) {
  if (on_durable) on_durable(status);
}

// Calls visit(span) for the runs of adjacent pages that hold bytes [offset, offset + n) of an object.
template <typename Visit>
void ForEachRun(const PageArena& arena, std::span<const uint32_t> pages, uint64_t offset, uint64_t n, Visit visit) {
  while (n > 0) {
    const size_t first = offset / kPageBytes;
    const size_t skip = offset % kPageBytes;
    size_t last = first + 1;
    while (last < pages.size() && pages[last] == pages[last - 1] + 1 && (last - first) * kPageBytes - skip < n) ++last;
    const uint64_t run = std::min<uint64_t>(n, (last - first) * kPageBytes - skip);
    visit(std::span<std::byte>(arena.page(pages[first]) + skip, run));
    offset += run;
    n -= run;
  }
}

// Collects what the disk says of the keys of one Touch.
class DurableTouch : public std::enable_shared_from_this<DurableTouch> {
 public:
  explicit DurableTouch(std::function<void(TouchResult)> done) : done_(std::move(done)) {}

  // One more answer is to come.
  Store::Durable Await(size_t index);
  // All are asked for.
  void End(TouchResult result);

 private:
  void AnswerOne();

  const std::function<void(TouchResult)> done_;
  std::mutex mutex_;      // guards what is below; the disk answers on a thread of its own
  size_t n_awaited_ = 1;  // and the end
  std::vector<size_t> refused_;
  TouchResult result_;
};

// A Touch under way.
struct TouchWalk {
  explicit TouchWalk(std::span<const ObjectKey> touched) : keys(touched) { result.retained.resize(touched.size()); }

  std::span<const ObjectKey> keys;  // of the caller, as long as his call runs
  TouchResult result;
  std::shared_ptr<DurableTouch> durable;  // null: nobody waits for the disk
};

// A held object that is to be on disk and is not there yet, and who waits for that.
struct DiskCopy {
  struct Waiter {
    absl::Time until;
    Store::Durable on_durable;
  };
  ObjectKey key;
  absl::Time until;      // what its record says, or will say as far as is known
  bool offered = false;  // to the disk; before, it is in the backlog
  std::vector<Waiter> waiters;
};

// Out of memory, and on its way to the disk, which does not know of it yet.
struct Leaving {
  std::string namespace_id;
  Digest digest{};
  bool dropped = false;  // it must not go there, or will not stay
};
using LeavingObjects = std::multimap<ObjectKey, Leaving>;

// What was evicted and belongs on disk.
struct Demotion {
  std::unique_ptr<Entry> entry;
  LeavingObjects::iterator leaving;
};

// What readers need when they end, which may be after the store.
struct StoreLife {
  explicit StoreLife(PageArena::Mapping mapping) : pages(std::move(mapping)) {}

  std::mutex mutex;  // guards ended, and the store against its end
  bool ended = false;
  const PageArena::Mapping pages;
};

struct Store::Impl {
  Impl(const StoreOptions& store_options, PageArena pages, std::unique_ptr<disk::DiskTier> disk_tier)
      : options(store_options),
        parked_limit(ShareOf(store_options.capacity_bytes, store_options.parked_share)),
        cache_reserved_limit(
            std::max(store_options.capacity_bytes - parked_limit, store_options.capacity_bytes / kCacheReservedPart)),
        arena(std::move(pages)),
        life(std::make_shared<StoreLife>(arena.mapping())),
        index({.policy = store_options.eviction,
               .capacity_bytes = store_options.capacity_bytes,
               .small_limit_bytes = ShareOf(store_options.capacity_bytes, store_options.small_share),
               .floor_bytes = ShareOf(store_options.capacity_bytes, store_options.floor_share)}),
        disk(std::move(disk_tier)) {
    if (disk == nullptr) return;
    disk_reads = std::make_unique<disk::ReadPool>(kDiskReaders, kDiskReadsQueuedMax);
    disk->OnRoom([this] { OfferBacklog(); });
  }

  uint64_t InUse() const { return index.used_bytes() + detached_bytes + reserved_bytes; }
  uint64_t Parked() const { return index.held_bytes() + reserved_parked_bytes; }
  // One turn of a Touch: a run of its keys, the last first.
  void TouchTurn(size_t first, size_t end, absl::Time retain_until, absl::Time now, TouchWalk& walk);
  void TouchAll(absl::Time retain_until, absl::Time now, TouchWalk& walk);
  bool ParkedFits(uint64_t charge) const { return Parked() + charge <= parked_limit; }
  // Cache that is under way cannot be evicted, and must leave room for what may be parked. One object always may be.
  bool CacheFits(uint64_t charge) const {
    const uint64_t under_way = reserved_bytes - reserved_parked_bytes;
    return under_way == 0 || under_way + charge <= cache_reserved_limit;
  }

  // Waits for the long calls before this one, if this is one.
  std::unique_lock<FifoMutex> LongCall(size_t n_keys) {
    return n_keys > kKeysPerTurn ? std::unique_lock(long_calls) : std::unique_lock(long_calls, std::defer_lock);
  }
  // Evicts until the object fits; false (and nothing evicted) when that is not possible. Of what went, that which
  // belongs on disk is put into `demoted`: its memory is in use until FinishDemotion.
  bool MakeRoom(uint64_t charge, const ObjectHead& head, bool parked, std::vector<Demotion>* demoted);
  // A reservation, or nothing when `demoted` must leave first.
  absl::StatusOr<std::optional<Reservation>> Reserve(const ObjectHead& head, absl::Time now,
                                                     std::vector<Demotion>* demoted);
  // Takes the entry out of the index; its memory stays while readers are attached.
  void Detach(Entry& entry);
  void DropEntry(Entry& entry, DropResult& result);
  // Returns how many of the dropped are on disk too.
  uint64_t DropFromMemory(std::span<const ObjectKey> keys, DropResult& result);
  // Of one turn. REQUIRES: the mutex is held.
  uint64_t DropTurn(std::span<const ObjectKey> keys, DropResult& result);
  void DropNamespaceFromMemory(const std::string& namespace_id, DropResult& result);
  void DropGenerationsFromMemory(const NamespaceDrop& drop, DropResult& result);
  // Parks a present entry if the share allows. True also when there is nothing to promise.
  bool TryHold(Entry& entry, absl::Time until, absl::Time now);
  // Memory has no room for the promise, and the disk has made it before: that has to be told how long, and memory
  // nothing.
  bool IsDisksToRetain(const Entry& entry, absl::Time now) const {
    return !entry.held && !ParkedFits(entry.charge_bytes) && DiskRetainsAt(entry.head.key, now);
  }
  // Answers a put whose key is present.
  absl::StatusOr<Exists> AnswerExisting(Entry& entry, const ObjectHead& head, absl::Time now);
  void ReleaseReservation(const Reservation::State& state);
  void ReleaseReader(Entry* entry);
  void Quarantine(Entry* entry);
  StoreStats Stats(absl::Time now);

  // With a disk (store_disk.cc). REQUIRES: the mutex is not held; the disk may answer at once.
  // Whether the disk keeps the object at least until then, through losses of power too; also false without a disk.
  bool DiskRetains(const ObjectKey& key, absl::Time until) const;
  // Whether it keeps the object now, however long.
  bool DiskRetainsAt(const ObjectKey& key, absl::Time now) const {
    return DiskRetains(key, now + absl::Nanoseconds(1));
  }
  // Marks those of whom is_dropped(object).
  template <typename IsDropped>
  void DropLeaving(IsDropped is_dropped) {
    for (auto& [key, object] : leaving) object.dropped = object.dropped || is_dropped(object);
  }
  // The digest of the first writer, where he is about to be on disk with other bytes.
  std::optional<Digest> LeavingInstead(const ObjectHead& head) const;
  // Copies to the disk what was evicted, and gives its memory back.
  void FinishDemotion(std::vector<Demotion> demoted);
  // What a put of a parked object promises; nothing when its time is over.
  void Retain(const ObjectKey& key, bool parked, absl::Time until, Durable on_durable);
  // Brings an object's retention to the disk, with its bytes if they are not there; then memory need not hold it.
  void RetainOnDisk(const ObjectKey& key, absl::Time until, Durable on_durable);
  // Now, or when the disk's queue has room: one copy per object, however many ask for it.
  void CopyToDisk(const ObjectKey& key, absl::Time until, Durable on_durable);
  void OfferBacklog();
  // The first of the backlog, which is not empty. False: the disk has no room now. REQUIRES: the mutex is held; it is
  // given up meanwhile.
  bool OfferNext(std::unique_lock<FifoMutex>& lock);
  absl::Status OfferCopy(const std::shared_ptr<DiskCopy>& copy, const Reader::State& pinned,
                         disk::AlignedBuffer buffer);
  void FinishCopy(const std::shared_ptr<DiskCopy>& copy, const absl::Status& status);
  void ReleaseRetained(const ObjectKey& key);
  // Of an object that only the disk has, as AnswerExisting. Empty when it does not.
  std::optional<absl::StatusOr<Exists>> AnswerFromDisk(const ObjectHead& head, absl::Time now, Durable on_durable);
  // As DiskTier::Touch; `on_durable` is not called when this fails.
  absl::Status TouchOnDisk(const ObjectKey& key, absl::Time until, Durable on_durable);
  // Of objects that memory has not, or cannot retain.
  void TouchOnDisk(std::span<const size_t> indices, absl::Time until, TouchWalk& walk);
  // The bytes of an entry that does not change meanwhile; nothing when they are not those that were put: the disk would
  // make that durable.
  std::optional<disk::AlignedBuffer> CopyForDisk(const Entry& entry) const;
  // REQUIRES: n_bytes were added to disk_read_bytes; the reader, or nobody, has them afterwards.
  absl::StatusOr<Reader> ReadFromDisk(const ObjectKey& key, const Fingerprint& fingerprint, uint64_t n_bytes);
  void ReleaseDiskRead(uint64_t n_bytes);
  void CountRead(bool found);  // from the disk
  // Into memory, if there is room for it; a reader of what is there then.
  std::unique_ptr<Reader::State> Promote(const disk::StoredRecord& record);
  // `promotes`: what the disk has, and only as long as it has it. NOT_FOUND: no more.
  absl::StatusOr<std::variant<Committed, Exists>> CommitTo(Reservation reservation, absl::Time now, Durable on_durable,
                                                           bool promotes);

  // REQUIRES: the mutex is held.
  std::unique_ptr<Reader::State> Pinned(const ObjectKey& key, const Fingerprint* fingerprint);

  const StoreOptions options;
  const uint64_t parked_limit;
  const uint64_t cache_reserved_limit;

  // Held, before the other, by a call that takes many turns: of those one at a time, or a short call would wait for a
  // turn of each of them.
  FifoMutex long_calls;
  // Guards everything below, but not the bytes of pages.
  FifoMutex mutex;
  PageArena arena;
  const std::shared_ptr<StoreLife> life;
  ObjectIndex index;
  RetiredNamespaces retired;
  std::unordered_map<Entry*, std::unique_ptr<Entry>> detached;  // out of the index, still read
  uint64_t detached_bytes = 0;                                  // of those, and of what is copied for the disk
  LeavingObjects leaving;                                       // no more than the disk's queue takes
  std::map<ObjectKey, std::shared_ptr<DiskCopy>> copies;        // of held objects: no more than memory holds
  std::deque<std::shared_ptr<DiskCopy>> backlog;                // those that are not offered, oldest first
  uint64_t reserved_bytes = 0;
  uint64_t reserved_parked_bytes = 0;
  uint64_t n_reservations = 0;
  uint64_t n_hits = 0;
  uint64_t n_misses = 0;
  uint64_t n_evicted = 0;
  uint64_t n_quarantined = 0;
  uint64_t disk_read_bytes = 0;  // of objects that are sent from a copy of their own

  // After all that they use. The disk answers what is queued while it is destroyed.
  const std::unique_ptr<disk::DiskTier> disk;
  std::unique_ptr<disk::ReadPool> disk_reads;
};

struct Store::Reservation::State {
  ~State();

  Impl* store = nullptr;  // null once committed
  ObjectHead head;
  std::vector<uint32_t> pages;
  uint64_t charge_bytes = 0;
  uint64_t parked_bytes = 0;  // what of the charge counts against the parked share
  uint64_t n_written = 0;
  DigestStream digest;  // of what was written
};

struct Store::Reader::State {
  explicit State(Impl& the_store) : store(&the_store), life(the_store.life) {}
  ~State();
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  // Calls visit(span), which is to hash it, for the runs that hold the next n_bytes. With the last byte the digest is
  // compared: on DATA_LOSS the object is quarantined. REQUIRES: so many bytes are left.
  template <typename Visit>
  absl::Status Next(uint64_t n_bytes, Visit visit);

  Impl* const store;
  const std::shared_ptr<StoreLife> life;
  Entry* entry = nullptr;  // pinned; its pages do not change. Null: the bytes are in `record`
  disk::StoredRecord record;
  uint64_t disk_read_bytes = 0;
  ObjectHead head;  // a copy: retention of a present object may be extended at any time
  uint64_t offset = 0;
  DigestStream digest;
};

}  // namespace longshelf::kvstore
