#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data_keys.h"
#include "disk_index.h"
#include "file_system.h"
#include "record_format.h"

namespace longshelf::kvstore::disk {

// The open files of all slots. Set up once, then read by any thread; only the log writes to them.
struct SegmentFiles {
  uint64_t segment_bytes = 0;
  std::vector<std::unique_ptr<File>> slots;
  std::unique_ptr<DataKeys> keys;  // null: objects are not encrypted
};

// A record: header sector, payload, padding.
struct StoredRecord {
  RecordHeader header;
  AlignedBuffer bytes;
  std::span<const std::byte> payload() const {
    return bytes.span().subspan(kSectorBytes, header.record.payload_bytes());
  }
};

// The object's record where the index says it is, as it lies on the device, verified as far as that goes without a key.
// DATA_LOSS: other or damaged bytes are there, or the device failed. Blocks.
absl::StatusOr<StoredRecord> ReadStored(const SegmentFiles& files, const DiskEntry& entry);

// The same decrypted, and verified from its header to its digest. NOT_FOUND: its key is gone.
absl::StatusOr<StoredRecord> ReadObject(const SegmentFiles& files, const DiskEntry& entry);

}  // namespace longshelf::kvstore::disk
