#include "segment_recovery.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace longshelf::kvstore::disk {
namespace {

bool IsZero(ConstSector sector) {
  return std::all_of(sector.begin(), sector.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

absl::StatusOr<Footer> ReadFooter(File& file, const Trailer& trailer, uint64_t segment_bytes) {
  const uint64_t footer_end_max = segment_bytes - kSectorBytes;
  if (trailer.footer_offset % kSectorBytes != 0 || trailer.footer_offset < kSectorBytes ||
      trailer.footer_offset > footer_end_max || trailer.footer_bytes > footer_end_max - trailer.footer_offset) {
    return absl::DataLossError("a footer outside its segment");
  }
  AlignedBuffer bytes(trailer.footer_bytes);
  RETURN_IF_ERROR(file.ReadFully(trailer.footer_offset, bytes.span()));
  return ParseFooter(bytes.span().first(trailer.footer_bytes), trailer, segment_bytes);
}

// The record at an offset if it is whole and follows the one before it.
absl::StatusOr<RecordHeader> ReadWhole(File& file, const RecoveredSegment& segment, uint64_t segment_bytes,
                                       uint64_t* link) {
  AlignedBuffer sector(kSectorBytes);
  RETURN_IF_ERROR(file.ReadFully(segment.end, sector.span()));
  ASSIGN_OR_RETURN(RecordHeader header, ParseRecordHeader(sector.span().first<kSectorBytes>()));
  if (header.sequence != segment.sequence || header.previous != segment.link ||
      header.record.disk_bytes() > segment_bytes - kSectorBytes - segment.end) {
    return absl::DataLossError("a record that does not belong here");
  }
  AlignedBuffer payload(header.record.payload_bytes());
  RETURN_IF_ERROR(file.ReadFully(segment.end + kSectorBytes, payload.span()));
  if (!PayloadMatches(header, payload.span().first(header.record.payload_bytes()))) {
    return absl::DataLossError("a torn payload");
  }
  *link = LinkOf(sector.span().first<kSectorBytes>());
  return header;
}

void Scan(File& file, uint64_t segment_bytes, RecoveredSegment& segment) {
  while (segment.end + 2 * kSectorBytes <= segment_bytes) {
    uint64_t link = 0;
    absl::StatusOr<RecordHeader> header = ReadWhole(file, segment, segment_bytes, &link);
    if (!header.ok()) return;
    const uint64_t n_bytes = header->record.disk_bytes();
    segment.footer.entries.push_back({segment.end, std::move(header->record)});
    segment.end += n_bytes;
    segment.link = link;
  }
}

// Whether the head of an object can be known; then it is whole.
bool OpenHead(const DataKeys* keys, Record& record) {
  if (record.encryption.has_value() != (keys != nullptr)) return false;
  return keys == nullptr || keys->DecryptDigest(record);
}

}  // namespace

absl::Status CheckSegment(File& file, uint64_t segment_bytes, const KeyCheck& master_check) {
  AlignedBuffer first(kSectorBytes);
  if (!file.ReadFully(0, first.span()).ok()) return absl::OkStatus();
  const absl::StatusOr<Superblock> superblock = ParseSuperblock(std::as_const(first).span().first<kSectorBytes>());
  if (absl::IsFailedPrecondition(superblock.status())) {
    return absl::FailedPreconditionError(
        absl::StrCat("the segments are of another version (", superblock.status().message(), "): remove them all"));
  }
  if (!superblock.ok()) return absl::OkStatus();
  if (superblock->segment_bytes != segment_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("segments of ", superblock->segment_bytes, " bytes, configured are ", segment_bytes));
  }
  if (superblock->master_check == master_check) return absl::OkStatus();
  if (master_check == KeyCheck{}) {
    return absl::FailedPreconditionError("what is there is encrypted: name the file of its key with --disk-key-file");
  }
  if (superblock->master_check == KeyCheck{}) {
    return absl::FailedPreconditionError(
        "what is there is not encrypted: start without --disk-key-file, or remove it all to start empty");
  }
  return absl::FailedPreconditionError(
      "--disk-key-file holds another key than the one that what is there was encrypted with; give that one, or remove "
      "it all (keys/ too) to start empty");
}

std::optional<RecoveredSegment> RecoverSegment(File& file, uint64_t segment_bytes, bool* damaged) {
  AlignedBuffer first(kSectorBytes);
  AlignedBuffer last(kSectorBytes);
  const bool readable =
      file.ReadFully(0, first.span()).ok() && file.ReadFully(segment_bytes - kSectorBytes, last.span()).ok();
  const ConstSector first_sector = std::as_const(first).span().first<kSectorBytes>();
  *damaged = !readable;
  if (!readable) return std::nullopt;
  const absl::StatusOr<Superblock> superblock = ParseSuperblock(first_sector);
  const absl::StatusOr<Trailer> trailer = ParseTrailer(std::as_const(last).span().first<kSectorBytes>());
  RecoveredSegment segment;
  if (superblock.ok()) {
    segment.node = superblock->node;
    segment.sequence = superblock->sequence;
  }
  // The trailer names the segment once more: a damaged superblock alone loses nothing.
  if (trailer.ok() && (!superblock.ok() || trailer->sequence == superblock->sequence)) {
    if (absl::StatusOr<Footer> footer = ReadFooter(file, *trailer, segment_bytes); footer.ok()) {
      segment.node = trailer->node;
      segment.sequence = trailer->sequence;
      segment.sealed = true;
      segment.footer = *std::move(footer);
      segment.end = trailer->footer_offset;
      return segment;
    }
  }
  if (!superblock.ok()) {
    *damaged = !IsZero(first_sector);
    return std::nullopt;
  }
  segment.link = LinkOf(first_sector);
  Scan(file, segment_bytes, segment);
  return segment;
}

void Replay(const RecoveredSegment& segment, uint32_t slot, DataKeys* keys, DiskIndex& index) {
  for (const Footer::Entry& entry : segment.footer.entries) {
    if (entry.record.kind == RecordKind::kObject) {
      Record record = entry.record;
      if (OpenHead(keys, record)) {
        index.Insert(record.head, {segment.sequence, slot, entry.offset});
      } else if (keys != nullptr) {
        keys->NoteKeyless(record.head.namespace_id);
      }
    } else {
      ApplyNotes(entry.record, index);
    }
  }
}

void ApplyNotes(const Record& record, DiskIndex& index) {
  switch (record.kind) {
    case RecordKind::kObject:
      return;
    case RecordKind::kTouch:
      for (const KeyNote& note : record.notes) index.Extend(note.key, note.retain_until);
      return;
    case RecordKind::kDrop:
      for (const KeyNote& note : record.notes) index.Remove(note.key);
      return;
    case RecordKind::kDropNamespace:
      index.RemoveNamespace(record.head.namespace_id);
  }
}

void EndDrop(const Record& record, DiskIndex& index) {
  if (record.kind == RecordKind::kDropNamespace) index.EndDropNamespace(record.head.namespace_id);
  if (record.kind != RecordKind::kDrop) return;
  for (const KeyNote& note : record.notes) index.EndDrop(note.key);
}

}  // namespace longshelf::kvstore::disk
