#include "router/auth.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "router/limits.h"

namespace longshelf::router {
namespace {

constexpr size_t kMaxTenantNameBytes = 40;
constexpr size_t kMaxKeyFileBytes = size_t{4} << 20;

std::array<uint8_t, 32> Sha256(std::string_view text) {
  std::array<uint8_t, 32> out;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), out.data());
  return out;
}

bool IsTenantName(absl::string_view name) {
  if (name.empty() || name.size() > kMaxTenantNameBytes) return false;
  for (const char c : name) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '_' && c != '.') return false;
  }
  return true;
}

}  // namespace

KeyRing KeyRing::Anonymous() { return {}; }

absl::StatusOr<KeyRing> KeyRing::Parse(std::string_view text) {
  KeyRing ring;
  size_t n_line = 0;
  for (absl::string_view line : absl::StrSplit(absl::string_view(text.data(), text.size()), '\n')) {
    ++n_line;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    const size_t colon = line.find(':');
    if (colon == absl::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat("API keys, line ", n_line, ": expected name:key"));
    }
    const absl::string_view name = absl::StripAsciiWhitespace(line.substr(0, colon));
    const absl::string_view key = absl::StripAsciiWhitespace(line.substr(colon + 1));
    if (!IsTenantName(name)) {
      return absl::InvalidArgumentError(absl::StrCat("API keys, line ", n_line, ": the name must be 1 to ",
                                                     kMaxTenantNameBytes, " letters, digits, '-', '_' or '.'"));
    }
    if (key.empty() || key.size() > kSizeLimits.api_key_bytes) {
      return absl::InvalidArgumentError(absl::StrCat("API keys, line ", n_line, ": the key must have 1 to ",
                                                     kSizeLimits.api_key_bytes, " characters"));
    }
    Entry entry{Tenant{std::string(name)}, Sha256({key.data(), key.size()})};
    for (const Entry& other : ring.entries_) {
      if (other.digest == entry.digest) {
        return absl::InvalidArgumentError(absl::StrCat("API keys, line ", n_line, ": this key is listed twice"));
      }
    }
    ring.entries_.push_back(std::move(entry));
  }
  if (ring.entries_.empty()) {
    return absl::InvalidArgumentError("API keys: the file holds no key; remove the option to serve without keys");
  }
  return ring;
}

absl::StatusOr<KeyRing> KeyRing::Load(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  if (in) text << in.rdbuf();
  if (!in) return absl::NotFoundError(absl::StrCat("cannot read the API key file ", file.string()));
  if (text.view().size() > kMaxKeyFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the API key file is larger than ", kMaxKeyFileBytes, " bytes"));
  }
  return Parse(text.view());
}

const Tenant* KeyRing::Find(std::string_view key) const {
  if (key.empty() || key.size() > kSizeLimits.api_key_bytes) return nullptr;
  const std::array<uint8_t, 32> digest = Sha256(key);
  const Tenant* found = nullptr;
  for (const Entry& entry : entries_) {
    if (CRYPTO_memcmp(entry.digest.data(), digest.data(), digest.size()) == 0) found = &entry.tenant;
  }
  return found;
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

}  // namespace longshelf::router
