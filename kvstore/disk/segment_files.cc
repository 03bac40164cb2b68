#include "segment_files.h"

#include <utility>

#include "common/status.h"

namespace longshelf::kvstore::disk {
namespace {

constexpr const char* kOtherBytes = "the bytes on disk are not those that were written";

}  // namespace

absl::StatusOr<StoredRecord> ReadStored(const SegmentFiles& files, const DiskEntry& entry) {
  StoredRecord stored;
  stored.bytes = AlignedBuffer(kSectorBytes + entry.head.payload_bytes);
  RETURN_IF_ERROR(files.slots[entry.place.slot]->ReadFully(entry.place.offset, stored.bytes.span()));
  ASSIGN_OR_RETURN(stored.header, ParseRecordHeader(stored.bytes.span().first<kSectorBytes>()));
  const Record& record = stored.header.record;
  if (stored.header.sequence != entry.place.sequence || record.kind != RecordKind::kObject ||
      record.head.key != entry.head.key || record.head.payload_bytes != entry.head.payload_bytes ||
      record.encryption.has_value() != (files.keys != nullptr) || !PayloadMatches(stored.header, stored.payload())) {
    return absl::DataLossError(kOtherBytes);
  }
  return stored;
}

absl::StatusOr<StoredRecord> ReadObject(const SegmentFiles& files, const DiskEntry& entry) {
  ASSIGN_OR_RETURN(StoredRecord stored, ReadStored(files, entry));
  Record& record = stored.header.record;
  if (files.keys != nullptr) {
    const std::span<std::byte> payload = stored.bytes.span().subspan(kSectorBytes, record.payload_bytes());
    RETURN_IF_ERROR(files.keys->Decrypt(record, payload));
    if (DigestOf(payload) != record.head.digest) return absl::DataLossError(kOtherBytes);
  }
  if (record.head.digest != entry.head.digest) return absl::DataLossError(kOtherBytes);
  return stored;
}

}  // namespace longshelf::kvstore::disk
