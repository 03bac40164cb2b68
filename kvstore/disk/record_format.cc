#include "record_format.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "byte_codec.h"
#include "common/check.h"
#include "crc32c.h"

namespace longshelf::kvstore::disk {
namespace {

constexpr uint64_t kSuperblockMagic = 0x4b4c425345474c53;  // "SLGESBLK"
constexpr uint64_t kRecordMagic = 0x44524f4345474c53;
constexpr uint64_t kTrailerMagic = 0x524c494152544c53;
constexpr uint64_t kKeyFileMagic = 0x454c494659454b53;
constexpr size_t kSealedBytes = kSectorBytes - sizeof(uint32_t);

// Fields, zeros, and the checksum of both at the end.
void Seal(const std::string& fields, Sector out) {
  LONGSHELF_CHECK(fields.size() <= kSealedBytes);
  std::memset(out.data(), 0, out.size());
  std::memcpy(out.data(), fields.data(), fields.size());
  const uint32_t crc = Crc32c(out.first(kSealedBytes));
  std::memcpy(out.data() + kSealedBytes, &crc, sizeof crc);
}

// The fields of a sector of this kind, or not OK.
absl::StatusOr<ByteReader> Unseal(ConstSector bytes, uint64_t magic, const char* what) {
  uint32_t crc = 0;
  std::memcpy(&crc, bytes.data() + kSealedBytes, sizeof crc);
  ByteReader reader(bytes.first(kSealedBytes));
  if (reader.Number<uint64_t>() != magic) return absl::DataLossError(absl::StrCat("not a ", what));
  if (crc != Crc32c(bytes.first(kSealedBytes))) return absl::DataLossError(absl::StrCat("a damaged ", what));
  if (const auto version = reader.Number<uint32_t>(); version != kFormatVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("a ", what, " of format ", version, ", expected ", kFormatVersion));
  }
  return reader;
}

ByteWriter Begin(uint64_t magic, std::string* out) {
  ByteWriter writer(out);
  writer.Number(magic);
  writer.Number(kFormatVersion);
  return writer;
}

void WriteKey(const ObjectKey& key, ByteWriter& writer) {
  writer.Bytes(key.hash);
  writer.Number(static_cast<uint8_t>(key.kind));
}

ObjectKey ReadKey(ByteReader& reader) {
  ObjectKey key;
  reader.Bytes(key.hash);
  const auto kind = reader.Number<uint8_t>();
  if (!IsObjectKind(kind)) reader.Fail();
  key.kind = static_cast<ObjectKind>(kind);
  return key;
}

void WriteNamespace(const std::string& name, ByteWriter& writer) {
  writer.Number(static_cast<uint8_t>(name.size()));
  writer.Bytes(name);
}

std::string ReadNamespace(ByteReader& reader) {
  const auto n = reader.Number<uint8_t>();
  if (n == 0 || n > kMaxNamespaceBytes) reader.Fail();
  return reader.ok() ? reader.Text(n) : std::string();
}

void WriteHead(const ObjectHead& head, ByteWriter& writer) {
  WriteKey(head.key, writer);
  writer.Bytes(head.parent);
  writer.Bytes(head.extent);
  writer.Number(head.depth_tokens);
  writer.Bytes(head.fingerprint);
  writer.Number(head.payload_bytes);
  writer.Bytes(head.digest);
  writer.Number(static_cast<uint8_t>(head.object_class));
  writer.Number(absl::ToUnixMillis(head.retain_until));
  WriteNamespace(head.namespace_id, writer);
}

ObjectHead ReadHead(ByteReader& reader) {
  ObjectHead head;
  head.key = ReadKey(reader);
  reader.Bytes(head.parent);
  reader.Bytes(head.extent);
  head.depth_tokens = reader.Number<uint32_t>();
  reader.Bytes(head.fingerprint);
  head.payload_bytes = reader.Number<uint64_t>();
  reader.Bytes(head.digest);
  const auto object_class = reader.Number<uint8_t>();
  head.retain_until = absl::FromUnixMillis(reader.Number<int64_t>());
  head.namespace_id = ReadNamespace(reader);
  if (head.depth_tokens == 0 || head.depth_tokens > kMaxDepthTokens || head.payload_bytes == 0 ||
      head.payload_bytes > kMaxPayloadBytes || object_class > static_cast<uint8_t>(ObjectClass::kParked)) {
    reader.Fail();
  }
  head.object_class = static_cast<ObjectClass>(object_class);
  return head;
}

void WriteGcm(const GcmHeader& gcm, ByteWriter& writer) {
  writer.Bytes(gcm.salt);
  writer.Number(gcm.count);
  writer.Bytes(gcm.tag);
}

GcmHeader ReadGcm(ByteReader& reader) {
  GcmHeader gcm;
  reader.Bytes(gcm.salt);
  gcm.count = reader.Number<uint64_t>();
  reader.Bytes(gcm.tag);
  return gcm;
}

void WriteObject(const Record& record, ByteWriter& writer) {
  writer.Number(static_cast<uint8_t>(record.encryption.has_value() ? 1 : 0));
  if (!record.encryption.has_value()) return WriteHead(record.head, writer);
  ObjectHead head = record.head;
  head.digest = record.encryption->digest;
  WriteHead(head, writer);
  writer.Bytes(record.encryption->key_id);
  WriteGcm(record.encryption->gcm, writer);
}

void ReadObject(ByteReader& reader, Record& record) {
  const auto encrypted = reader.Number<uint8_t>();
  if (encrypted > 1) reader.Fail();
  record.head = ReadHead(reader);
  if (encrypted == 0) return;
  ObjectEncryption& encryption = record.encryption.emplace();
  encryption.digest = std::exchange(record.head.digest, {});
  reader.Bytes(encryption.key_id);
  encryption.gcm = ReadGcm(reader);
}

void WriteRecord(const Record& record, ByteWriter& writer) {
  writer.Number(static_cast<uint8_t>(record.kind));
  switch (record.kind) {
    case RecordKind::kObject:
      return WriteObject(record, writer);
    case RecordKind::kDropNamespace:
      return WriteNamespace(record.head.namespace_id, writer);
    case RecordKind::kTouch:
    case RecordKind::kDrop:
      LONGSHELF_CHECK(record.notes.size() <= kMaxNotes);
      writer.Number(static_cast<uint8_t>(record.notes.size()));
      for (const KeyNote& note : record.notes) {
        WriteKey(note.key, writer);
        writer.Number(absl::ToUnixMillis(note.retain_until));
      }
  }
}

Record ReadRecord(ByteReader& reader) {
  Record record;
  record.kind = static_cast<RecordKind>(reader.Number<uint8_t>());
  switch (record.kind) {
    case RecordKind::kObject:
      ReadObject(reader, record);
      return record;
    case RecordKind::kDropNamespace:
      record.head.namespace_id = ReadNamespace(reader);
      return record;
    case RecordKind::kTouch:
    case RecordKind::kDrop: {
      const size_t n_notes = reader.Number<uint8_t>();
      if (n_notes == 0 || n_notes > kMaxNotes) reader.Fail();
      for (size_t i = 0; i < n_notes && reader.ok(); ++i) {
        KeyNote& note = record.notes.emplace_back();
        note.key = ReadKey(reader);
        note.retain_until = absl::FromUnixMillis(reader.Number<int64_t>());
      }
      return record;
    }
  }
  reader.Fail();
  return record;
}

}  // namespace

uint64_t ChunkBytes(uint64_t payload_bytes) { return payload_bytes > (32u << 20) ? 128 << 10 : 64 << 10; }

std::vector<uint32_t> ChunkCrcs(std::span<const std::byte> payload) {
  const uint64_t chunk = ChunkBytes(payload.size());
  std::vector<uint32_t> crcs;
  crcs.reserve((payload.size() + chunk - 1) / chunk);
  for (; payload.size() >= kCrcsAtOnce * chunk; payload = payload.subspan(kCrcsAtOnce * chunk)) {
    std::array<std::span<const std::byte>, kCrcsAtOnce> runs;
    for (size_t i = 0; i < kCrcsAtOnce; ++i) runs[i] = payload.subspan(i * chunk, chunk);
    const auto some = Crc32cs(runs);
    crcs.insert(crcs.end(), some.begin(), some.end());
  }
  for (; !payload.empty(); payload = payload.subspan(std::min<size_t>(chunk, payload.size()))) {
    crcs.push_back(Crc32c(payload.first(std::min<size_t>(chunk, payload.size()))));
  }
  return crcs;
}

bool PayloadMatches(const RecordHeader& header, std::span<const std::byte> payload) {
  if (payload.size() != header.record.payload_bytes()) return false;
  if (payload.empty()) return true;
  return ChunkCrcs(payload) == header.chunk_crcs &&
         (header.record.encryption.has_value() || DigestOf(payload) == header.record.head.digest);
}

void EncodeSuperblock(const Superblock& superblock, Sector out) {
  std::string fields;
  ByteWriter writer = Begin(kSuperblockMagic, &fields);
  writer.Bytes(superblock.node);
  writer.Number(superblock.sequence);
  writer.Number(superblock.segment_bytes);
  writer.Bytes(superblock.master_check);
  Seal(fields, out);
}

absl::StatusOr<Superblock> ParseSuperblock(ConstSector bytes) {
  absl::StatusOr<ByteReader> reader = Unseal(bytes, kSuperblockMagic, "superblock");
  if (!reader.ok()) return reader.status();
  Superblock superblock;
  reader->Bytes(superblock.node);
  superblock.sequence = reader->Number<uint64_t>();
  superblock.segment_bytes = reader->Number<uint64_t>();
  reader->Bytes(superblock.master_check);
  return superblock;
}

void EncodeRecordHeader(const RecordHeader& header, Sector out) {
  std::string fields;
  ByteWriter writer = Begin(kRecordMagic, &fields);
  writer.Number(header.sequence);
  writer.Number(header.previous);
  WriteRecord(header.record, writer);
  for (const uint32_t crc : header.chunk_crcs) writer.Number(crc);
  Seal(fields, out);
}

absl::StatusOr<RecordHeader> ParseRecordHeader(ConstSector bytes) {
  absl::StatusOr<ByteReader> reader = Unseal(bytes, kRecordMagic, "record");
  if (!reader.ok()) return reader.status();
  RecordHeader header;
  header.sequence = reader->Number<uint64_t>();
  header.previous = reader->Number<uint64_t>();
  header.record = ReadRecord(*reader);
  if (!reader->ok()) return absl::DataLossError("a record outside the limits");
  const uint64_t n_bytes = header.record.payload_bytes();
  header.chunk_crcs.resize((n_bytes + ChunkBytes(n_bytes) - 1) / ChunkBytes(n_bytes));
  for (uint32_t& crc : header.chunk_crcs) crc = reader->Number<uint32_t>();
  if (!reader->ok()) return absl::DataLossError("a record outside the limits");
  return header;
}

void EncodeTrailer(const Trailer& trailer, Sector out) {
  std::string fields;
  ByteWriter writer = Begin(kTrailerMagic, &fields);
  writer.Bytes(trailer.node);
  writer.Number(trailer.sequence);
  writer.Number(trailer.footer_offset);
  writer.Number(trailer.footer_bytes);
  writer.Number(trailer.n_entries);
  writer.Number(trailer.footer_crc);
  Seal(fields, out);
}

absl::StatusOr<Trailer> ParseTrailer(ConstSector bytes) {
  absl::StatusOr<ByteReader> reader = Unseal(bytes, kTrailerMagic, "trailer");
  if (!reader.ok()) return reader.status();
  Trailer trailer;
  reader->Bytes(trailer.node);
  trailer.sequence = reader->Number<uint64_t>();
  trailer.footer_offset = reader->Number<uint64_t>();
  trailer.footer_bytes = reader->Number<uint64_t>();
  trailer.n_entries = reader->Number<uint32_t>();
  trailer.footer_crc = reader->Number<uint32_t>();
  return trailer;
}

void EncodeKeyFile(const KeyFile& file, Sector out) {
  std::string fields;
  ByteWriter writer = Begin(kKeyFileMagic, &fields);
  writer.Bytes(file.master_check);
  WriteNamespace(file.namespace_id, writer);
  writer.Bytes(file.id);
  WriteGcm(file.gcm, writer);
  writer.Bytes(file.wrapped);
  Seal(fields, out);
}

absl::StatusOr<KeyFile> ParseKeyFile(ConstSector bytes) {
  absl::StatusOr<ByteReader> reader = Unseal(bytes, kKeyFileMagic, "key file");
  if (!reader.ok()) return reader.status();
  KeyFile file;
  reader->Bytes(file.master_check);
  file.namespace_id = ReadNamespace(*reader);
  reader->Bytes(file.id);
  file.gcm = ReadGcm(*reader);
  reader->Bytes(file.wrapped);
  if (!reader->ok()) return absl::DataLossError("a key file outside the limits");
  return file;
}

void AppendFooterEntry(uint64_t offset, const Record& record, std::string* footer) {
  ByteWriter writer(footer);
  writer.Number(offset);
  WriteRecord(record, writer);
}

absl::StatusOr<Footer> ParseFooter(std::span<const std::byte> bytes, const Trailer& trailer, uint64_t segment_bytes) {
  if (bytes.size() != trailer.footer_bytes || Crc32c(bytes) != trailer.footer_crc) {
    return absl::DataLossError("a damaged footer");
  }
  ByteReader reader(bytes);
  Footer footer;
  while (reader.left() > 0) {
    Footer::Entry entry;
    entry.offset = reader.Number<uint64_t>();
    entry.record = ReadRecord(reader);
    const bool in_place = entry.offset % kSectorBytes == 0 && entry.offset >= kSectorBytes &&
                          entry.offset <= segment_bytes && entry.record.disk_bytes() <= segment_bytes - entry.offset;
    if (!reader.ok() || !in_place) return absl::DataLossError("a footer entry outside the limits");
    footer.entries.push_back(std::move(entry));
  }
  if (footer.entries.size() != trailer.n_entries) return absl::DataLossError("a footer of another length");
  return footer;
}

uint32_t FooterCrc(std::span<const std::byte> footer) { return Crc32c(footer); }

uint64_t LinkOf(ConstSector sector) { return XXH3_64bits(sector.data(), sector.size()); }

}  // namespace longshelf::kvstore::disk
