#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "disk_index.h"
#include "file_system.h"
#include "record_format.h"
#include "segment_files.h"
#include "segment_recovery.h"

namespace longshelf::kvstore::disk {

struct LogOptions {
  std::string directory;
  uint64_t quota_bytes = 0;
  uint64_t segment_bytes = 256 << 20;
  // Part of a segment that used objects may take when they are written anew instead of evicted. Retained ones always
  // are.
  double keep_share = 0.2;
  size_t n_data_keys_max = 65536;
};

// A record on its way to the device.
struct PendingRecord {
  Record record;
  // Header sector, filled in by the log, then the payload; padding is zero.
  AlignedBuffer bytes;
  // Of the payload as the device is to get it, by who had the time; else by the log.
  std::vector<uint32_t> chunk_crcs = {};
  // A copy of the object from there: in the index only if it has not moved or gone meanwhile.
  std::optional<Place> moved_from = std::nullopt;
  bool written = false;
};

struct LogCounters {
  uint64_t n_slots = 0;        // segments that the quota and the device have room for
  uint64_t n_damaged = 0;      // segments and records that could not be read any more
  uint64_t n_evicted = 0;      // objects that went with their segment
  uint64_t n_kept = 0;         // objects that were written anew instead
  uint64_t bytes_written = 0;  // to the device, structure and all
  uint64_t n_segments_begun = 0;
  uint64_t n_no_space = 0;  // writes that found the device full
};

// The segments of one directory: appends records to the active one, seals it when it is full, and goes on in another
// file, which the oldest segment's objects leave first. All files are preallocated at the start; one is always spare.
// First in, first out: what a record says of earlier ones (retention, removal) goes after them.
//
// Owner: one thread, the writer. Its files and its index are read by others.
class SegmentLog {
 public:
  // Makes room for the quota, or for as much of it as the device has; reads what is there.
  // `master`: of the keys that objects are encrypted under; null: they are not.
  // FAILED_PRECONDITION: segments of another node, size, number, format or encryption. RESOURCE_EXHAUSTED: no room for
  // three segments.
  static absl::StatusOr<std::unique_ptr<SegmentLog>> Open(const LogOptions& options, FileSystem& file_system,
                                                          const Clock& clock, DiskIndex& index, const NodeId& new_node,
                                                          std::unique_ptr<const SecretKey> master);
  SegmentLog(const LogOptions& options, const Clock& clock, DiskIndex& index)
      : options_(options), clock_(clock), index_(index) {}  // through Open

  // What must be so on the device before the record is there: its object's bytes are encrypted, under a key that is
  // durable; of a namespace that is removed, the key is gone. A failing device is fenced.
  // REQUIRES: records are prepared once, in the order in which they are appended.
  // RESOURCE_EXHAUSTED: no room for another namespace's key.
  absl::Status Prepare(PendingRecord& pending);
  // Before a batch is prepared: makes room for keys, if there is none. REQUIRES: what was prepared was appended.
  void RemoveUnusedKeys();

  // Writes the records in order and puts objects into the index; those with `written` are there even when a later one
  // failed. Not durable before Sync.
  // RESOURCE_EXHAUSTED: the device is full against expectation, or of what is retained; try again. UNAVAILABLE: fenced.
  absl::Status Append(std::span<PendingRecord> batch);

  // Makes durable what was appended. On failure the device is fenced.
  absl::Status Sync();

  // The device failed: nothing is written any more, and what was not durable is out of the index.
  bool fenced() const { return fenced_; }
  uint64_t unsynced_bytes() const { return unsynced_bytes_; }
  const SegmentFiles& files() const { return files_; }
  const NodeId& node() const { return node_; }
  const LogCounters& counters() const { return counters_; }
  // Sequences of the segments that are there, oldest first.
  std::vector<uint64_t> Sequences() const;

  // Of one record; larger ones can never be written.
  static uint64_t RecordBytesMax(uint64_t segment_bytes);

 private:
  struct Slot {
    uint64_t sequence = 0;  // 0: spare
  };
  // A record in the gathered batch.
  struct Gathered {
    PendingRecord* record;
    uint64_t offset;
  };

  // Before anything is created: a wrong setting must not leave files behind.
  absl::Status CheckExisting(FileSystem& file_system, const std::vector<std::string>& names);
  absl::Status OpenSlots(FileSystem& file_system);
  absl::Status Recover(const NodeId& new_node);
  // A loss of power while the oldest segment's objects were being copied leaves torn copies in the last segment, and
  // the originals: those are copied there once more, for behind what is torn there need be no room for them.
  absl::Status MendCopies(RecoveredSegment& last);
  absl::Status AppendTo(std::span<PendingRecord> batch);
  bool Fits(const Record& record) const;
  void Gather(PendingRecord& pending);
  // A record that is written: what it says is so from now on.
  void Apply(const Gathered& gathered);
  absl::Status Flush();
  absl::Status Write(uint64_t offset, std::vector<std::span<const std::byte>> pieces);
  absl::Status SealActive();
  absl::Status Begin(uint32_t slot);
  // Empties the oldest segments until one is spare.
  absl::Status EnsureSpare();
  // `at_start`: it may have been evicted before, and what of it has no room was not to be kept.
  absl::Status EvictOldest(bool at_start);
  // What is written anew: all that is retained, and, the first time, some of what was used.
  std::vector<DiskEntry> Keepers(uint64_t sequence, absl::Time now, bool with_used);
  // `may_go`: if there is no room.
  absl::Status Keep(const DiskEntry& entry, bool may_go);
  absl::Status Fence(const absl::Status& why);
  int FindSlot(uint64_t sequence) const;
  File& active_file() { return *files_.slots[active_]; }

  const LogOptions options_;
  const Clock& clock_;
  DiskIndex& index_;
  std::unique_ptr<DirectoryLock> lock_;
  SegmentFiles files_;
  std::vector<Slot> slots_;
  NodeId node_{};
  uint64_t next_sequence_ = 1;

  uint32_t active_ = 0;
  uint64_t end_ = kSectorBytes;  // where the next record goes
  uint64_t link_ = 0;            // what its header carries
  std::string footer_;           // of what the active segment holds
  uint32_t n_footer_entries_ = 0;

  // Records that were placed and not written yet, and what they add to the footer.
  std::vector<Gathered> gathered_;
  std::string gathered_footer_;
  uint64_t gathered_at_ = 0;
  uint64_t link_before_ = 0;

  // What the next sync makes durable: objects, which a failed one takes out of the index or back to where they were,
  // and retentions.
  struct Unsynced {
    ObjectKey key;
    Place place;
    std::optional<Place> moved_from;
    absl::Time until;
    bool is_note = false;
  };
  std::vector<Unsynced> unsynced_;
  uint64_t unsynced_bytes_ = 0;
  bool fenced_ = false;
  uint64_t n_begun_at_key_removal_ = 0;
  LogCounters counters_;
};

}  // namespace longshelf::kvstore::disk
