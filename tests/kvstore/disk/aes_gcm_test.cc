#include "disk/aes_gcm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cctype>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <vector>

#include "absl/strings/escaping.h"
#include "disk_fixture.h"

namespace longshelf::kvstore::disk {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<SecretKey> CountingKey() {
  std::array<uint8_t, SecretKey::kBytes> bytes;
  std::iota(bytes.begin(), bytes.end(), uint8_t{0});
  return std::make_unique<SecretKey>(bytes);
}

template <typename Bytes>
std::string Hex(const Bytes& bytes) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

GcmHeader SomeHeader() {
  GcmHeader header;
  std::iota(header.salt.begin(), header.salt.end(), uint8_t{100});
  header.count = 0x0102030405060708;
  return header;
}

struct Message {
  std::string first = "one message ";
  std::string second = "in two pieces";
  std::array<std::span<std::byte>, 2> pieces() {
    return {std::as_writable_bytes(std::span(first)), std::as_writable_bytes(std::span(second))};
  }
};

// Computed by the cryptography package of Python.
TEST(AesGcm, IsTheOneOfTheStandardUnderTheDerivedKey) {
  Message message;
  GcmHeader header = SomeHeader();
  Encrypt(*CountingKey(), "associated", message.pieces(), header);
  EXPECT_EQ(Hex(message.first + message.second), "fec25677cbda07f79d0d34ea023952e240a8e40d8952252a30");
  EXPECT_EQ(Hex(header.tag), "0677f24d75565a038dd49f22a8b7032f");
  EXPECT_EQ(Hex(CheckOf(*CountingKey())), "a63d9e1389d1a948e85355f39ace91fe");
  const std::string ciphertext = message.first;
  ASSERT_TRUE(Decrypt(*CountingKey(), "associated", message.pieces(), header));
  EXPECT_EQ(message.first + message.second, "one message in two pieces");
  std::string beginning = ciphertext;
  DecryptUnverified(*CountingKey(), std::as_writable_bytes(std::span(beginning)), header);
  EXPECT_EQ(beginning, "one message ");
}

TEST(AesGcm, EveryFlippedBitIsDetected) {
  Message message;
  GcmHeader header = SomeHeader();
  Encrypt(*CountingKey(), "associated", message.pieces(), header);
  std::string associated = "associated";
  const auto opens = [&] {
    Message copy = message;
    return Decrypt(*CountingKey(), associated, copy.pieces(), header);
  };
  const auto flip_each = [&](std::span<std::byte> bytes) {
    for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
      bytes[bit / 8] ^= std::byte{1} << (bit % 8);
      ASSERT_FALSE(opens()) << bit;
      bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    }
  };
  ASSERT_TRUE(opens());
  flip_each(std::as_writable_bytes(std::span(message.first)));
  flip_each(std::as_writable_bytes(std::span(message.second)));
  flip_each(std::as_writable_bytes(std::span(associated)));
  flip_each(std::as_writable_bytes(std::span(header.salt)));
  flip_each(std::as_writable_bytes(std::span(&header.count, 1)));
  flip_each(std::as_writable_bytes(std::span(header.tag)));
  ASSERT_TRUE(opens());
  EXPECT_FALSE(Decrypt(*MasterKey(1), associated, message.pieces(), header)) << "another key";
}

class KeyFileTest : public ::testing::Test {
 protected:
  KeyFileTest() { std::filesystem::remove_all(path_); }
  ~KeyFileTest() override { std::filesystem::remove_all(path_); }

  absl::StatusOr<std::unique_ptr<SecretKey>> Read(const std::string& content, mode_t mode = 0600) {
    std::ofstream(path_, std::ios::trunc) << content;
    EXPECT_EQ(chmod(path_.c_str(), mode), 0);
    return ReadKeyFile(path_);
  }
  absl::Status Refused(const std::string& content, mode_t mode = 0600) {
    const absl::Status status = Read(content, mode).status();
    EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
    return status;
  }

  const std::string path_ = ::testing::TempDir() + "/key_file_test." + std::to_string(getpid());
};

TEST_F(KeyFileTest, HoldsAKeyInHexadecimal) {
  const std::string hex = Hex(CountingKey()->bytes());
  std::string upper = hex;
  for (char& c : upper) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  for (const std::string& content : {hex, hex + "\n", " " + hex + "\r\n", upper}) {
    const auto key = Read(content);
    ASSERT_TRUE(key.ok()) << key.status();
    EXPECT_EQ(Hex((*key)->bytes()), hex);
  }
  EXPECT_TRUE(Read(hex, 0640).ok()) << "its group may read it";
}

TEST_F(KeyFileTest, WhatIsNotAKeyIsRefusedAndTheKeyNeverShown) {
  const std::string hex = Hex(CountingKey()->bytes());
  EXPECT_EQ(ReadKeyFile(path_).status().code(), absl::StatusCode::kNotFound);
  for (const std::string& content : {std::string(), std::string("\n"), hex.substr(1), hex + "0", hex.substr(1) + "g",
                                     hex.substr(2) + " 0", std::string(100000, 'a')}) {
    const absl::Status status = Refused(content);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << content.substr(0, 100);
    EXPECT_THAT(std::string(status.message()), HasSubstr("openssl rand -hex 32"));
    EXPECT_EQ(status.message().find(hex.substr(2, 10)), absl::string_view::npos);
  }
}

TEST_F(KeyFileTest, WhatOthersMayReadIsRefused) {
  const std::string hex = Hex(CountingKey()->bytes());
  for (const mode_t mode : {0604, 0644, 0602}) {
    const absl::Status status = Refused(hex, mode);
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
    EXPECT_THAT(std::string(status.message()), HasSubstr("chmod 600"));
  }
  std::filesystem::remove(path_);
  std::filesystem::create_directory(path_);
  EXPECT_EQ(ReadKeyFile(path_).status().code(), absl::StatusCode::kInvalidArgument) << "a directory";
  std::filesystem::remove(path_);
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_EQ(ReadKeyFile(path_).status().code(), absl::StatusCode::kInvalidArgument) << "and nobody waits for a pipe";
}

}  // namespace
}  // namespace longshelf::kvstore::disk
