#include "router/namespace_ids.h"

#include <openssl/sha.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace longshelf::router {
namespace {

constexpr size_t kUserDigestBytes = 10;
constexpr uint64_t kBase = 36;

std::string InBase36(uint64_t number) {
  constexpr std::string_view kDigits = "0123456789abcdefghijklmnopqrstuvwxyz";
  std::string text;
  for (; number > 0; number /= kBase) text.insert(text.begin(), kDigits[number % kBase]);
  return text;
}

}  // namespace

std::string NamespaceName(const Tenant& tenant, std::string_view user_id) {
  if (user_id.empty()) return tenant.name;
  std::array<uint8_t, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(user_id.data()), user_id.size(), digest.data());
  return absl::StrCat(
      tenant.name, ":",
      absl::WebSafeBase64Escape(absl::string_view(reinterpret_cast<const char*>(digest.data()), kUserDigestBytes)));
}

absl::Time NamespaceIds::GenerationOf(const std::string& name) const {
  const auto found = generations_.find(name);
  return found == generations_.end() ? absl::InfinitePast() : found->second;
}

std::string NamespaceIds::Of(const std::string& name) const {
  const auto found = generations_.find(name);
  if (found == generations_.end()) return name;
  return absl::StrCat(name, "#", InBase36(static_cast<uint64_t>(absl::ToUnixMillis(found->second))));
}

NamespaceIds NamespaceIds::With(const std::string& name, absl::Time generation) const {
  NamespaceIds ids = *this;
  absl::Time& known = ids.generations_.emplace(name, generation).first->second;
  known = std::max(known, generation);
  return ids;
}

}  // namespace longshelf::router
