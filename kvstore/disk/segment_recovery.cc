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

// `unread`: becomes what the device says when it does not read it.
absl::StatusOr<Footer> ReadFooter(File& file, const Trailer& trailer, uint64_t segment_bytes, absl::Status& unread) {
  const uint64_t footer_end_max = segment_bytes - kSectorBytes;
  if (trailer.footer_offset % kSectorBytes != 0 || trailer.footer_offset < kSectorBytes ||
      trailer.footer_offset > footer_end_max || trailer.footer_bytes > footer_end_max - trailer.footer_offset) {
    return absl::DataLossError("a footer outside its segment");
  }
  AlignedBuffer bytes(trailer.footer_bytes);
  const absl::Status read = file.ReadFully(trailer.footer_offset, bytes.span());
  unread.Update(read);
  RETURN_IF_ERROR(read);
  return ParseFooter(bytes.span().first(trailer.footer_bytes), trailer, segment_bytes);
}

struct LinkedHeader {
  RecordHeader header;
  uint64_t link = 0;  // what the next one's carries
};

// The header at an offset if it is whole and follows the one before it, which `link` names.
absl::StatusOr<std::optional<LinkedHeader>> ReadHeader(File& file, uint64_t offset, uint64_t sequence, uint64_t link,
                                                       uint64_t segment_bytes) {
  if (offset + 2 * kSectorBytes > segment_bytes) return std::nullopt;
  AlignedBuffer bytes(kSectorBytes);
  RETURN_IF_ERROR(file.ReadFully(offset, bytes.span()));
  const ConstSector sector = std::as_const(bytes).span().first<kSectorBytes>();
  absl::StatusOr<RecordHeader> header = ParseRecordHeader(sector);
  if (!header.ok() || header->sequence != sequence || header->previous != link ||
      header->record.disk_bytes() > segment_bytes - kSectorBytes - offset) {
    return std::nullopt;
  }
  return LinkedHeader{*std::move(header), LinkOf(sector)};
}

bool IsPayloadWhole(File& file, uint64_t offset, const RecordHeader& header) {
  AlignedBuffer payload(header.record.payload_bytes());
  return file.ReadFully(offset + kSectorBytes, payload.span()).ok() &&
         PayloadMatches(header, payload.span().first(header.record.payload_bytes()));
}

// Where a payload is not whole, the record behind it tells a damaged object from the end of what was written: it names
// the header before it, so it was written after that. Or, after a loss of power, both were being written, and the later
// one reached the device alone; then nobody was promised either, and what of them is whole may be used. All records but
// objects are whole when their header is.
absl::Status Scan(File& file, uint64_t segment_bytes, RecoveredSegment& segment) {
  const auto read_header = [&](uint64_t offset, uint64_t link) {
    return ReadHeader(file, offset, segment.sequence, link, segment_bytes);
  };
  ASSIGN_OR_RETURN(std::optional<LinkedHeader> at, read_header(segment.end, segment.link));
  while (at.has_value()) {
    const uint64_t end = segment.end + at->header.record.disk_bytes();
    ASSIGN_OR_RETURN(std::optional<LinkedHeader> next, read_header(end, at->link));
    if (IsPayloadWhole(file, segment.end, at->header)) {
      segment.footer.entries.push_back({segment.end, std::move(at->header.record)});
    } else if (next.has_value()) {
      segment.damaged.push_back({segment.end, std::move(at->header)});
    } else {
      break;
    }
    segment.end = end;
    segment.link = at->link;
    at = std::move(next);
  }
  return absl::OkStatus();
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

absl::StatusOr<std::optional<RecoveredSegment>> RecoverSegment(File& file, uint64_t segment_bytes, bool* damaged) {
  AlignedBuffer first(kSectorBytes);
  AlignedBuffer last(kSectorBytes);
  const absl::Status first_read = file.ReadFully(0, first.span());
  const absl::Status last_read = file.ReadFully(segment_bytes - kSectorBytes, last.span());
  const ConstSector first_sector = std::as_const(first).span().first<kSectorBytes>();
  const ConstSector last_sector = std::as_const(last).span().first<kSectorBytes>();
  const auto superblock = first_read.ok() ? ParseSuperblock(first_sector) : absl::StatusOr<Superblock>(first_read);
  const auto trailer = last_read.ok() ? ParseTrailer(last_sector) : absl::StatusOr<Trailer>(last_read);
  *damaged = false;
  RecoveredSegment segment;
  if (superblock.ok()) {
    segment.node = superblock->node;
    segment.sequence = superblock->sequence;
  }
  absl::Status unread = first_read;
  unread.Update(last_read);
  // The trailer names the segment once more: a superblock that is damaged, or cannot be read, alone loses nothing.
  if (trailer.ok() && (!superblock.ok() || trailer->sequence == superblock->sequence)) {
    absl::StatusOr<Footer> footer = ReadFooter(file, *trailer, segment_bytes, unread);
    if (footer.ok()) {
      segment.node = trailer->node;
      segment.sequence = trailer->sequence;
      segment.sealed = true;
      segment.footer = *std::move(footer);
      segment.end = trailer->footer_offset;
      return segment;
    }
  }
  if (superblock.ok()) {
    segment.link = LinkOf(first_sector);
    RETURN_IF_ERROR(Scan(file, segment_bytes, segment));
    return segment;
  }
  RETURN_IF_ERROR(unread);
  *damaged = !IsZero(first_sector);
  return std::nullopt;
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
