#include "aes_gcm.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace longshelf::kvstore::disk {
namespace {

constexpr size_t kNonceBytes = 12;
constexpr size_t kHexBytes = 2 * SecretKey::kBytes;
constexpr size_t kKeyFileBytesMax = 256;  // with white space

uint8_t* Bytes(std::byte* bytes) { return reinterpret_cast<uint8_t*>(bytes); }

// HMAC-SHA256 of both texts.
std::array<uint8_t, SecretKey::kBytes> Derive(const SecretKey& key, std::string_view label,
                                              std::span<const uint8_t> salt) {
  std::string message(label);
  message.append(salt.begin(), salt.end());
  std::array<uint8_t, SecretKey::kBytes> out;
  unsigned n = 0;
  const bool ok = HMAC(EVP_sha256(), key.bytes().data(), SecretKey::kBytes,
                       reinterpret_cast<const uint8_t*>(message.data()), message.size(), out.data(), &n) != nullptr;
  LONGSHELF_CHECK(ok && n == out.size());
  return out;
}

// A cipher that is ready for the message.
class Gcm {
 public:
  Gcm(const SecretKey& key, const GcmHeader& header, bool encrypt)
      : context_(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free) {
    std::array<uint8_t, SecretKey::kBytes> derived = Derive(key, "longshelf kvstore message key", header.salt);
    std::array<uint8_t, kNonceBytes> nonce{};
    std::memcpy(nonce.data(), &header.count, sizeof header.count);
    LONGSHELF_CHECK(context_ != nullptr && EVP_CipherInit_ex(context_.get(), EVP_aes_256_gcm(), nullptr, derived.data(),
                                                             nonce.data(), encrypt ? 1 : 0) == 1);
    OPENSSL_cleanse(derived.data(), derived.size());
  }

  void Associate(std::string_view text) {
    int n = 0;
    LONGSHELF_CHECK(EVP_CipherUpdate(context_.get(), nullptr, &n, reinterpret_cast<const uint8_t*>(text.data()),
                                     static_cast<int>(text.size())) == 1);
  }

  void Transform(std::span<std::byte> piece) {
    // Far below what an int holds: payloads end at 64 MiB.
    int n = 0;
    LONGSHELF_CHECK(EVP_CipherUpdate(context_.get(), Bytes(piece.data()), &n, Bytes(piece.data()),
                                     static_cast<int>(piece.size())) == 1 &&
                    static_cast<size_t>(n) == piece.size());
  }

  // When decrypting, whether the tag that was set is the message's.
  bool Finish() {
    uint8_t none[16];
    int n = 0;
    return EVP_CipherFinal_ex(context_.get(), none, &n) == 1;
  }

  void GetTag(std::span<uint8_t, 16> tag) {
    LONGSHELF_CHECK(EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_GCM_GET_TAG, 16, tag.data()) == 1);
  }
  void SetTag(std::array<uint8_t, 16> tag) {
    LONGSHELF_CHECK(EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_GCM_SET_TAG, 16, tag.data()) == 1);
  }

 private:
  const std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)> context_;
};

// At most `n_max` bytes of a regular file that others may not read.
absl::Status ReadPrivateFile(const std::string& path, size_t n_max, std::string* content) {
  // Not to hang on a pipe.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const std::string message = absl::StrCat(path, ": ", std::generic_category().message(errno));
    return errno == ENOENT ? absl::NotFoundError(message) : absl::PermissionDeniedError(message);
  }
  struct stat info = {};
  absl::Status status;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    status = absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  } else if ((info.st_mode & S_IRWXO) != 0) {
    status = absl::PermissionDeniedError(absl::StrCat(path, " is open to all users of the machine: chmod 600 it"));
  } else {
    content->resize(n_max);
    const ssize_t n = read(fd, content->data(), n_max);
    if (n < 0) status = absl::PermissionDeniedError(absl::StrCat(path, ": ", std::generic_category().message(errno)));
    OPENSSL_cleanse(content->data() + std::max<ssize_t>(n, 0), n_max - static_cast<size_t>(std::max<ssize_t>(n, 0)));
    content->resize(static_cast<size_t>(std::max<ssize_t>(n, 0)));
  }
  close(fd);
  return status;
}

}  // namespace

SecretKey::SecretKey(std::span<const uint8_t, kBytes> bytes) { std::copy(bytes.begin(), bytes.end(), bytes_.begin()); }

SecretKey::~SecretKey() { OPENSSL_cleanse(bytes_.data(), bytes_.size()); }

std::unique_ptr<SecretKey> SecretKey::Random() {
  auto key = std::make_unique<SecretKey>(std::array<uint8_t, kBytes>{});
  FillRandom(key->bytes_);
  return key;
}

absl::StatusOr<std::unique_ptr<SecretKey>> ReadKeyFile(const std::string& path) {
  std::string content;
  // Before it holds a key: a string that grows leaves copies.
  content.reserve(kKeyFileBytesMax);
  if (const absl::Status status = ReadPrivateFile(path, kKeyFileBytesMax, &content); !status.ok()) return status;
  const auto is_space = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
  const size_t begin =
      static_cast<size_t>(std::find_if_not(content.begin(), content.end(), is_space) - content.begin());
  std::string_view text = std::string_view(content).substr(begin);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  const bool is_hex = text.size() == kHexBytes && std::all_of(text.begin(), text.end(), [](char c) {
                        return std::isxdigit(static_cast<unsigned char>(c)) != 0;
                      });
  std::unique_ptr<SecretKey> key;
  if (is_hex) {
    std::string bytes = absl::HexStringToBytes(absl::string_view(text.data(), text.size()));
    std::array<uint8_t, SecretKey::kBytes> copy;
    std::memcpy(copy.data(), bytes.data(), copy.size());
    key = std::make_unique<SecretKey>(copy);
    OPENSSL_cleanse(copy.data(), copy.size());
    OPENSSL_cleanse(bytes.data(), bytes.size());
  }
  const size_t n = text.size();
  OPENSSL_cleanse(content.data(), content.size());
  if (key != nullptr) return key;
  return absl::InvalidArgumentError(
      absl::StrCat(path, " must hold ", kHexBytes, " hexadecimal characters, but ",
                   n == kHexBytes ? "not all of its characters are" : absl::StrCat("it holds ", n, " characters"),
                   "; `openssl rand -hex 32` makes a key"));
}

KeyCheck CheckOf(const SecretKey& key) {
  std::array<uint8_t, SecretKey::kBytes> derived = Derive(key, "longshelf kvstore key check", {});
  KeyCheck check;
  std::copy_n(derived.begin(), check.size(), check.begin());
  return check;
}

void Encrypt(const SecretKey& key, std::string_view associated, GcmPieces pieces, GcmHeader& header) {
  Gcm gcm(key, header, /*encrypt=*/true);
  gcm.Associate(associated);
  for (const std::span<std::byte> piece : pieces) gcm.Transform(piece);
  LONGSHELF_CHECK(gcm.Finish());
  gcm.GetTag(header.tag);
}

bool Decrypt(const SecretKey& key, std::string_view associated, GcmPieces pieces, const GcmHeader& header) {
  Gcm gcm(key, header, /*encrypt=*/false);
  gcm.Associate(associated);
  for (const std::span<std::byte> piece : pieces) gcm.Transform(piece);
  gcm.SetTag(header.tag);
  return gcm.Finish();
}

void DecryptUnverified(const SecretKey& key, std::span<std::byte> bytes, const GcmHeader& header) {
  Gcm(key, header, /*encrypt=*/false).Transform(bytes);
}

void FillRandom(std::span<uint8_t> out) {
  // Without randomness there is no key to be had, and nothing to fall back on.
  LONGSHELF_CHECK(RAND_bytes(out.data(), static_cast<int>(out.size())) == 1);
}

std::string ShortHashHex(std::string_view text) {
  std::array<uint8_t, SHA256_DIGEST_LENGTH> hash;
  SHA256(reinterpret_cast<const uint8_t*>(text.data()), text.size(), hash.data());
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(hash.data()), 16));
}

}  // namespace longshelf::kvstore::disk
