#include "router/auth.h"

#include <openssl/crypto.h>

#include <fstream>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "keys/key_file.h"
#include "router/limits.h"

namespace longshelf::router {
namespace {

constexpr size_t kKeyFileBytesMax = size_t{4} << 20;

}  // namespace

int CompareInConstantTime(const KeyDigest& a, const KeyDigest& b) {
  return CRYPTO_memcmp(a.data(), b.data(), a.size());
}

size_t FindDigest(std::span<const KeyDigest> keys, const KeyDigest& wanted, const CompareDigests& compare) {
  size_t found = keys.size();
  for (size_t i = 0; i < keys.size(); ++i) {
    if (compare(keys[i], wanted) == 0) found = i;
  }
  return found;
}

KeyRing KeyRing::Anonymous() { return {}; }

absl::StatusOr<KeyRing> KeyRing::Of(std::vector<ApiKey> keys) {
  if (keys.empty()) {
    return absl::InvalidArgumentError("API keys: the file holds no key; remove the option to serve without keys");
  }
  KeyRing ring;
  std::set<KeyDigest> seen;
  for (ApiKey& key : keys) {
    if (!seen.insert(key.digest).second) {
      return absl::InvalidArgumentError(absl::StrCat("API keys: the key ", key.label, " is listed twice"));
    }
    const uint64_t n_queued_max = key.limits.n_tokens_queued_max;
    if (ring.n_tokens_queued_max_.try_emplace(key.tenant, n_queued_max).first->second != n_queued_max) {
      return absl::InvalidArgumentError(
          absl::StrCat("API keys: the key ", key.label, " of ", key.tenant,
                       " has another limit tokens-queued than a key before it: that limit is the tenant's, so all its "
                       "keys must say the same"));
    }
    ring.digests_.push_back(key.digest);
    const std::string tenant = key.tenant;
    ring.tenants_.push_back({tenant, std::make_shared<const ApiKey>(std::move(key))});
  }
  return ring;
}

absl::StatusOr<KeyRing> KeyRing::Parse(std::string_view text) {
  ASSIGN_OR_RETURN(std::vector<ApiKey> keys, IsYamlKeyFile(text) ? ReadYamlKeys(text) : ReadKeyLines(text));
  return Of(std::move(keys));
}

absl::StatusOr<KeyRing> KeyRing::Load(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::string text(kKeyFileBytesMax + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad() || (in.fail() && !in.eof())) {
    return absl::NotFoundError(absl::StrCat("cannot read the API key file ", file.string()));
  }
  text.resize(static_cast<size_t>(in.gcount()));
  if (text.size() > kKeyFileBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("the API key file is larger than ", kKeyFileBytesMax, " bytes"));
  }
  return Parse(text);
}

const Tenant* KeyRing::Find(std::string_view key) const {
  if (key.empty() || key.size() > kSizeLimits.api_key_bytes) return nullptr;
  const size_t place = FindDigest(digests_, DigestOf(key));
  return place == tenants_.size() ? nullptr : &tenants_[place];
}

const Tenant* KeyRing::Authenticate(std::string_view authorization, std::string_view x_api_key) const {
  if (anonymous()) return &anonymous_;
  constexpr std::string_view kScheme = "Bearer ";
  if (authorization.empty()) return Find(x_api_key);
  if (authorization.size() <= kScheme.size() ||
      !absl::EqualsIgnoreCase(absl::string_view(authorization.data(), kScheme.size()),
                              absl::string_view(kScheme.data(), kScheme.size()))) {
    return nullptr;
  }
  const absl::string_view key = absl::StripAsciiWhitespace(
      absl::string_view(authorization.data() + kScheme.size(), authorization.size() - kScheme.size()));
  return Find({key.data(), key.size()});
}

KeyRing::Verdict KeyRing::Admit(std::string_view authorization, std::string_view x_api_key, std::optional<Scope> scope,
                                absl::Time now) const {
  Verdict verdict;
  verdict.tenant = Authenticate(authorization, x_api_key);
  if (verdict.tenant == nullptr) {
    verdict.refused_for = authorization.empty() && x_api_key.empty() ? "missing" : "unknown";
    verdict.refusal = Unauthenticated();
    return verdict;
  }
  const ApiKey* key = verdict.tenant->key.get();
  if (key == nullptr) return verdict;
  if (now >= key->expires_at) {
    verdict.refused_for = "expired";
    verdict.refusal = ExpiredKey();
  } else if (scope.has_value() && !key->scopes.Has(*scope)) {
    verdict.refused_for = "scope";
    verdict.refusal = InsufficientScope(ScopeName(*scope));
  }
  return verdict;
}

uint64_t KeyRing::n_tokens_queued_max(const std::string& tenant) const {
  const auto found = n_tokens_queued_max_.find(tenant);
  return found == n_tokens_queued_max_.end() ? 0 : found->second;
}

}  // namespace longshelf::router
