#include <openssl/sha.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "keys/key_file.h"
#include "router/limits.h"

namespace longshelf::router {
namespace {

constexpr size_t kTenantNameBytesMax = 40;
constexpr size_t kLabelBytes = 4;  // of a digest: 8 digits tell keys apart

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

bool IsTenantName(absl::string_view name) {
  if (name.empty() || name.size() > kTenantNameBytesMax) return false;
  return std::all_of(name.begin(), name.end(), [](const char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
  });
}

bool IsHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return absl::ascii_isxdigit(c); });
}

}  // namespace

absl::Status KeyFileError(size_t n_line, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("API keys, line ", n_line, ": ", what));
}

KeyDigest DigestOf(std::string_view key) {
  KeyDigest out;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), out.data());
  return out;
}

absl::Status SetTenant(absl::string_view name, ApiKey& to) {
  if (!IsTenantName(name)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the name must be 1 to ", kTenantNameBytesMax, " letters, digits, '-', '_' or '.'"));
  }
  to.tenant = std::string(name);
  return absl::OkStatus();
}

absl::Status SetKey(absl::string_view key, ApiKey& to) {
  if (key.empty() || key.size() > kSizeLimits.api_key_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the key must have 1 to ", kSizeLimits.api_key_bytes, " characters"));
  }
  absl::string_view digits = key;
  if (absl::ConsumePrefix(&digits, "sha256:")) {
    if (digits.size() != 2 * to.digest.size() || !IsHex(digits)) {
      return absl::InvalidArgumentError(
          "behind `sha256:` there must be the 64 hexadecimal digits of the key's SHA-256");
    }
    const std::string bytes = absl::HexStringToBytes(digits);
    std::copy(bytes.begin(), bytes.end(), to.digest.begin());
  } else {
    to.digest = DigestOf({key.data(), key.size()});
  }
  to.label = absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(to.digest.data()), kLabelBytes));
  return absl::OkStatus();
}

bool IsYamlKeyFile(std::string_view text) {
  for (absl::string_view line : absl::StrSplit(View(text), '\n')) {
    line = absl::StripAsciiWhitespace(line.substr(0, line.find('#')));
    if (line.empty() || line == "---") continue;
    return line == "keys:";
  }
  return false;
}

absl::StatusOr<std::vector<ApiKey>> ReadKeyLines(std::string_view text) {
  std::vector<ApiKey> keys;
  size_t n_line = 0;
  for (absl::string_view line : absl::StrSplit(View(text), '\n')) {
    ++n_line;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    const size_t colon = line.find(':');
    if (colon == absl::string_view::npos) return KeyFileError(n_line, "expected name:key");
    ApiKey key;
    absl::Status status = SetTenant(absl::StripAsciiWhitespace(line.substr(0, colon)), key);
    if (status.ok()) status = SetKey(absl::StripAsciiWhitespace(line.substr(colon + 1)), key);
    if (!status.ok()) return KeyFileError(n_line, status.message());
    keys.push_back(std::move(key));
  }
  return keys;
}

}  // namespace longshelf::router
