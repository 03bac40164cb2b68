// Objects that are encrypted on disk: what is to be read there, by whom, and until when.
#include "disk/data_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <future>
#include <map>
#include <set>
#include <tuple>

#include "disk_fixture.h"
#include "memory_file_system.h"

namespace longshelf::kvstore::disk {
namespace {

using ::testing::HasSubstr;
using Operation = MemoryFileSystem::Operation;
using Files = std::map<std::string, std::vector<std::byte>>;
constexpr uint64_t kRoot = 1u << 30;
constexpr size_t kPayload = 30000;

class DataKeysTest : public ::testing::Test {
 protected:
  void Start(const DiskOptions& options = SmallDisk()) {
    tier_.reset();
    auto tier = OpenTier(options, files_, clock_, MasterKey(1));
    ASSERT_TRUE(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
  }

  Object In(const std::string& namespace_id, uint64_t id, size_t n_bytes = kPayload) {
    Object object = MakeObject(id, kRoot, 256, n_bytes);
    object.head.namespace_id = namespace_id;
    return object;
  }
  absl::Status PutRetained(const std::string& namespace_id, uint64_t id) {
    return PutAndWait(*tier_, Parked(In(namespace_id, id), clock_.WallNow() + absl::Hours(1)));
  }
  absl::Status DropAndWait(const std::string& namespace_id) {
    Answer dropped;
    tier_->DropNamespace(namespace_id, dropped.Done());
    return dropped.Wait();
  }
  absl::StatusCode CodeOf(uint64_t id) { return Get(*tier_, BlockKeyOf(id)).status().code(); }
  bool IsServed(uint64_t id, size_t n_bytes = kPayload) {
    const auto got = Get(*tier_, BlockKeyOf(id));
    const std::vector<std::byte> expected = In("", id, n_bytes).payload;
    return got.ok() && got->size() == expected.size() && std::memcmp(got->data(), expected.data(), n_bytes) == 0;
  }

  static std::string KeyPath(const std::string& namespace_id) {
    return "/disk/keys/" + ShortHashHex(namespace_id) + ".key";
  }
  bool HasKeyFile(const std::string& namespace_id) {
    const std::vector<std::string> paths = files_.Paths();
    return std::find(paths.begin(), paths.end(), KeyPath(namespace_id)) != paths.end();
  }
  Files Copy() {
    Files copy;
    for (const std::string& path : files_.Paths()) copy[path] = files_.Bytes(path);
    return copy;
  }
  static std::string SegmentPath(uint32_t slot) { return "/disk/segment-00000" + std::to_string(slot); }
  std::span<std::byte> At(const Place& place, size_t n_bytes) {
    return std::span(files_.Bytes(SegmentPath(place.slot))).subspan(place.offset, n_bytes);
  }
  RecordHeader HeaderAt(const Place& place) {
    return *ParseRecordHeader(ConstSector(At(place, kSectorBytes).first<kSectorBytes>()));
  }
  // Changes a record where it lies, and makes its checksums those of what it is then.
  void Rewrite(const Place& place, const std::function<void(RecordHeader&, std::span<std::byte> payload)>& change) {
    RecordHeader header = HeaderAt(place);
    const std::span<std::byte> payload = At(place, kSectorBytes + header.record.payload_bytes()).subspan(kSectorBytes);
    change(header, payload);
    header.chunk_crcs = ChunkCrcs(payload);
    EncodeRecordHeader(header, At(place, kSectorBytes).first<kSectorBytes>());
  }
  Place PlaceOf(uint64_t id) { return tier_->index().Find(BlockKeyOf(id))->place; }

  MemoryFileSystem files_;
  DatedClock clock_;
  std::unique_ptr<DiskTier> tier_;
};

TEST_F(DataKeysTest, GivesBackWhatWasPutBeforeAndAfterARestart) {
  Start();
  const std::vector<size_t> sizes = {1, 15, 16, 17, 4095, 4096, 4097, 65536, 65537, 200000};
  for (const size_t n : sizes) ASSERT_TRUE(PutAndWait(*tier_, In(n % 2 == 0 ? "even" : "odd", n, n)).ok());
  for (int restart = 0; restart < 3; ++restart) {
    for (const size_t n : sizes) {
      EXPECT_TRUE(IsServed(n, n)) << n;
      EXPECT_EQ(tier_->index().Find(BlockKeyOf(n))->head.digest, In("", n, n).head.digest);
    }
    Start();
  }
  EXPECT_EQ(tier_->Stats().log.n_damaged, 0u);
}

// How often any of the parts of the payloads, or one of their digests, is in any file.
size_t CountPlaintext(const Files& files, std::span<const Object> objects) {
  const auto contains = [&](std::span<const std::byte> part) {
    return std::any_of(files.begin(), files.end(), [part](const auto& file) {
      return std::search(file.second.begin(), file.second.end(), part.begin(), part.end()) != file.second.end();
    });
  };
  size_t n_found = 0;
  for (const Object& object : objects) {
    n_found += contains(std::as_bytes(std::span(object.head.digest))) ? 1 : 0;
    for (size_t at = 0; at < object.payload.size(); at += 5000) {
      const size_t n = std::min<size_t>(24, object.payload.size() - at);
      n_found += contains(std::span(object.payload).subspan(at, n)) ? 1 : 0;
    }
  }
  return n_found;
}

TEST_F(DataKeysTest, NothingOfAPayloadIsOnDisk) {
  const std::vector<Object> objects = {In("ns", 1, 16), In("ns", 2, 40000), In("other", 3, 20)};
  MemoryFileSystem clear;
  {
    auto tier = std::move(*OpenTier(SmallDisk(), clear, clock_));
    for (const Object& object : objects) ASSERT_TRUE(PutAndWait(*tier, object).ok());
  }
  Files clear_files;
  for (const std::string& path : clear.Paths()) clear_files[path] = clear.Bytes(path);
  EXPECT_EQ(CountPlaintext(clear_files, objects), 3u + 1 + 8 + 1) << "the search must find what is there";
  Start();
  for (const Object& object : objects) ASSERT_TRUE(PutAndWait(*tier_, object).ok());
  // Into a sealed segment, with a footer, and on.
  for (uint64_t id = 100; id < 120; ++id) ASSERT_TRUE(PutAndWait(*tier_, In("ns", id)).ok());
  ASSERT_TRUE(IsServed(2, 40000));
  tier_.reset();
  EXPECT_EQ(CountPlaintext(Copy(), objects), 0u);
}

TEST_F(DataKeysTest, NoKeyFileHoldsAKeyInTheClear) {
  Start();
  ASSERT_TRUE(PutRetained("ns", 1).ok());
  KeyFile file = *ParseKeyFile(std::span(files_.Bytes(KeyPath("ns"))).first<kSectorBytes>());
  const std::array<uint8_t, SecretKey::kBytes> wrapped = file.wrapped;
  // Under the wrapped bytes as a key, nothing opens.
  const DiskEntry entry = *tier_->index().Find(BlockKeyOf(1));
  RecordHeader header = HeaderAt(entry.place);
  Digest digest = header.record.encryption->digest;
  DecryptUnverified(SecretKey(wrapped), std::as_writable_bytes(std::span(digest)), header.record.encryption->gcm);
  EXPECT_NE(digest, entry.head.digest);
  EXPECT_EQ(file.namespace_id, "ns");
  EXPECT_EQ(file.master_check, CheckOf(*MasterKey(1)));
}

TEST_F(DataKeysTest, AnotherKeyOrNoneIsRefusedAndChangesNothing) {
  Start();
  for (uint64_t id = 0; id < 12; ++id) ASSERT_TRUE(PutRetained(id % 2 == 0 ? "even" : "odd", id).ok());
  tier_.reset();
  const Files before = Copy();
  const absl::Status wrong = OpenTier(SmallDisk(), files_, clock_, MasterKey(2)).status();
  EXPECT_EQ(wrong.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(wrong.message()), HasSubstr("--disk-key-file holds another key"));
  const absl::Status none = OpenTier(SmallDisk(), files_, clock_).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(none.message()), HasSubstr("with --disk-key-file"));
  EXPECT_TRUE(Copy() == before);
  Start();
  for (uint64_t id = 0; id < 12; ++id) EXPECT_TRUE(IsServed(id)) << id;
  EXPECT_EQ(tier_->Stats().log.n_damaged, 0u);
}

TEST_F(DataKeysTest, AnotherKeyIsRefusedAlsoWhenOnlyKeyFilesAreLeft) {
  Start();
  ASSERT_TRUE(PutRetained("ns", 1).ok());
  tier_.reset();
  for (const std::string& path : files_.Paths()) {
    if (path != KeyPath("ns")) (void)files_.Remove(path);
  }
  const absl::Status wrong = OpenTier(SmallDisk(), files_, clock_, MasterKey(2)).status();
  EXPECT_EQ(wrong.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(wrong.message()), HasSubstr("another master key"));
  EXPECT_EQ(files_.Paths(), (std::vector<std::string>{KeyPath("ns")}));
}

TEST_F(DataKeysTest, AKeyForWhatIsNotEncryptedIsRefused) {
  {
    auto tier = std::move(*OpenTier(SmallDisk(), files_, clock_));
    ASSERT_TRUE(PutAndWait(*tier, In("ns", 1)).ok());
  }
  const Files before = Copy();
  const absl::Status status = OpenTier(SmallDisk(), files_, clock_, MasterKey(1)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("is not encrypted"));
  EXPECT_TRUE(Copy() == before);
  EXPECT_TRUE(Get(**OpenTier(SmallDisk(), files_, clock_), BlockKeyOf(1)).ok());
}

TEST_F(DataKeysTest, WhateverIsChangedUnderRightChecksumsIsQuarantined) {
  using Change = std::function<void(RecordHeader&, std::span<std::byte>)>;
  const std::vector<std::pair<const char*, Change>> changes = {
      {"the first byte", [](RecordHeader&, std::span<std::byte> payload) { payload.front() ^= std::byte{1}; }},
      {"the last byte", [](RecordHeader&, std::span<std::byte> payload) { payload.back() ^= std::byte{0x80}; }},
      {"tag", [](RecordHeader& header, auto) { header.record.encryption->gcm.tag[15] ^= 1; }},
      {"salt", [](RecordHeader& header, auto) { header.record.encryption->gcm.salt[0] ^= 1; }},
      {"count", [](RecordHeader& header, auto) { header.record.encryption->gcm.count ^= 1; }},
      {"digest", [](RecordHeader& header, auto) { header.record.encryption->digest[3] ^= 1; }},
      {"extent", [](RecordHeader& header, auto) { header.record.head.extent[0] ^= 1; }},
      {"parent", [](RecordHeader& header, auto) { header.record.head.parent[0] ^= 1; }},
      {"depth", [](RecordHeader& header, auto) { header.record.head.depth_tokens ^= 1; }},
      {"fingerprint", [](RecordHeader& header, auto) { header.record.head.fingerprint[0] ^= 1; }},
      {"the plaintext instead",
       [this](RecordHeader& header, std::span<std::byte> payload) {
         const Object object = In("ns", header.record.head.key.hash[0]);
         header.record.encryption.reset();
         header.record.head.digest = object.head.digest;
         std::copy(object.payload.begin(), object.payload.end(), payload.begin());
       }},
  };
  Start();
  for (size_t i = 0; i < changes.size(); ++i) {
    ASSERT_TRUE(PutRetained("ns", i).ok());
    Rewrite(PlaceOf(i), [](RecordHeader&, auto) {});
    ASSERT_TRUE(IsServed(i)) << "rewriting alone harms nothing";
    Rewrite(PlaceOf(i), changes[i].second);
    EXPECT_EQ(CodeOf(i), absl::StatusCode::kDataLoss) << changes[i].first;
    EXPECT_EQ(CodeOf(i), absl::StatusCode::kNotFound) << changes[i].first;
    EXPECT_EQ(tier_->Stats().n_quarantined, i + 1) << changes[i].first;
  }
}

TEST_F(DataKeysTest, ACopyWithALongerRetentionIsTheSameMessage) {
  Start();
  ASSERT_TRUE(PutRetained("ns", 1).ok());
  Rewrite(PlaceOf(1), [](RecordHeader& header, auto) { header.record.head.retain_until += absl::Hours(5); });
  EXPECT_TRUE(IsServed(1));
}

TEST_F(DataKeysTest, ARecordUnderTheHeaderOfAnotherIsRefused) {
  Start();
  for (uint64_t id = 1; id < 5; ++id) ASSERT_TRUE(PutRetained(id == 3 ? "other" : "ns", id).ok());
  // Its bytes and how they are encrypted, under the head of 1.
  for (const uint64_t from : {2u, 3u}) {
    const RecordHeader source = HeaderAt(PlaceOf(from));
    const auto bytes = At(PlaceOf(from), kSectorBytes + kPayload).subspan(kSectorBytes);
    ASSERT_TRUE(PutRetained("ns", 10 + from).ok());
    Rewrite(PlaceOf(10 + from), [&](RecordHeader& header, std::span<std::byte> payload) {
      const KeyId own = header.record.encryption->key_id;
      header.record.encryption = source.record.encryption;
      header.record.encryption->key_id = own;
      std::copy(bytes.begin(), bytes.end(), payload.begin());
    });
    EXPECT_EQ(CodeOf(10 + from), absl::StatusCode::kDataLoss) << from;
    EXPECT_TRUE(IsServed(from));
  }
  // A whole record in another's place.
  const auto record = At(PlaceOf(2), kSectorBytes + kPayload);
  std::copy(record.begin(), record.end(), At(PlaceOf(4), kSectorBytes + kPayload).begin());
  EXPECT_EQ(CodeOf(4), absl::StatusCode::kDataLoss);
}

// Of one message, with the file system's keys and no tier around them.
TEST_F(DataKeysTest, AMessageIsBoundToAllOfItsHeadThatDoesNotChange) {
  DataKeys keys(files_, "/disk", MasterKey(1), 10);
  ASSERT_TRUE(keys.Load().ok());
  const Object object = In("ns", 1);
  Record record;
  record.head = object.head;
  std::vector<std::byte> bytes = object.payload;
  ASSERT_TRUE(keys.Encrypt(record, bytes).ok());
  EXPECT_NE(bytes, object.payload);
  const auto decrypted = [&](const std::function<void(Record&)>& change, size_t n_bytes) {
    Record copy = record;
    copy.head.digest = {};
    change(copy);
    std::vector<std::byte> payload(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(n_bytes));
    const absl::Status status = keys.Decrypt(copy, payload);
    if (status.ok()) {
      EXPECT_EQ(payload, object.payload);
      EXPECT_EQ(copy.head.digest, object.head.digest);
    }
    return status.code();
  };
  EXPECT_EQ(decrypted([](Record&) {}, kPayload), absl::StatusCode::kOk);
  EXPECT_EQ(decrypted([](Record& r) { r.head.retain_until += absl::Hours(1); }, kPayload), absl::StatusCode::kOk);
  const std::vector<std::function<void(Record&)>> changes = {
      [](Record& r) { r.head.key.hash[31] ^= 1; },    [](Record& r) { r.head.key.kind = ObjectKind::kTail; },
      [](Record& r) { r.head.extent[31] ^= 1; },      [](Record& r) { r.head.parent[31] ^= 1; },
      [](Record& r) { r.head.payload_bytes -= 1; },   [](Record& r) { r.head.depth_tokens += 256; },
      [](Record& r) { r.head.fingerprint[31] ^= 1; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    EXPECT_EQ(decrypted(changes[i], kPayload), absl::StatusCode::kDataLoss) << i;
  }
  EXPECT_EQ(decrypted([](Record& r) { r.head.payload_bytes -= 1; }, kPayload - 1), absl::StatusCode::kDataLoss);
  EXPECT_EQ(decrypted([](Record& r) { r.head.namespace_id = "other"; }, kPayload), absl::StatusCode::kNotFound);
  Record others;
  others.head = In("other", 2).head;
  std::vector<std::byte> other_bytes = object.payload;
  ASSERT_TRUE(keys.Encrypt(others, other_bytes).ok());
  const auto move_to_other = [&](Record& r) {
    r.head.namespace_id = "other";
    r.encryption->key_id = others.encryption->key_id;
  };
  EXPECT_EQ(decrypted(move_to_other, kPayload), absl::StatusCode::kDataLoss);
}

TEST_F(DataKeysTest, NoNonceRepeatsUnderAKey) {
  std::set<std::tuple<KeyId, Salt, uint64_t>> nonces;
  std::set<Salt> salts;
  size_t n_records = 0;
  for (int start = 0; start < 4; ++start) {
    Start();
    // The same objects anew each time: equal bytes under equal heads.
    if (start > 0) {
      const ObjectKey keys[] = {BlockKeyOf(0), BlockKeyOf(1), BlockKeyOf(2), BlockKeyOf(3)};
      Answer dropped;
      tier_->Drop(keys, dropped.Done());
      ASSERT_TRUE(dropped.Wait().ok());
    }
    for (uint64_t id = 0; id < 4; ++id, ++n_records) {
      ASSERT_TRUE(PutRetained(id == 3 ? "other" : "ns", id).ok());
      const ObjectEncryption encryption = *HeaderAt(PlaceOf(id)).record.encryption;
      nonces.emplace(encryption.key_id, encryption.gcm.salt, encryption.gcm.count);
      salts.insert(encryption.gcm.salt);
    }
  }
  EXPECT_EQ(nonces.size(), n_records);
  EXPECT_EQ(salts.size(), 4u) << "one per start";
}

TEST_F(DataKeysTest, ARemovedNamespaceCanNeverBeReadAgain) {
  Start();
  for (uint64_t id = 0; id < 12; ++id) ASSERT_TRUE(PutRetained(id % 2 == 0 ? "gone" : "kept", id).ok());
  const KeyId old_key = HeaderAt(PlaceOf(0)).record.encryption->key_id;
  tier_.reset();
  const Files before = Copy();
  Start();
  ASSERT_TRUE(HasKeyFile("gone"));
  EXPECT_EQ(tier_->Stats().n_data_keys, 2u);
  ASSERT_TRUE(DropAndWait("gone").ok());
  EXPECT_EQ(tier_->Stats().n_data_keys, 1u);
  EXPECT_FALSE(HasKeyFile("gone"));
  EXPECT_TRUE(HasKeyFile("kept"));
  EXPECT_EQ(CodeOf(0), absl::StatusCode::kNotFound);
  // Somebody puts back the segments of before, which know of no removal: with the namespace gone, and with it back.
  for (const bool back : {false, true}) {
    if (back) {
      ASSERT_TRUE(PutRetained("gone", 100).ok());
      EXPECT_TRUE(IsServed(100));
      EXPECT_NE(HeaderAt(PlaceOf(100)).record.encryption->key_id, old_key);
    }
    tier_.reset();
    for (const auto& [path, bytes] : before) {
      if (path.starts_with("/disk/segment-")) files_.Bytes(path) = bytes;
    }
    Start();
    for (uint64_t id = 0; id < 12; ++id) {
      EXPECT_EQ(IsServed(id), id % 2 != 0) << id;
      EXPECT_EQ(CodeOf(id), id % 2 != 0 ? absl::StatusCode::kOk : absl::StatusCode::kNotFound);
    }
    EXPECT_EQ(tier_->Stats().n_objects, 6u) << "it is not damage, it is not there";
    EXPECT_EQ(tier_->Stats().log.n_damaged, 0u);
    EXPECT_EQ(tier_->Stats().n_quarantined, 0u);
  }
  EXPECT_TRUE(HasKeyFile("gone"));
}

TEST_F(DataKeysTest, TheKeyIsGoneForGoodBeforeARemovalIsAnswered) {
  // Without it, what was not synced comes back with the power.
  std::mt19937_64 random(3);
  Start();
  for (uint64_t id = 0; id < 4; ++id) ASSERT_TRUE(PutRetained(id % 2 == 0 ? "gone" : "kept", id).ok());
  ASSERT_TRUE(DropAndWait("gone").ok());
  const auto image = files_.LosePower(random, /*p_kept=*/0);
  const std::vector<std::string> paths = image->Paths();
  EXPECT_EQ(std::count(paths.begin(), paths.end(), KeyPath("gone")), 0);
  EXPECT_EQ(std::count(paths.begin(), paths.end(), KeyPath("kept")), 1);
  auto tier = std::move(*OpenTier(SmallDisk(), *image, clock_, MasterKey(1)));
  EXPECT_FALSE(Get(*tier, BlockKeyOf(0)).ok());
  EXPECT_EQ(*Get(*tier, BlockKeyOf(1)), In("", 1).payload);
}

// Power goes before each operation in turn; whatever is left of what was not synced.
TEST_F(DataKeysTest, AtNoMomentIsAnObjectDurableWithoutItsKey) {
  std::mt19937_64 random(4);
  bool finished = false;
  for (uint64_t n_operations = 0; !finished; ++n_operations) {
    for (const double p_kept : {0.0, 0.5, 1.0}) {
      MemoryFileSystem files;
      auto tier = std::move(*OpenTier(SmallDisk(), files, clock_, MasterKey(1)));
      std::unique_ptr<MemoryFileSystem> image;
      std::atomic<uint64_t> n_done = 0;
      files.SetFault([&](Operation operation) {
        if (operation != Operation::kRead && n_done++ == n_operations) image = files.LosePower(random, p_kept);
        return n_done > n_operations ? absl::DataLossError("no power") : absl::OkStatus();
      });
      const Object first = Parked(In("ns", 1), clock_.WallNow() + absl::Hours(1));
      const Object second = Parked(In("ns", 2), clock_.WallNow() + absl::Hours(1));
      (void)PutAndWait(*tier, first);
      Answer answer;
      tier->DropNamespace("ns", answer.Done());
      const bool is_dropped = answer.Wait().ok();
      const bool is_back = PutAndWait(*tier, second).ok();
      tier.reset();
      finished = image == nullptr;
      if (finished) break;
      auto again = OpenTier(SmallDisk(), *image, clock_, MasterKey(1));
      ASSERT_TRUE(again.ok()) << again.status();
      const bool has_first = Get(**again, BlockKeyOf(1)).ok();
      const bool has_second = Get(**again, BlockKeyOf(2)).ok();
      EXPECT_TRUE(!is_dropped || !has_first) << n_operations;
      EXPECT_TRUE(!is_back || has_second) << n_operations;
      EXPECT_EQ((*again)->Stats().log.n_damaged, 0u) << n_operations;
      EXPECT_EQ((*again)->Stats().n_quarantined, 0u) << n_operations;
    }
    ASSERT_LT(n_operations, 100u);
  }
}

TEST_F(DataKeysTest, ARemovalThatTheDeviceDoesNotTakeIsNotAnswered) {
  Start();
  ASSERT_TRUE(PutRetained("ns", 1).ok());
  files_.SetFault([](Operation operation) {
    return operation == Operation::kRemove ? absl::DataLossError("EIO") : absl::OkStatus();
  });
  EXPECT_EQ(DropAndWait("ns").code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(tier_->Stats().fenced);
  EXPECT_EQ(CodeOf(1), absl::StatusCode::kNotFound) << "gone at once all the same";
}

// The file is removed, and its directory is not synced: the next who asks is told that it is gone when it is.
class HalfwayRemoval : public DataKeysTest, public ::testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(AtOnce, HalfwayRemoval, ::testing::Values(false));
INSTANTIATE_TEST_SUITE_P(AfterARestart, HalfwayRemoval, ::testing::Values(true));

TEST_P(HalfwayRemoval, IsFinishedByTheNext) {
  Start();
  ASSERT_TRUE(PutRetained("ns", 1).ok());
  ASSERT_TRUE(PutRetained("other", 2).ok());
  std::atomic<bool> removed = false;
  files_.SetFault([&](Operation operation) {
    if (operation == Operation::kRemove) removed = true;
    return operation == Operation::kSyncDirectory && removed ? absl::DataLossError("EIO") : absl::OkStatus();
  });
  EXPECT_EQ(DropAndWait("ns").code(), absl::StatusCode::kUnavailable);
  ASSERT_FALSE(HasKeyFile("ns"));
  files_.SetFault(nullptr);
  if (GetParam()) Start();
  EXPECT_EQ(DropAndWait("ns").ok(), GetParam()) << "the device that failed does not take the record of it";
  std::mt19937_64 random(1);
  const auto image = files_.LosePower(random, 0);
  const std::vector<std::string> paths = image->Paths();
  EXPECT_EQ(std::count(paths.begin(), paths.end(), KeyPath("ns")), 0);
  EXPECT_EQ(std::count(paths.begin(), paths.end(), KeyPath("other")), 1);
}

// For a moment: it may be whole.
TEST_F(DataKeysTest, AKeyFileThatCannotBeReadIsNotTakenForDamaged) {
  Start();
  for (uint64_t id = 0; id < 4; ++id) ASSERT_TRUE(PutRetained("ns", id).ok());
  tier_.reset();
  const std::vector<std::byte> before = files_.Bytes(KeyPath("ns"));
  // One of each segment comes before.
  std::atomic<int> n_reads = 0;
  files_.SetFault([&](Operation operation) {
    return operation == Operation::kRead && n_reads++ == 6 ? absl::DataLossError("EIO once") : absl::OkStatus();
  });
  const absl::Status status = OpenTier(SmallDisk(), files_, clock_, MasterKey(1)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr(KeyPath("ns")));
  EXPECT_EQ(files_.Bytes(KeyPath("ns")), before);
  Start();
  for (uint64_t id = 0; id < 4; ++id) EXPECT_TRUE(IsServed(id)) << id;
}

TEST_F(DataKeysTest, ADamagedKeyFileIsSetAsideAndGoesWithItsNamespace) {
  Start();
  ASSERT_TRUE(PutRetained("ns", 1).ok());
  tier_.reset();
  files_.Bytes(KeyPath("ns"))[100] ^= std::byte{1};
  const std::vector<std::byte> damaged = files_.Bytes(KeyPath("ns"));
  Start();
  EXPECT_EQ(tier_->Stats().log.n_damaged, 1u);
  ASSERT_TRUE(PutRetained("ns", 2).ok());
  EXPECT_EQ(files_.Bytes(KeyPath("ns") + ".damaged"), damaged);
  Start();
  EXPECT_TRUE(IsServed(2));
  EXPECT_EQ(tier_->Stats().log.n_damaged, 0u);
  ASSERT_TRUE(DropAndWait("ns").ok());
  EXPECT_EQ(files_.Paths().size(), 6u);
}

// A tenant's deletion names no namespace: those whose key is damaged belong to it all the same.
TEST_F(DataKeysTest, ADamagedKeyFileGoesWithADeletionThatNamesNoNamespace) {
  for (const size_t at : {size_t{100}, size_t{kSectorBytes}}) {
    Start();
    ASSERT_TRUE(PutRetained("ns", 1).ok());
    tier_.reset();
    if (at < kSectorBytes) {
      files_.Bytes(KeyPath("ns"))[at] ^= std::byte{1};
    } else {
      files_.Bytes(KeyPath("ns")).resize(10);
    }
    Start();
    EXPECT_EQ(tier_->Stats().log.n_damaged, 1u);
    Answer dropped;
    tier_->DropNamespaces([](const std::string& id) { return id == "ns"; }, dropped.Done());
    ASSERT_TRUE(dropped.Wait().ok());
    EXPECT_FALSE(HasKeyFile("ns"));
  }
}

TEST_F(DataKeysTest, AKeyThatCannotBeWrittenRefusesThePutAndNothingElse) {
  Start();
  ASSERT_TRUE(PutRetained("ns", 1).ok());
  files_.SetFault([](Operation operation) {
    return operation == Operation::kRename ? absl::ResourceExhaustedError("full") : absl::OkStatus();
  });
  EXPECT_EQ(PutRetained("other", 2).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(PutRetained("ns", 3).ok()) << "it has its key";
  EXPECT_EQ(PutAndWait(*tier_, In("other", 4)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(tier_->Stats().n_dropped, 1u);
  EXPECT_FALSE(tier_->Stats().fenced);
  files_.SetFault(nullptr);
  EXPECT_TRUE(PutRetained("other", 2).ok());
  EXPECT_TRUE(IsServed(2));
  EXPECT_EQ(files_.Paths().size(), 6u + 2) << "no temporary file is left";
  files_.SetFault([](Operation operation) {
    return operation == Operation::kRename ? absl::DataLossError("EIO") : absl::OkStatus();
  });
  EXPECT_EQ(PutRetained("third", 5).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(tier_->Stats().fenced);
  EXPECT_TRUE(IsServed(1)) << "reading goes on";
}

TEST_F(DataKeysTest, ADamagedKeyFileLosesItsNamespaceAndNothingElse) {
  Start();
  for (uint64_t id = 0; id < 4; ++id) ASSERT_TRUE(PutRetained(id % 2 == 0 ? "even" : "odd", id).ok());
  tier_.reset();
  files_.Bytes(KeyPath("even"))[100] ^= std::byte{1};
  Start();
  EXPECT_EQ(tier_->Stats().log.n_damaged, 1u);
  EXPECT_EQ(CodeOf(0), absl::StatusCode::kNotFound);
  EXPECT_TRUE(IsServed(1));
  ASSERT_TRUE(PutRetained("even", 0).ok());
  EXPECT_TRUE(IsServed(0));
  Start();
  EXPECT_EQ(tier_->Stats().log.n_damaged, 0u);
  EXPECT_TRUE(IsServed(0));
  EXPECT_FALSE(IsServed(2));
  // Under the name of another namespace's file: a key is bound to its own.
  tier_.reset();
  files_.Bytes(KeyPath("even")) = files_.Bytes(KeyPath("odd"));
  Start();
  EXPECT_EQ(tier_->Stats().log.n_damaged, 1u);
  EXPECT_FALSE(IsServed(0));
  EXPECT_TRUE(IsServed(1));
  // And with its name in it.
  tier_.reset();
  const Sector sector = std::span(files_.Bytes(KeyPath("even"))).first<kSectorBytes>();
  KeyFile file = *ParseKeyFile(sector);
  file.namespace_id = "even";
  EncodeKeyFile(file, sector);
  Start();
  EXPECT_EQ(tier_->Stats().log.n_damaged, 1u);
  EXPECT_TRUE(IsServed(1));
}

TEST_F(DataKeysTest, RetainedObjectsMoveAsTheyAreAndOutliveEveryTurnOfTheDisk) {
  Start();
  for (uint64_t id = 0; id < 5; ++id) ASSERT_TRUE(PutRetained("ns", id).ok());
  const ObjectEncryption before = *HeaderAt(PlaceOf(0)).record.encryption;
  const Place place = PlaceOf(0);
  for (uint64_t id = 100; id < 400; ++id) {
    ASSERT_TRUE(PutAndWait(*tier_, In("cache", id)).ok());
    if (id == 250) Start();
  }
  EXPECT_NE(PlaceOf(0), place);
  EXPECT_EQ(HeaderAt(PlaceOf(0)).record.encryption->gcm.count, before.gcm.count);
  EXPECT_EQ(HeaderAt(PlaceOf(0)).record.encryption->gcm.tag, before.gcm.tag);
  for (uint64_t id = 0; id < 5; ++id) EXPECT_TRUE(IsServed(id)) << id;
  EXPECT_EQ(tier_->Stats().log.n_damaged, 0u);
  ASSERT_TRUE(DropAndWait("ns").ok());
  for (uint64_t id = 0; id < 5; ++id) EXPECT_FALSE(IsServed(id)) << id;
}

TEST_F(DataKeysTest, TheNumberOfKeysIsBoundedAndThoseOfWhatIsGoneMakeRoom) {
  DiskOptions options = SmallDisk();
  options.n_encrypted_namespaces_max = 3;
  Start(options);
  ASSERT_TRUE(PutRetained("kept", 1).ok());
  ASSERT_TRUE(PutAndWait(*tier_, In("passing-1", 2)).ok());
  ASSERT_TRUE(PutAndWait(*tier_, In("passing-2", 3)).ok());
  EXPECT_EQ(PutRetained("new", 4).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(PutAndWait(*tier_, In("new", 4)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(tier_->Stats().n_dropped, 1u);
  ASSERT_TRUE(PutRetained("kept", 5).ok());
  // A turn of the disk takes what passed.
  for (uint64_t id = 100; id < 200; ++id) ASSERT_TRUE(PutAndWait(*tier_, In("kept", id)).ok());
  EXPECT_TRUE(PutRetained("new", 4).ok());
  EXPECT_FALSE(HasKeyFile("passing-1"));
  EXPECT_TRUE(IsServed(1));
  EXPECT_TRUE(IsServed(4));
  Start(options);
  EXPECT_TRUE(IsServed(1));
  EXPECT_TRUE(IsServed(4));
}

TEST_F(DataKeysTest, APutThatARemovalOvertakesIsGoneAndOneBehindItIsThere) {
  Start();
  std::promise<void> stall;
  const std::shared_future<void> stalled(stall.get_future());
  ASSERT_TRUE(PutRetained("ns", 1).ok());
  files_.SetFault([stalled](Operation operation) {
    if (operation == Operation::kWrite) stalled.wait();
    return absl::OkStatus();
  });
  // One batch.
  Answer first;
  Answer before;
  Answer dropped;
  Answer behind;
  Put(*tier_, In("stalls", 2), first.Done());
  Put(*tier_, Parked(In("ns", 3), clock_.WallNow() + absl::Hours(1)), before.Done());
  tier_->DropNamespace("ns", dropped.Done());
  Put(*tier_, Parked(In("ns", 4), clock_.WallNow() + absl::Hours(1)), behind.Done());
  stall.set_value();
  for (Answer* answer : {&first, &dropped, &behind}) ASSERT_TRUE(answer->Wait().ok());
  EXPECT_EQ(before.Wait().code(), absl::StatusCode::kNotFound);
  for (int restart = 0; restart < 2; ++restart) {
    EXPECT_EQ(CodeOf(1), absl::StatusCode::kNotFound);
    EXPECT_EQ(CodeOf(3), absl::StatusCode::kNotFound);
    EXPECT_TRUE(IsServed(4));
    EXPECT_EQ(tier_->Stats().n_quarantined, 0u);
    files_.SetFault(nullptr);
    Start();
  }
}

}  // namespace
}  // namespace longshelf::kvstore::disk
