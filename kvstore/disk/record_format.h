#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "aes_gcm.h"
#include "aligned_buffer.h"
#include "kvstore/object.h"

// The bytes of a segment file. All numbers are little-endian; every sector of structure carries its own CRC-32C.
//
//   superblock                   one sector: whose segment this is, and which
//   record header, payload       one sector, then the payload padded to sectors; again and again
//   footer                       every record's head and place, padded to sectors; only when sealed
//   trailer                      the last sector of the file: where the footer is
//
// A key file is one sector. Checksums are of the bytes as they lie on the device: of an encrypted payload's ciphertext.
//
// Parsers take any bytes: what they return is within the limits of object.h, and they allocate no more than their input
// holds.
namespace longshelf::kvstore::disk {

inline constexpr uint32_t kFormatVersion = 3;

using NodeId = std::array<uint8_t, 16>;

struct Superblock {
  NodeId node{};
  uint64_t sequence = 0;  // of segments as they were begun; larger is later
  uint64_t segment_bytes = 0;
  KeyCheck master_check{};  // of the key that the objects' keys are wrapped with; zero: they are not encrypted
};

using KeyId = std::array<uint8_t, 16>;

// A namespace's data key as it is kept: encrypted under the master key.
struct KeyFile {
  KeyCheck master_check{};
  std::string namespace_id;
  KeyId id{};
  GcmHeader gcm;
  std::array<uint8_t, SecretKey::kBytes> wrapped{};
};

// How a record's object is encrypted: one message, of its digest and its payload.
struct ObjectEncryption {
  KeyId key_id{};
  GcmHeader gcm;
  Digest digest{};  // of the plaintext, encrypted: it would tell short payloads
};

enum class RecordKind : uint8_t {
  kObject = 1,
  kTouch = 2,          // notes: objects whose retention was extended
  kDrop = 3,           // notes: objects that were removed
  kDropNamespace = 4,  // head.namespace_id: whose objects were all removed
};

struct KeyNote {
  ObjectKey key;
  absl::Time retain_until = absl::UnixEpoch();
};

// Notes of one record.
inline constexpr size_t kMaxNotes = 64;

struct Record {
  RecordKind kind = RecordKind::kObject;
  // kObject; retain_until in whole milliseconds. An encrypted record is parsed without the digest.
  ObjectHead head;
  std::optional<ObjectEncryption> encryption = std::nullopt;  // kObject
  std::vector<KeyNote> notes = {};                            // kTouch, kDrop

  uint64_t payload_bytes() const { return kind == RecordKind::kObject ? head.payload_bytes : 0; }
  // Header and padded payload.
  uint64_t disk_bytes() const { return kSectorBytes + PaddedBytes(payload_bytes()); }
};

struct RecordHeader {
  uint64_t sequence = 0;  // of its segment: a reused file still holds older records
  // Names the header before it, or the superblock: a record that a crash left behind does not continue what was
  // written over its predecessor.
  uint64_t previous = 0;
  Record record = {};
  std::vector<uint32_t> chunk_crcs = {};  // of the payload, per ChunkBytes
};

struct Footer {
  struct Entry {
    uint64_t offset = 0;
    Record record = {};
  };
  std::vector<Entry> entries;
};

struct Trailer {
  NodeId node{};
  uint64_t sequence = 0;
  uint64_t footer_offset = 0;
  uint64_t footer_bytes = 0;  // without padding
  uint32_t n_entries = 0;
  uint32_t footer_crc = 0;
};

using Sector = std::span<std::byte, kSectorBytes>;
using ConstSector = std::span<const std::byte, kSectorBytes>;

// 64 KiB; twice that above 32 MiB, so that the table of the largest payload fits into its header.
uint64_t ChunkBytes(uint64_t payload_bytes);
std::vector<uint32_t> ChunkCrcs(std::span<const std::byte> payload);
// Whether the payload is what the header says, by its checksums and, where that can be told without a key, its digest.
bool PayloadMatches(const RecordHeader& header, std::span<const std::byte> payload);

void EncodeSuperblock(const Superblock& superblock, Sector out);
void EncodeRecordHeader(const RecordHeader& header, Sector out);
void EncodeTrailer(const Trailer& trailer, Sector out);
void EncodeKeyFile(const KeyFile& file, Sector out);
void AppendFooterEntry(uint64_t offset, const Record& record, std::string* footer);

// DATA_LOSS: not one, or damaged. FAILED_PRECONDITION: a whole one, of another format.
absl::StatusOr<Superblock> ParseSuperblock(ConstSector bytes);
absl::StatusOr<RecordHeader> ParseRecordHeader(ConstSector bytes);
absl::StatusOr<Trailer> ParseTrailer(ConstSector bytes);
absl::StatusOr<KeyFile> ParseKeyFile(ConstSector bytes);
absl::StatusOr<Footer> ParseFooter(std::span<const std::byte> bytes, const Trailer& trailer, uint64_t segment_bytes);

uint32_t FooterCrc(std::span<const std::byte> footer);

// What RecordHeader::previous of the next record is, after this sector.
uint64_t LinkOf(ConstSector sector);

}  // namespace longshelf::kvstore::disk
