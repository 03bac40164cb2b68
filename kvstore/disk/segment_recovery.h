#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "data_keys.h"
#include "disk_index.h"
#include "file_system.h"
#include "record_format.h"

namespace longshelf::kvstore::disk {

// An object whose header is whole and whose payload is not what was written.
struct DamagedObject {
  uint64_t offset = 0;
  RecordHeader header;
};

// What is in one segment file after a start.
struct RecoveredSegment {
  NodeId node{};
  uint64_t sequence = 0;
  bool sealed = false;  // has a whole footer; otherwise it was scanned, up to the first record that nothing follows
  Footer footer;        // of whole records
  uint64_t end = kSectorBytes;         // of the last record
  uint64_t link = 0;                   // what the next record's header would carry
  std::vector<DamagedObject> damaged;  // of one without a footer
};

// FAILED_PRECONDITION: the file holds a segment of another format or size, or one of other encryption: with a key
// (`master_check`, zero for none) where there was none, without one, with another one.
absl::Status CheckSegment(File& file, uint64_t segment_bytes, const KeyCheck& master_check);

// Empty: no segment was begun there, or nothing of it can be told any more (`damaged` is set then). Reads the footer,
// and only without a whole one the records.
// The device's error: it does not read what would tell which records there are. They may be whole, and must not be
// written over.
absl::StatusOr<std::optional<RecoveredSegment>> RecoverSegment(File& file, uint64_t segment_bytes, bool* damaged);

// Does to the index what the records say, in their order; what is encrypted under a key that is gone is not there.
// `keys`: null when objects are not encrypted. REQUIRES: segments come by rising sequence.
void Replay(const RecoveredSegment& segment, uint32_t slot, DataKeys* keys, DiskIndex& index);

// What a record that is not an object does, at any time.
void ApplyNotes(const Record& record, DiskIndex& index);

// The removal that the record is of is over: it is written, or will not be.
void EndDrop(const Record& record, DiskIndex& index);

}  // namespace longshelf::kvstore::disk
