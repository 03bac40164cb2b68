#include "segment_log.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/log.h"
#include "common/status.h"

namespace longshelf::kvstore::disk {
namespace {

constexpr uint32_t kSlotsMin = 3;  // one being written, one spare, one to read
constexpr uint64_t kFlushBytes = 8 << 20;
// A footer entry, at most.
constexpr uint64_t kFooterEntryMax = 4096;

std::string SlotPath(const std::string& directory, size_t slot) {
  return absl::StrCat(directory, "/segment-", absl::Dec(slot, absl::kZeroPad6));
}

// Of a segment that may be whole: it is for the operator to decide that it is lost.
absl::Status UnreadError(const std::string& path, const absl::Status& why) {
  return Annotate(absl::Status(why.code(), absl::StrCat(why.message(),
                                                        "; what it holds may be whole: start again, or "
                                                        "remove the file to start without it")),
                  path);
}

}  // namespace

uint64_t SegmentLog::RecordBytesMax(uint64_t segment_bytes) {
  // Beside superblock, trailer and its own entry in the footer.
  const uint64_t structure_bytes = 2 * kSectorBytes + kFooterEntryMax;
  return segment_bytes > structure_bytes ? segment_bytes - structure_bytes : 0;
}

absl::StatusOr<std::unique_ptr<SegmentLog>> SegmentLog::Open(const LogOptions& options, FileSystem& file_system,
                                                             const Clock& clock, DiskIndex& index,
                                                             const NodeId& new_node,
                                                             std::unique_ptr<const SecretKey> master) {
  if (options.segment_bytes % kSectorBytes != 0 || options.segment_bytes < 16 * kSectorBytes) {
    return absl::InvalidArgumentError(absl::StrCat("segments of ", options.segment_bytes, " bytes"));
  }
  if (options.quota_bytes / options.segment_bytes < kSlotsMin) {
    return absl::InvalidArgumentError(absl::StrCat("disk size: ", options.quota_bytes, " bytes, at least ",
                                                   kSlotsMin * options.segment_bytes, " are needed"));
  }
  auto log = std::make_unique<SegmentLog>(options, clock, index);
  if (master != nullptr) {
    log->files_.keys =
        std::make_unique<DataKeys>(file_system, options.directory, std::move(master), options.n_data_keys_max);
  }
  RETURN_IF_ERROR(file_system.CreateDirectory(options.directory));
  ASSIGN_OR_RETURN(log->lock_, file_system.Lock(options.directory));
  RETURN_IF_ERROR(log->OpenSlots(file_system));
  RETURN_IF_ERROR(log->Recover(new_node));
  return log;
}

absl::Status SegmentLog::CheckExisting(FileSystem& file_system, const std::vector<std::string>& names) {
  const std::string first_beyond = SlotPath("", options_.quota_bytes / options_.segment_bytes).substr(1);
  const KeyCheck master_check = files_.keys == nullptr ? KeyCheck{} : files_.keys->check();
  for (const std::string& name : names) {
    if (!name.starts_with("segment-")) continue;
    ASSIGN_OR_RETURN(const std::unique_ptr<File> file,
                     file_system.Open(absl::StrCat(options_.directory, "/", name), /*create=*/false));
    if (const absl::Status status = CheckSegment(*file, options_.segment_bytes, master_check); !status.ok()) {
      return Annotate(status, options_.directory);
    }
    if (name >= first_beyond) {
      return absl::FailedPreconditionError(absl::StrCat(options_.directory,
                                                        " holds more segments than --disk-size allows (", name,
                                                        "): raise it, or remove them all to start empty"));
    }
  }
  return absl::OkStatus();
}

absl::Status SegmentLog::OpenSlots(FileSystem& file_system) {
  const uint64_t n_slots = options_.quota_bytes / options_.segment_bytes;
  files_.segment_bytes = options_.segment_bytes;
  ASSIGN_OR_RETURN(const std::vector<std::string> names, file_system.List(options_.directory));
  RETURN_IF_ERROR(CheckExisting(file_system, names));
  if (files_.keys != nullptr) RETURN_IF_ERROR(files_.keys->Load());
  while (files_.slots.size() < n_slots) {
    const std::string path = SlotPath(options_.directory, files_.slots.size());
    const bool is_new =
        std::find(names.begin(), names.end(), path.substr(options_.directory.size() + 1)) == names.end();
    ASSIGN_OR_RETURN(std::unique_ptr<File> file, file_system.Open(path, /*create=*/true));
    ASSIGN_OR_RETURN(const uint64_t n_bytes, file->Size());
    absl::Status space =
        n_bytes < options_.segment_bytes ? file->Preallocate(options_.segment_bytes) : absl::OkStatus();
    if (space.ok() && is_new) space = file->SyncData();
    if (!space.ok()) {
      file.reset();
      if (is_new) RETURN_IF_ERROR(file_system.Remove(path));
      if (!absl::IsResourceExhausted(space) || files_.slots.size() < kSlotsMin) return space;
      spdlog::warn("the disk has room for {} of {} segments; using those", files_.slots.size(), n_slots);
      break;
    }
    files_.slots.push_back(std::move(file));
  }
  // Always: who created the files may have been killed before he did this.
  RETURN_IF_ERROR(file_system.SyncDirectory(options_.directory));
  slots_.resize(files_.slots.size());
  counters_.n_slots = slots_.size();
  return absl::OkStatus();
}

absl::Status SegmentLog::Recover(const NodeId& new_node) {
  std::vector<std::pair<uint32_t, RecoveredSegment>> segments;
  uint64_t n_unknown = 0;
  for (uint32_t slot = 0; slot < slots_.size(); ++slot) {
    bool damaged = false;
    absl::StatusOr<std::optional<RecoveredSegment>> segment =
        RecoverSegment(*files_.slots[slot], options_.segment_bytes, &damaged);
    if (!segment.ok()) return UnreadError(SlotPath(options_.directory, slot), segment.status());
    n_unknown += damaged ? 1 : 0;
    if (segment->has_value()) segments.emplace_back(slot, **std::move(segment));
  }
  counters_.n_damaged = n_unknown;
  std::sort(segments.begin(), segments.end(),
            [](const auto& a, const auto& b) { return a.second.sequence < b.second.sequence; });
  node_ = segments.empty() ? new_node : segments.back().second.node;
  for (const auto& [slot, segment] : segments) {
    if (segment.node != node_) return absl::FailedPreconditionError("the directory holds segments of two nodes");
    slots_[slot].sequence = segment.sequence;
    // All but the last were sealed, and durable, before the next was begun.
    const bool lost_footer = !segment.sealed && segment.sequence != segments.back().second.sequence;
    counters_.n_damaged += segment.damaged.size() + (lost_footer ? 1 : 0);
    // Past those that are damaged now and may be read again one day.
    next_sequence_ = segment.sequence + 1 + n_unknown;
    Replay(segment, slot, files_.keys.get(), index_);
  }
  if (files_.keys != nullptr) counters_.n_damaged += files_.keys->n_damaged();
  if (!segments.empty() && !segments.back().second.sealed) {
    auto& [slot, segment] = segments.back();
    active_ = slot;
    end_ = segment.end;
    link_ = segment.link;
    RETURN_IF_ERROR(MendCopies(segment));
    for (const Footer::Entry& entry : segment.footer.entries) AppendFooterEntry(entry.offset, entry.record, &footer_);
    n_footer_entries_ = static_cast<uint32_t>(segment.footer.entries.size());
    // Who wrote the last of them may have been killed before he did this. What is sealed was synced before.
    RETURN_IF_ERROR(active_file().SyncData());
    index_.MarkAllDurable();
    // A spare slot that was used before still holds what was evicted from it, and looks like any other. What was kept
    // of it lies in later segments; the rest is not to be used again, or there would have to be room for it. Unless the
    // process ended before all was copied: then what is left fits behind the copies.
    return FindSlot(0) < 0 ? EvictOldest(/*at_start=*/true) : absl::OkStatus();
  }
  index_.MarkAllDurable();
  // A segment is sealed before its successor takes the spare slot. If that was used before, it still holds what was
  // evicted from it: the oldest segment, whose keepers are durable in later ones.
  if (FindSlot(0) < 0) {
    index_.ForgetSegment(segments.front().second.sequence, absl::InfiniteFuture());
    slots_[segments.front().first].sequence = 0;
  }
  return Begin(static_cast<uint32_t>(FindSlot(0)));
}

absl::Status SegmentLog::MendCopies(RecoveredSegment& last) {
  std::vector<Footer::Entry>& entries = last.footer.entries;
  for (DamagedObject& damaged : last.damaged) {
    const Record& record = damaged.header.record;
    const std::optional<DiskEntry> original = index_.Find(record.head.key);
    if (!original.has_value() || original->place.sequence == last.sequence) continue;
    const absl::StatusOr<StoredRecord> stored = ReadStored(files_, *original);
    if (!stored.ok() || stored->header.record.payload_bytes() != record.payload_bytes() ||
        !PayloadMatches(damaged.header, stored->payload())) {
      continue;
    }
    RETURN_IF_ERROR(Write(damaged.offset + kSectorBytes, {stored->bytes.span().subspan(kSectorBytes)}));
    index_.Move(record.head.key, original->place, {last.sequence, active_, damaged.offset});
    const auto behind = std::find_if(entries.begin(), entries.end(),
                                     [&](const Footer::Entry& entry) { return entry.offset > damaged.offset; });
    entries.insert(behind, {damaged.offset, std::move(damaged.header.record)});
    --counters_.n_damaged;
  }
  return absl::OkStatus();
}

int SegmentLog::FindSlot(uint64_t sequence) const {
  for (size_t slot = 0; slot < slots_.size(); ++slot) {
    if (slots_[slot].sequence == sequence) return static_cast<int>(slot);
  }
  return -1;
}

std::vector<uint64_t> SegmentLog::Sequences() const {
  std::vector<uint64_t> sequences;
  for (const Slot& slot : slots_) {
    if (slot.sequence != 0) sequences.push_back(slot.sequence);
  }
  std::sort(sequences.begin(), sequences.end());
  return sequences;
}

absl::Status SegmentLog::Prepare(PendingRecord& pending) {
  if (files_.keys == nullptr) return absl::OkStatus();
  Record& record = pending.record;
  absl::Status status;
  if (record.kind == RecordKind::kDropNamespace) {
    // Also on a device that failed: it may still do this much.
    status = files_.keys->Shred(record.head.namespace_id);
  } else if (record.kind == RecordKind::kObject) {
    if (fenced_) return absl::UnavailableError("the device failed; it is only read");
    status = files_.keys->Encrypt(record, pending.bytes.span().subspan(kSectorBytes, record.payload_bytes()));
  }
  return status.ok() || fenced_ || absl::IsResourceExhausted(status) ? status : Fence(status);
}

void SegmentLog::RemoveUnusedKeys() {
  // Once per segment: until then little has gone.
  if (files_.keys == nullptr || fenced_ || !files_.keys->is_full()) return;
  if (std::exchange(n_begun_at_key_removal_, counters_.n_segments_begun) == counters_.n_segments_begun) return;
  const absl::Status status = files_.keys->RemoveUnused(index_.Namespaces());
  if (!status.ok()) spdlog::warn("keys that nothing needs were not all removed: {}", std::string(status.message()));
}

absl::Status SegmentLog::Append(std::span<PendingRecord> batch) {
  if (fenced_) return absl::UnavailableError("the device failed; it is only read");
  // Since a record found room.
  size_t n_begun = 0;
  while (!batch.empty()) {
    RETURN_IF_ERROR(EnsureSpare());
    size_t n = 0;
    uint64_t n_bytes = 0;
    for (; n < batch.size() && n_bytes < kFlushBytes && Fits(batch[n].record); ++n) {
      n_bytes += batch[n].record.disk_bytes();
      Gather(batch[n]);
    }
    RETURN_IF_ERROR(Flush());
    batch = batch.subspan(n);
    if (n > 0) n_begun = 0;
    if (batch.empty() || Fits(batch.front().record)) continue;
    LONGSHELF_CHECK(batch.front().record.disk_bytes() <= RecordBytesMax(options_.segment_bytes));
    if (n_begun++ == slots_.size()) return absl::ResourceExhaustedError("what is retained leaves no room on the disk");
    RETURN_IF_ERROR(SealActive());
    RETURN_IF_ERROR(Begin(static_cast<uint32_t>(FindSlot(0))));
  }
  return absl::OkStatus();
}

bool SegmentLog::Fits(const Record& record) const {
  std::string entry;
  AppendFooterEntry(end_, record, &entry);
  const uint64_t footer_bytes = PaddedBytes(footer_.size() + gathered_footer_.size() + entry.size());
  return end_ + record.disk_bytes() + footer_bytes + kSectorBytes <= options_.segment_bytes;
}

void SegmentLog::Gather(PendingRecord& pending) {
  if (gathered_.empty()) {
    gathered_at_ = end_;
    link_before_ = link_;
  }
  LONGSHELF_CHECK(pending.bytes.size() == pending.record.disk_bytes());
  RecordHeader header;
  header.sequence = slots_[active_].sequence;
  header.previous = link_;
  header.record = pending.record;
  header.chunk_crcs = std::exchange(pending.chunk_crcs, {});
  if (header.chunk_crcs.empty()) {
    header.chunk_crcs = ChunkCrcs(pending.bytes.span().subspan(kSectorBytes, pending.record.payload_bytes()));
  }
  const Sector sector = pending.bytes.span().first<kSectorBytes>();
  EncodeRecordHeader(header, sector);
  link_ = LinkOf(sector);
  gathered_.push_back({&pending, end_});
  AppendFooterEntry(end_, pending.record, &gathered_footer_);
  end_ += pending.record.disk_bytes();
}

absl::Status SegmentLog::Flush() {
  if (gathered_.empty()) return absl::OkStatus();
  std::vector<std::span<const std::byte>> pieces;
  for (const Gathered& each : gathered_) pieces.push_back(std::as_const(each.record->bytes).span());
  const absl::Status status = Write(gathered_at_, std::move(pieces));
  const std::vector<Gathered> gathered = std::exchange(gathered_, {});
  const std::string footer = std::exchange(gathered_footer_, {});
  if (!status.ok()) {
    end_ = gathered_at_;
    link_ = link_before_;
    return status;
  }
  footer_ += footer;
  n_footer_entries_ += static_cast<uint32_t>(gathered.size());
  for (const Gathered& each : gathered) {
    each.record->written = true;
    unsynced_bytes_ += each.record->record.disk_bytes();
    Apply(each);
  }
  return absl::OkStatus();
}

void SegmentLog::Apply(const Gathered& gathered) {
  const PendingRecord& pending = *gathered.record;
  const Record& record = pending.record;
  if (record.kind == RecordKind::kTouch) {
    for (const KeyNote& note : record.notes) {
      const std::optional<Place> place = index_.Extend(note.key, note.retain_until);
      if (place.has_value()) unsynced_.push_back({note.key, *place, std::nullopt, note.retain_until, /*is_note=*/true});
    }
    return;
  }
  // Nothing of what is dropped is there: it was kept out from when the drop was asked for.
  if (record.kind != RecordKind::kObject) return EndDrop(record, index_);
  const Place place{slots_[active_].sequence, active_, gathered.offset};
  if (pending.moved_from.has_value()) {
    index_.Move(record.head.key, *pending.moved_from, place);
  } else {
    index_.Insert(record.head, place);
  }
  const bool parked = record.head.object_class == ObjectClass::kParked;
  unsynced_.push_back(
      {record.head.key, place, pending.moved_from, parked ? record.head.retain_until : absl::InfinitePast()});
}

absl::Status SegmentLog::Write(uint64_t offset, std::vector<std::span<const std::byte>> pieces) {
  for (const std::span<const std::byte> piece : pieces) counters_.bytes_written += piece.size();
  const absl::Status status = active_file().WriteFully(offset, std::move(pieces));
  if (absl::IsResourceExhausted(status)) {
    ++counters_.n_no_space;
    return status;
  }
  return status.ok() ? status : Fence(status);
}

absl::Status SegmentLog::Sync() {
  if (fenced_) return absl::UnavailableError("the device failed; it is only read");
  if (const absl::Status status = active_file().SyncData(); !status.ok()) return Fence(status);
  for (const Unsynced& each : unsynced_) index_.MarkDurable(each.key, each.place, each.until);
  unsynced_.clear();
  unsynced_bytes_ = 0;
  return absl::OkStatus();
}

absl::Status SegmentLog::Fence(const absl::Status& why) {
  // A second fsync may succeed although the first one lost pages: what was written since the last good one is unknown.
  fenced_ = true;
  for (const Unsynced& each : unsynced_) {
    if (each.is_note) continue;
    if (each.moved_from.has_value()) {
      index_.Move(each.key, each.place, *each.moved_from);
    } else {
      index_.RemoveAt(each.key, each.place);
    }
  }
  index_.RevertToDurable();
  spdlog::error("the disk tier is only read from now on: {}", std::string(why.message()));
  unsynced_.clear();
  unsynced_bytes_ = 0;
  return Annotate(absl::UnavailableError(why.message()), "the device failed");
}

absl::Status SegmentLog::SealActive() {
  // First, or a footer could outlive a loss of power that a record it names did not.
  RETURN_IF_ERROR(Sync());
  AlignedBuffer footer(footer_.size());
  std::memset(footer.span().data(), 0, footer.size());
  std::memcpy(footer.span().data(), footer_.data(), footer_.size());
  Trailer trailer;
  trailer.node = node_;
  trailer.sequence = slots_[active_].sequence;
  trailer.footer_offset = end_;
  trailer.footer_bytes = footer_.size();
  trailer.n_entries = n_footer_entries_;
  trailer.footer_crc = FooterCrc(footer.span().first(footer_.size()));
  AlignedBuffer last(kSectorBytes);
  EncodeTrailer(trailer, last.span().first<kSectorBytes>());
  if (!footer_.empty()) RETURN_IF_ERROR(Write(end_, {footer.span()}));
  RETURN_IF_ERROR(Write(options_.segment_bytes - kSectorBytes, {last.span()}));
  return Sync();
}

absl::Status SegmentLog::Begin(uint32_t slot) {
  Superblock superblock;
  superblock.node = node_;
  superblock.sequence = next_sequence_;
  superblock.segment_bytes = options_.segment_bytes;
  if (files_.keys != nullptr) superblock.master_check = files_.keys->check();
  AlignedBuffer first(kSectorBytes);
  EncodeSuperblock(superblock, first.span().first<kSectorBytes>());
  AlignedBuffer last(kSectorBytes);
  std::memset(last.span().data(), 0, last.size());
  const uint32_t before = std::exchange(active_, slot);
  // The file's last segment ends for good before records of the new one lie in it.
  absl::Status status = Write(0, {first.span()});
  if (status.ok()) status = Write(options_.segment_bytes - kSectorBytes, {last.span()});
  if (status.ok()) status = Sync();
  if (!status.ok()) {
    active_ = before;
    return status;
  }
  slots_[slot].sequence = next_sequence_++;
  ++counters_.n_segments_begun;
  end_ = kSectorBytes;
  link_ = LinkOf(std::as_const(first).span().first<kSectorBytes>());
  footer_.clear();
  n_footer_entries_ = 0;
  return absl::OkStatus();
}

absl::Status SegmentLog::EnsureSpare() {
  while (FindSlot(0) < 0) RETURN_IF_ERROR(EvictOldest(/*at_start=*/false));
  return absl::OkStatus();
}

std::vector<DiskEntry> SegmentLog::Keepers(uint64_t sequence, absl::Time now, bool with_used) {
  std::vector<DiskEntry> retained;
  std::vector<DiskEntry> used;
  uint64_t n_bytes = 0;
  for (DiskEntry& entry : index_.LiveIn(sequence)) {
    if (entry.head.IsRetained(now)) {
      n_bytes += kSectorBytes + PaddedBytes(entry.head.payload_bytes);
      retained.push_back(std::move(entry));
    } else if (entry.used && with_used) {
      used.push_back(std::move(entry));
    }
  }
  const auto n_bytes_max = static_cast<uint64_t>(options_.keep_share * static_cast<double>(options_.segment_bytes));
  for (DiskEntry& entry : used) {
    n_bytes += kSectorBytes + PaddedBytes(entry.head.payload_bytes);
    if (n_bytes > n_bytes_max) break;
    retained.push_back(std::move(entry));
  }
  return retained;
}

absl::Status SegmentLog::EvictOldest(bool at_start) {
  const absl::Time now = clock_.WallNow();
  uint64_t oldest = 0;
  for (const Slot& slot : slots_) {
    if (slot.sequence != slots_[active_].sequence && (oldest == 0 || slot.sequence < oldest)) oldest = slot.sequence;
  }
  std::optional<uint64_t> n_forgotten;
  for (bool first = true; !n_forgotten.has_value(); first = false) {
    // Again for those that were retained while others were copied.
    for (const DiskEntry& entry : Keepers(oldest, now, first)) {
      RETURN_IF_ERROR(Keep(entry, at_start || !entry.head.IsRetained(now)));
    }
    // When this fails they are still in their old place.
    RETURN_IF_ERROR(Sync());
    n_forgotten = index_.ForgetSegment(oldest, at_start ? absl::InfiniteFuture() : now);
  }
  counters_.n_evicted += *n_forgotten;
  slots_[static_cast<size_t>(FindSlot(oldest))].sequence = 0;
  return absl::OkStatus();
}

absl::Status SegmentLog::Keep(const DiskEntry& entry, bool may_go) {
  absl::StatusOr<StoredRecord> stored = ReadStored(files_, entry);
  if (!stored.ok()) {
    ++counters_.n_damaged;
    index_.RemoveAt(entry.head.key, entry.place);
    return absl::OkStatus();
  }
  PendingRecord pending;
  pending.record.head = entry.head;
  pending.record.encryption = stored->header.record.encryption;
  pending.bytes = std::move(stored->bytes);
  pending.chunk_crcs = std::move(stored->header.chunk_crcs);  // which it was read by
  if (!Fits(pending.record)) {
    if (may_go) {
      if (entry.head.IsRetained(clock_.WallNow())) spdlog::error("no room for an object that is retained: it is lost");
      return absl::OkStatus();
    }
    // A segment's records fit into an empty one; what is left over after an error fits behind the copies of the rest.
    return Fence(absl::ResourceExhaustedError("no room for what is retained"));
  }
  pending.moved_from = entry.place;
  Gather(pending);
  RETURN_IF_ERROR(Flush());
  ++counters_.n_kept;
  return absl::OkStatus();
}

}  // namespace longshelf::kvstore::disk
