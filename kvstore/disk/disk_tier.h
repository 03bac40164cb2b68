#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "disk_index.h"
#include "doorkeeper.h"
#include "file_system.h"
#include "kvstore/disk_options.h"
#include "segment_log.h"

namespace longshelf::kvstore::disk {

struct DiskStats {
  LogCounters log;
  uint64_t quota_bytes = 0;
  uint64_t live_bytes = 0;
  uint64_t n_objects = 0;
  uint64_t retained_bytes = 0;
  uint64_t retained_limit_bytes = 0;
  uint64_t queued_bytes = 0;
  uint64_t n_put = 0;          // objects written
  uint64_t payload_bytes = 0;  // of those
  uint64_t n_dropped = 0;      // cache objects that found the queue or the device full
  uint64_t n_hits = 0;
  uint64_t n_quarantined = 0;
  uint64_t n_scrubbed = 0;
  uint64_t n_data_keys = 0;
  bool fenced = false;
};

// Objects on disk: written by one thread in groups, read by whoever asks. Nothing here blocks a caller but Read.
//
// A put whose Done says OK for a parked object is on the device; for a cache object it is written and may still be lost
// with the power. A failing device makes the tier read-only, a full one refuses puts; neither stops anything else.
//
// Thread safe. Threads: the writer owns the log, and encrypts; the scrubber reads along. Done is called once, by the
// writer, or by the caller's thread when the answer is known at once; it must not block.
class DiskTier {
 public:
  using Done = std::function<void(const absl::Status&)>;

  // As SegmentLog::Open. The file system and the clock must outlive the tier. Blocks while it reads what is there.
  static absl::StatusOr<std::unique_ptr<DiskTier>> Open(const DiskOptions& options, FileSystem& file_system,
                                                        const Clock& clock, const NodeId& new_node,
                                                        std::unique_ptr<const SecretKey> master = nullptr);
  DiskTier(const DiskOptions& options, const Clock& clock) : options_(options), clock_(clock) {}  // through Open
  // Writes what is queued and makes it durable.
  ~DiskTier();

  // Memory for a record; the payload goes to PayloadOf.
  static AlignedBuffer BufferFor(uint64_t payload_bytes);
  static std::span<std::byte> PayloadOf(AlignedBuffer& buffer, uint64_t payload_bytes);

  // Called by the writer when it has written some of the queue; may put, must not wait. Before the first put.
  void OnRoom(std::function<void()> on_room);
  // Whether a put of that size would not find the queue full. One that is larger than the queue has room when it is
  // empty.
  bool HasRoom(uint64_t payload_bytes);

  // Whether a cache object should be put: it was offered before, and is not there.
  bool Wants(const ObjectKey& key);

  // RESOURCE_EXHAUSTED: larger than a segment, the parked share or the device is full. UNAVAILABLE: the queue is full,
  // or the device failed.
  void Put(const ObjectHead& head, AlignedBuffer bytes, Done done);
  // The same, but what is known at once is returned, and `done` not called then: for who holds a lock.
  absl::Status Offer(const ObjectHead& head, AlignedBuffer bytes, Done done);
  // Retains the object until the later of `until` and what was promised: when this returns OK it will not be evicted
  // before, and when Done says OK that is durable. NOT_FOUND, RESOURCE_EXHAUSTED (the parked share has no room),
  // UNAVAILABLE (the device is behind, or failed): Done is not called.
  absl::Status Touch(const ObjectKey& key, absl::Time until, Done done);
  // Gone at once; stays gone after a restart when done.
  uint64_t Drop(std::span<const ObjectKey> keys, Done done);
  // The same, but what is promised to stay does, and is no longer among `keys`. Nobody is told when it is durable.
  // Which were there.
  std::set<ObjectKey> DropCache(std::vector<ObjectKey>& keys);
  // What was encrypted can never be read again then.
  uint64_t DropNamespace(const std::string& namespace_id, Done done);
  // All that something is here of, or on its way, or a key. Writes nothing when there is none.
  using IsDropped = std::function<bool(const std::string& namespace_id)>;
  uint64_t DropNamespaces(const IsDropped& is_dropped, Done done);

  // NOT_FOUND; DATA_LOSS: what is there is not what was written, and has been removed. Blocks on the device.
  absl::StatusOr<StoredRecord> Read(const ObjectKey& key, const Fingerprint& fingerprint);

  DiskIndex& index() { return index_; }
  const NodeId& node() const { return log_->node(); }
  DiskStats Stats();

 private:
  // Who waits until a retention is durable.
  struct Waiter {
    ObjectKey key;
    absl::Time until;
    Done done;
  };
  struct Request {
    PendingRecord pending;  // nothing is written of a kTouch without notes
    Done done;              // of one that is no kTouch
    bool durable = false;
    uint64_t parked_bytes = 0;
    std::vector<Waiter> waiters;  // of a kTouch
  };
  // What of the queue counts against one of its limits.
  struct Queued {
    void Add(const Request& request);
    Queued& operator-=(const Queued& other);
    uint64_t object_bytes = 0;
    uint64_t parked_bytes = 0;
    uint64_t n_touches = 0;
    uint64_t n_drops = 0;
  };

  // False, and `request.done` not called, when the queue is full.
  bool Enqueue(Request& request);
  // REQUIRES: mutex_ held. Of the last request in the queue if it is a Touch that takes one more key, or of a new one;
  // null when the queue is full.
  Request* TouchAtEnd();
  // REQUIRES: their removal from the index has begun.
  void EnqueueDrop(std::span<const ObjectKey> keys, Done done);
  void EnqueueDrop(const std::string& namespace_id, Done done);
  void Write();
  // What the writer does next: the first queued records, up to a limit of bytes. Waits for some or for `until`.
  std::vector<Request> TakeBatch(absl::Time until);
  void WriteBatch(std::vector<Request> batch);
  // Answers cache objects that are there already, writes nothing but the retention of others that are, and lets no
  // record shorten one.
  void SkipKnown(std::vector<Request>& batch);
  bool IsThere(const Request& request, const std::optional<DiskEntry>& known) const;
  void MakeTouch(Request& request);
  // Encrypts what is to be. Answers what cannot be, and lets those wait of whom nothing is written.
  void Prepare(std::vector<Request>& batch);
  // What was not written is answered, and what was to follow from it is taken back.
  void Fail(const Request& request, const absl::Status& status);
  void SyncNow();
  absl::Status CheckDurable(const ObjectKey& key, absl::Time until) const;
  void PublishStats();
  void Scrub();
  void Quarantine(const DiskEntry& entry);

  const DiskOptions options_;
  const Clock& clock_;
  DiskIndex index_;
  std::unique_ptr<SegmentLog> log_;  // the writer's, but for its files

  // The writer's: requests that are written and wait for the next sync.
  std::vector<Request> unsynced_;
  absl::Time sync_by_ = absl::InfiniteFuture();

  // Guards the queue and what is below. Not a Mailbox: it is bounded by bytes, and the writer takes some at a time.
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Request> queue_;
  std::set<std::string> writing_;  // namespaces of objects that the writer has taken and not yet indexed
  Queued queued_;
  std::function<void()> on_room_;
  Doorkeeper doorkeeper_{1 << 18};
  DiskStats stats_;  // as the writer last published
  bool stopping_ = false;

  std::thread writer_;
  std::thread scrubber_;
};

}  // namespace longshelf::kvstore::disk
