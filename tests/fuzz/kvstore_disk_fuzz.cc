// Every parser of a segment file. The first byte chooses, the rest is the input; structure behind a checksum is reached
// by inputs whose checksums are made right first (second byte odd). What is accepted is within the limits of object.h
// and inside the segment, and can be written again.
#include <cstring>
#include <utility>

#include "common/check.h"
#include "disk/crc32c.h"
#include "disk/record_format.h"
#include "fuzz_target.h"
#include "objects.h"

namespace longshelf::kvstore::disk {
namespace {

enum Target : uint8_t { kSuperblock, kRecordHeader, kTrailer, kFooter, kKeyFile, kTargets };
constexpr size_t kPrefixBytes = 2;
constexpr uint64_t kSegmentBytes = 16 << 20;

void CheckRecord(const Record& record) {
  switch (record.kind) {
    case RecordKind::kObject:
      LONGSHELF_CHECK(record.head.payload_bytes >= 1 && record.head.payload_bytes <= kMaxPayloadBytes);
      LONGSHELF_CHECK(record.head.depth_tokens >= 1 && record.head.depth_tokens <= kMaxDepthTokens);
      LONGSHELF_CHECK(!record.head.namespace_id.empty() && record.head.namespace_id.size() <= kMaxNamespaceBytes);
      break;
    case RecordKind::kDropNamespace:
      LONGSHELF_CHECK(!record.head.namespace_id.empty() && record.head.namespace_id.size() <= kMaxNamespaceBytes);
      break;
    default:
      LONGSHELF_CHECK(!record.notes.empty() && record.notes.size() <= kMaxNotes);
  }
}

void ParseSector(Target target, std::span<const std::byte> input, bool fix_checksum) {
  AlignedBuffer buffer(kSectorBytes);
  std::memset(buffer.span().data(), 0, buffer.size());
  std::memcpy(buffer.span().data(), input.data(), std::min(input.size(), buffer.size()));
  if (fix_checksum) {
    const uint32_t crc = Crc32c(buffer.span().first(kSectorBytes - sizeof(uint32_t)));
    std::memcpy(buffer.span().data() + kSectorBytes - sizeof crc, &crc, sizeof crc);
  }
  const ConstSector sector = std::as_const(buffer).span().first<kSectorBytes>();
  if (target == kSuperblock) {
    if (const auto parsed = ParseSuperblock(sector); parsed.ok()) {
      AlignedBuffer again(kSectorBytes);
      EncodeSuperblock(*parsed, again.span().first<kSectorBytes>());
      LONGSHELF_CHECK(ParseSuperblock(std::as_const(again).span().first<kSectorBytes>())->sequence == parsed->sequence);
    }
  } else if (target == kTrailer) {
    (void)ParseTrailer(sector);
  } else if (target == kKeyFile) {
    if (const auto parsed = ParseKeyFile(sector); parsed.ok()) {
      LONGSHELF_CHECK(!parsed->namespace_id.empty() && parsed->namespace_id.size() <= kMaxNamespaceBytes);
    }
  } else if (const auto parsed = ParseRecordHeader(sector); parsed.ok()) {
    CheckRecord(parsed->record);
    LONGSHELF_CHECK(parsed->chunk_crcs.size() <= kSectorBytes / sizeof(uint32_t));
    // What was parsed can be written, and is then the same.
    AlignedBuffer again(kSectorBytes);
    EncodeRecordHeader(*parsed, again.span().first<kSectorBytes>());
    const auto twice = ParseRecordHeader(std::as_const(again).span().first<kSectorBytes>());
    LONGSHELF_CHECK(twice.ok() && twice->record.head.key == parsed->record.head.key);
    LONGSHELF_CHECK(twice->record.encryption.has_value() == parsed->record.encryption.has_value());
  }
}

void ParseFooterBytes(std::span<const std::byte> input, bool fix_checksum) {
  Trailer trailer;
  trailer.footer_bytes = input.size();
  if (fix_checksum) trailer.footer_crc = FooterCrc(input);
  for (const uint32_t n_entries : {0u, 1u, 2u, 3u}) {
    trailer.n_entries = n_entries;
    const auto footer = ParseFooter(input, trailer, kSegmentBytes);
    if (!footer.ok()) continue;
    LONGSHELF_CHECK(footer->entries.size() == n_entries);
    for (const Footer::Entry& entry : footer->entries) {
      CheckRecord(entry.record);
      LONGSHELF_CHECK(entry.offset + entry.record.disk_bytes() <= kSegmentBytes);
    }
  }
}

std::string Input(Target target, std::span<const std::byte> bytes) {
  std::string input{static_cast<char>(target), '\1'};
  input.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return input;
}

std::vector<std::string> Corpus() {
  std::vector<std::string> corpus;
  AlignedBuffer buffer(kSectorBytes);
  const Sector sector = buffer.span().first<kSectorBytes>();
  EncodeSuperblock({NodeId{1}, 5, kSegmentBytes, {}}, sector);
  corpus.push_back(Input(kSuperblock, sector));
  EncodeTrailer({NodeId{1}, 5, 4096, 100, 1, 77}, sector);
  corpus.push_back(Input(kTrailer, sector));
  EncodeKeyFile({.master_check = {1}, .namespace_id = "ns", .id = {2}, .gcm = {}}, sector);
  corpus.push_back(Input(kKeyFile, sector));
  std::string footer;
  for (const RecordKind kind :
       {RecordKind::kObject, RecordKind::kTouch, RecordKind::kDrop, RecordKind::kDropNamespace}) {
    RecordHeader header;
    const Object object = MakeObject(3, 2, 256, 70000);
    header.record.kind = kind;
    header.record.head = object.head;
    if (kind == RecordKind::kTouch || kind == RecordKind::kDrop) header.record.notes.resize(3);
    if (kind == RecordKind::kObject) header.chunk_crcs = ChunkCrcs(object.payload);
    EncodeRecordHeader(header, sector);
    corpus.push_back(Input(kRecordHeader, sector));
    if (kind == RecordKind::kObject) {
      header.record.encryption.emplace();
      EncodeRecordHeader(header, sector);
      corpus.push_back(Input(kRecordHeader, sector));
    }
    if (kind != RecordKind::kDrop) AppendFooterEntry(kSectorBytes, header.record, &footer);
  }
  corpus.push_back(Input(kFooter, std::as_bytes(std::span(footer))));
  return corpus;
}

}  // namespace
}  // namespace longshelf::kvstore::disk

namespace longshelf::fuzz {

Seeds MakeSeeds() { return {.inputs = kvstore::disk::Corpus()}; }

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longshelf::kvstore::disk;  // the entry point has no namespace of its own
  if (size < kPrefixBytes) return 0;
  const auto target = static_cast<Target>(data[0] % kTargets);
  const bool fix_checksum = data[1] % 2 == 1;
  const auto input = std::as_bytes(std::span(data, size)).subspan(kPrefixBytes);
  if (target == kFooter) {
    ParseFooterBytes(input, fix_checksum);
  } else {
    ParseSector(target, input, fix_checksum);
  }
  return 0;
}
