#include "disk/record_format.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>

#include "disk/crc32c.h"
#include "disk_fixture.h"
#include "memory_file_system.h"

namespace longshelf::kvstore::disk {
namespace {

std::span<const std::byte> BytesOf(const char* text) { return std::as_bytes(std::span(text, std::strlen(text))); }

TEST(Crc32c, IsTheOneOfTheStandardOnEveryPath) {
  EXPECT_EQ(Crc32c(BytesOf("123456789")), 0xe3069283u);
  const auto bytes = RandomBytes(1, 1000);
  for (size_t n = 0; n < bytes.size(); ++n) {
    ASSERT_EQ(Crc32c(std::span(bytes).first(n)), internal::PortableCrc32c(std::span(bytes).first(n))) << n;
  }
  for (size_t n = 0; n < 200; ++n) {
    std::array<std::span<const std::byte>, kCrcsAtOnce> runs;
    for (size_t i = 0; i < kCrcsAtOnce; ++i) runs[i] = std::span(bytes).subspan(i * 201 + 1, n);
    const auto crcs = Crc32cs(runs);
    for (size_t i = 0; i < kCrcsAtOnce; ++i) ASSERT_EQ(crcs[i], internal::PortableCrc32c(runs[i])) << n << " " << i;
  }
}

TEST(ChunkCrcs, AreThoseOfTheChunksInOrder) {
  for (const size_t n : {size_t{1}, size_t{64} << 10, size_t{255} << 10, size_t{256} << 10, (size_t{520} << 10) + 7}) {
    const auto payload = RandomBytes(2, n);
    std::vector<uint32_t> expected;
    for (size_t at = 0; at < n; at += ChunkBytes(n)) {
      expected.push_back(Crc32c(std::span(payload).subspan(at, std::min<size_t>(ChunkBytes(n), n - at))));
    }
    EXPECT_EQ(ChunkCrcs(payload), expected) << n;
  }
}

ObjectHead FullHead() {
  ObjectHead head = Parked(MakeObject(7, 6, 512, 150000), absl::FromUnixMillis(1234567890123)).head;
  head.namespace_id = std::string(kMaxNamespaceBytes, 'n');
  return head;
}

RecordHeader FullHeader() {
  RecordHeader header{.sequence = 9, .previous = 0x1234567890abcdef};
  header.record.head = FullHead();
  header.chunk_crcs = ChunkCrcs(MakeObject(7, 6, 512, 150000).payload);
  return header;
}

ObjectEncryption FullEncryption() {
  ObjectEncryption encryption{.key_id = {1, 2, 3}, .gcm = {}, .digest = {4, 5}};
  encryption.gcm = {.salt = {6, 7}, .count = 0x123456789abcdef0, .tag = {8, 9, 10}};
  return encryption;
}

KeyFile FullKeyFile() {
  KeyFile file{.master_check = {1, 2}, .namespace_id = std::string(kMaxNamespaceBytes, 'n'), .id = {3}, .gcm = {}};
  file.gcm = FullEncryption().gcm;
  file.wrapped[31] = 77;
  return file;
}

TEST(RecordFormat, GivesBackHowAnObjectIsEncryptedAndNotItsDigest) {
  AlignedBuffer buffer(kSectorBytes);
  const Sector sector = buffer.span().first<kSectorBytes>();
  RecordHeader header = FullHeader();
  header.record.encryption = FullEncryption();
  EncodeRecordHeader(header, sector);
  const Record parsed = ParseRecordHeader(sector)->record;
  ASSERT_TRUE(parsed.encryption.has_value());
  EXPECT_EQ(parsed.encryption->key_id, FullEncryption().key_id);
  EXPECT_EQ(parsed.encryption->digest, FullEncryption().digest);
  EXPECT_EQ(parsed.encryption->gcm.salt, FullEncryption().gcm.salt);
  EXPECT_EQ(parsed.encryption->gcm.count, FullEncryption().gcm.count);
  EXPECT_EQ(parsed.encryption->gcm.tag, FullEncryption().gcm.tag);
  EXPECT_EQ(parsed.head.namespace_id, FullHead().namespace_id);
  EXPECT_EQ(parsed.head.digest, Digest{}) << "it is not to be told without the key";
  const Digest digest = FullHead().digest;
  const auto written = std::search(sector.begin(), sector.end(), digest.begin(), digest.end(),
                                   [](std::byte a, uint8_t b) { return std::to_integer<uint8_t>(a) == b; });
  EXPECT_EQ(written, sector.end());
}

TEST(RecordFormat, GivesBackAKeyFile) {
  AlignedBuffer buffer(kSectorBytes);
  const Sector sector = buffer.span().first<kSectorBytes>();
  EncodeKeyFile(FullKeyFile(), sector);
  const KeyFile parsed = *ParseKeyFile(sector);
  EXPECT_EQ(parsed.master_check, FullKeyFile().master_check);
  EXPECT_EQ(parsed.namespace_id, FullKeyFile().namespace_id);
  EXPECT_EQ(parsed.id, FullKeyFile().id);
  EXPECT_EQ(parsed.gcm.tag, FullKeyFile().gcm.tag);
  EXPECT_EQ(parsed.wrapped, FullKeyFile().wrapped);
}

TEST(RecordFormat, GivesBackEveryField) {
  AlignedBuffer buffer(kSectorBytes);
  const Sector sector = buffer.span().first<kSectorBytes>();
  const RecordHeader header = FullHeader();
  EncodeRecordHeader(header, sector);
  const RecordHeader parsed = *ParseRecordHeader(sector);
  EXPECT_EQ(parsed.sequence, header.sequence);
  EXPECT_EQ(parsed.previous, header.previous);
  EXPECT_EQ(parsed.chunk_crcs, header.chunk_crcs);
  const ObjectHead& head = parsed.record.head;
  const ObjectHead expected = FullHead();
  EXPECT_EQ(head.key, expected.key);
  EXPECT_EQ(head.parent, expected.parent);
  EXPECT_EQ(head.depth_tokens, expected.depth_tokens);
  EXPECT_EQ(head.fingerprint, expected.fingerprint);
  EXPECT_EQ(head.payload_bytes, expected.payload_bytes);
  EXPECT_EQ(head.digest, expected.digest);
  EXPECT_EQ(head.object_class, expected.object_class);
  EXPECT_EQ(head.retain_until, expected.retain_until);
  EXPECT_EQ(head.namespace_id, expected.namespace_id);
}

TEST(RecordFormat, TheHeaderOfTheLargestPayloadFitsIntoASector) {
  RecordHeader header{.sequence = 1};
  header.record.head = FullHead();
  header.record.head.payload_bytes = kMaxPayloadBytes;
  header.record.encryption = FullEncryption();
  header.chunk_crcs.resize(kMaxPayloadBytes / ChunkBytes(kMaxPayloadBytes));
  AlignedBuffer buffer(kSectorBytes);
  EncodeRecordHeader(header, buffer.span().first<kSectorBytes>());
  EXPECT_TRUE(ParseRecordHeader(buffer.span().first<kSectorBytes>()).ok());
}

// Calls parses(sector) with each bit flipped, one after another; none may parse.
void FlipEveryBit(std::span<std::byte> bytes, const std::function<bool()>& parses) {
  ASSERT_TRUE(parses());
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    ASSERT_FALSE(parses()) << "bit " << bit;
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
  }
}

TEST(RecordFormat, EveryFlippedBitOfEverySectorIsDetected) {
  AlignedBuffer buffer(kSectorBytes);
  const Sector sector = buffer.span().first<kSectorBytes>();
  EncodeSuperblock({NodeId{1, 2}, 5, 1 << 20, {}}, sector);
  FlipEveryBit(sector, [&] { return ParseSuperblock(sector).ok(); });
  EncodeRecordHeader(FullHeader(), sector);
  FlipEveryBit(sector, [&] { return ParseRecordHeader(sector).ok(); });
  EncodeTrailer({NodeId{1, 2}, 5, 4096, 1000, 3, 77}, sector);
  FlipEveryBit(sector, [&] { return ParseTrailer(sector).ok(); });
  EncodeKeyFile(FullKeyFile(), sector);
  FlipEveryBit(sector, [&] { return ParseKeyFile(sector).ok(); });
}

TEST(RecordFormat, EveryFlippedBitOfAFooterIsDetected) {
  std::string footer;
  for (uint64_t i = 0; i < 4; ++i) {
    Record record;
    record.head = FullHead();
    if (i == 3) record = Record{.kind = RecordKind::kTouch, .head = {}, .notes = std::vector<KeyNote>(5)};
    if (i == 2) record.encryption = FullEncryption();
    for (KeyNote& note : record.notes) note.key = BlockKeyOf(i);
    AppendFooterEntry(kSectorBytes * (1 + 38 * i), record, &footer);
  }
  Trailer trailer{.sequence = 5, .footer_offset = 1 << 19};
  trailer.footer_bytes = footer.size();
  trailer.n_entries = 4;
  const std::span<std::byte> bytes = std::as_writable_bytes(std::span(footer));
  trailer.footer_crc = FooterCrc(bytes);
  FlipEveryBit(bytes, [&] { return ParseFooter(bytes, trailer, 1 << 20).ok(); });
}

TEST(RecordFormat, FlippedBitsOfPayloadsAreDetected) {
  std::mt19937_64 random(3);
  Object object = MakeObject(7, 6, 512, 70001);
  RecordHeader header;
  header.record.head = object.head;
  header.chunk_crcs = ChunkCrcs(object.payload);
  ASSERT_TRUE(PayloadMatches(header, object.payload));
  for (int round = 0; round < 20000; ++round) {
    std::vector<uint64_t> bits(1 + random() % 64);
    for (uint64_t& bit : bits) bit = random() % (object.payload.size() * 8);
    const auto flip = [&] {
      for (const uint64_t bit : bits) object.payload[bit / 8] ^= std::byte{1} << (bit % 8);
    };
    std::sort(bits.begin(), bits.end());
    bits.erase(std::unique(bits.begin(), bits.end()), bits.end());
    flip();
    ASSERT_FALSE(PayloadMatches(header, object.payload)) << round;
    flip();
  }
}

// Whatever is flipped on the device: a start succeeds, and what is served is what was put.
TEST(SegmentFiles, NoBitFlippedOnDiskIsEverServed) {
  std::mt19937_64 random(11);
  DatedClock clock;
  int n_refused = 0;
  for (int round = 0; round < 300; ++round) {
    MemoryFileSystem files;
    constexpr uint64_t kObjects = 20;
    {
      auto tier = std::move(*OpenTier(SmallDisk(), files, clock));
      for (uint64_t id = 0; id < kObjects; ++id) Put(*tier, MakeObject(id, 1000, 256, 9000 + 800 * id), nullptr);
    }
    const std::vector<std::string> paths = files.Paths();
    for (uint64_t i = 0; i <= random() % 64; ++i) {
      std::vector<std::byte>& bytes = files.Bytes(paths[random() % 2]);
      // Structure is small: half of the flips go where it is.
      const uint64_t at = random() % 2 == 0 ? random() % bytes.size() : (random() % 64) * 4096 + random() % 300;
      bytes[at] ^= std::byte{1} << (random() % 8);
    }
    auto tier = OpenTier(SmallDisk(), files, clock);
    ASSERT_TRUE(tier.ok()) << tier.status();
    for (uint64_t id = 0; id < kObjects; ++id) {
      const auto got = Get(**tier, BlockKeyOf(id));
      if (got.ok()) {
        ASSERT_EQ(*got, MakeObject(id, 1000, 256, 9000 + 800 * id).payload) << "round " << round;
      } else {
        ++n_refused;
      }
    }
  }
  EXPECT_GT(n_refused, 100) << "the flips must have hit something";
}

}  // namespace
}  // namespace longshelf::kvstore::disk
