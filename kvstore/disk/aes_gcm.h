#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

// AES-256-GCM whose nonces never repeat.
//
// Each message is named by a salt, which is drawn once per start, and a count, which goes up with each message of that
// start. Its key is derived from the long-lived one and the salt (HMAC-SHA256), its nonce is the count. So a nonce
// repeats under no key: within a start because of the count, between starts because 128 random bits do not meet. That
// holds after a crash that takes the last writes back, and on an old copy of the disk, where a counter on disk would
// repeat. And no key is used up: with random nonces, 2^32 messages would be the end of one, and all of them, through
// all restarts, had to be counted.
namespace longshelf::kvstore::disk {

// A key of 256 bits. Its memory is overwritten when it goes.
class SecretKey {
 public:
  static constexpr size_t kBytes = 32;

  explicit SecretKey(std::span<const uint8_t, kBytes> bytes);
  ~SecretKey();
  SecretKey(const SecretKey&) = delete;
  SecretKey& operator=(const SecretKey&) = delete;
  static std::unique_ptr<SecretKey> Random();

  std::span<const uint8_t, kBytes> bytes() const { return bytes_; }

 private:
  std::array<uint8_t, kBytes> bytes_;
};

// A key from a file: 64 hexadecimal characters, and white space around them.
// NOT_FOUND, PERMISSION_DENIED (not readable by us, or readable by others), INVALID_ARGUMENT; all say what to do.
absl::StatusOr<std::unique_ptr<SecretKey>> ReadKeyFile(const std::string& path);

// Tells keys apart, and nothing about them; all zero stands for no key.
using KeyCheck = std::array<uint8_t, 16>;
KeyCheck CheckOf(const SecretKey& key);

using Salt = std::array<uint8_t, 16>;

// What is stored of a message beside its ciphertext.
struct GcmHeader {
  Salt salt{};
  uint64_t count = 0;
  std::array<uint8_t, 16> tag{};
};

// The pieces are one message, which changes in place. Encrypt fills in the tag.
// REQUIRES: no other message was encrypted under this key with this salt and count.
using GcmPieces = std::span<const std::span<std::byte>>;
void Encrypt(const SecretKey& key, std::string_view associated, GcmPieces pieces, GcmHeader& header);
// False: not what was encrypted, and the pieces hold nothing of use.
bool Decrypt(const SecretKey& key, std::string_view associated, GcmPieces pieces, const GcmHeader& header);
// The first bytes of a message, which nothing vouches for.
void DecryptUnverified(const SecretKey& key, std::span<std::byte> bytes, const GcmHeader& header);

// Fit for keys.
void FillRandom(std::span<uint8_t> out);

// The first 16 bytes of its SHA-256, in hexadecimal.
std::string ShortHashHex(std::string_view text);

}  // namespace longshelf::kvstore::disk
