#include "thinking_signature.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <array>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/ids.h"

namespace longshelf::router {
namespace {

using Bytes32 = std::array<unsigned char, 32>;

absl::string_view View(const Bytes32& bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

struct FreeContext {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

}  // namespace

struct ThinkingSigner::Signature::Digest {
  std::unique_ptr<EVP_MD_CTX, FreeContext> context{EVP_MD_CTX_new()};
};

ThinkingSigner::Signature::Signature(const ThinkingSigner& signer)
    : signer_(&signer), digest_(std::make_unique<Digest>()) {
  LONGSHELF_CHECK(digest_->context != nullptr);
  LONGSHELF_CHECK(EVP_DigestInit_ex(digest_->context.get(), EVP_sha256(), nullptr) == 1);
}
ThinkingSigner::Signature::~Signature() = default;
ThinkingSigner::Signature::Signature(Signature&&) noexcept = default;
ThinkingSigner::Signature& ThinkingSigner::Signature::operator=(Signature&&) noexcept = default;

void ThinkingSigner::Signature::Add(std::string_view text) {
  LONGSHELF_CHECK(EVP_DigestUpdate(digest_->context.get(), text.data(), text.size()) == 1);
}

std::string ThinkingSigner::Signature::Finish() {
  Bytes32 digest{};
  LONGSHELF_CHECK(EVP_DigestFinal_ex(digest_->context.get(), digest.data(), nullptr) == 1);
  const absl::string_view view = View(digest);
  return signer_->SignDigest({view.data(), view.size()});
}

std::string ThinkingSigner::SignDigest(std::string_view digest) const {
  const std::string text = absl::StrCat("thinking/1/", tenant_, "/", absl::string_view(digest.data(), digest.size()));
  Bytes32 mac{};
  unsigned int n = 0;
  LONGSHELF_CHECK(HMAC(EVP_sha256(), secret_.data(), static_cast<int>(secret_.size()),
                       reinterpret_cast<const unsigned char*>(text.data()), text.size(), mac.data(), &n) != nullptr);
  return absl::Base64Escape(View(mac));
}

bool ThinkingSigner::Verify(std::string_view text, std::string_view signature) const {
  Signature ours(*this);
  ours.Add(text);
  return SameSecret(ours.Finish(), {signature.data(), signature.size()});
}

}  // namespace longshelf::router
