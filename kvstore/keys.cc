#include "kvstore/keys.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <bit>
#include <memory>

#include "common/check.h"

namespace longshelf::kvstore {
namespace {

static_assert(std::endian::native == std::endian::little, "keys are hashed in little-endian form");

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    LONGSHELF_CHECK(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }
  void Add(const void* data, size_t n) { LONGSHELF_CHECK(EVP_DigestUpdate(context_.get(), data, n) == 1); }
  void AddLength(uint64_t n) { Add(&n, sizeof n); }
  BlockKey Finish() {
    BlockKey out;
    unsigned n = 0;
    LONGSHELF_CHECK(EVP_DigestFinal_ex(context_.get(), out.data(), &n) == 1 && n == out.size());
    return out;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

BlockKey ChainRoot(const std::array<uint8_t, 32>& fingerprint, std::string_view namespace_salt) {
  constexpr std::string_view kDomain = "dsv4kv/1";
  Sha256 sha;
  sha.Add(kDomain.data(), kDomain.size());
  sha.Add(fingerprint.data(), fingerprint.size());
  sha.AddLength(namespace_salt.size());
  sha.Add(namespace_salt.data(), namespace_salt.size());
  return sha.Finish();
}

BlockKey ChainNext(const BlockKey& parent, std::span<const uint32_t> tokens) {
  Sha256 sha;
  sha.AddLength(parent.size());
  sha.Add(parent.data(), parent.size());
  sha.AddLength(tokens.size_bytes());
  sha.Add(tokens.data(), tokens.size_bytes());
  return sha.Finish();
}

const BlockKey& ExtentOf(const BlockKey& root, std::span<const BlockKey> blocks, uint64_t depth_tokens) {
  const uint64_t extent = (depth_tokens - 1) / kExtentTokens;
  if (extent == 0) return root;
  const uint64_t n_before = extent * kExtentBlocks;
  LONGSHELF_CHECK(n_before <= blocks.size());
  return blocks[n_before - 1];
}

std::array<uint8_t, 32> NamespaceSalt(std::string_view tenant_secret, std::string_view namespace_id) {
  std::array<uint8_t, 32> out;
  unsigned n = 0;
  LONGSHELF_CHECK(HMAC(EVP_sha256(), tenant_secret.data(), static_cast<int>(tenant_secret.size()),
                       reinterpret_cast<const unsigned char*>(namespace_id.data()), namespace_id.size(), out.data(),
                       &n) != nullptr);
  return out;
}

}  // namespace longshelf::kvstore
