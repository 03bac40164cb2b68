#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "disk_index.h"
#include "file_system.h"
#include "record_format.h"

namespace longshelf::kvstore::disk {

// The open files of all slots. Set up once, then read by any thread; only the log writes to them.
struct SegmentFiles {
  uint64_t segment_bytes = 0;
  std::vector<std::unique_ptr<File>> slots;
};

// A record as it is on the device: header sector, payload, padding.
struct StoredRecord {
  RecordHeader header;
  AlignedBuffer bytes;
  std::span<const std::byte> payload() const {
    return bytes.span().subspan(kSectorBytes, header.record.payload_bytes());
  }
};

// The object's record where the index says it is, verified from its header to its digest.
// DATA_LOSS: other or damaged bytes are there, or the device failed. Blocks.
absl::StatusOr<StoredRecord> ReadObject(const SegmentFiles& files, const DiskEntry& entry);

}  // namespace longshelf::kvstore::disk
