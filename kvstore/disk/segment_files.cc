#include "segment_files.h"

#include <utility>

#include "common/status.h"

namespace longshelf::kvstore::disk {

absl::StatusOr<StoredRecord> ReadObject(const SegmentFiles& files, const DiskEntry& entry) {
  StoredRecord stored;
  stored.bytes = AlignedBuffer(kSectorBytes + entry.head.payload_bytes);
  RETURN_IF_ERROR(files.slots[entry.place.slot]->ReadFully(entry.place.offset, stored.bytes.span()));
  ASSIGN_OR_RETURN(stored.header, ParseRecordHeader(stored.bytes.span().first<kSectorBytes>()));
  const Record& record = stored.header.record;
  if (stored.header.sequence != entry.place.sequence || record.kind != RecordKind::kObject ||
      record.head.key != entry.head.key || record.head.digest != entry.head.digest ||
      record.head.payload_bytes != entry.head.payload_bytes || !PayloadMatches(stored.header, stored.payload())) {
    return absl::DataLossError("the bytes on disk are not those that were written");
  }
  return stored;
}

}  // namespace longshelf::kvstore::disk
