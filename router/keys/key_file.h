#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "router/api_key.h"

namespace longshelf::router {

// Files of API keys, in either form; see KeyRing::Parse. Every error names the line. Whether two keys are one is not
// checked here.
bool IsYamlKeyFile(std::string_view text);
absl::StatusOr<std::vector<ApiKey>> ReadKeyLines(std::string_view text);
absl::StatusOr<std::vector<ApiKey>> ReadYamlKeys(std::string_view text);

absl::Status KeyFileError(size_t n_line, absl::string_view what);
KeyDigest DigestOf(std::string_view key);
// Sets tenant, digest and label. `key` is the key itself or `sha256:` and the 64 digits of its SHA-256.
absl::Status SetTenant(absl::string_view name, ApiKey& to);
absl::Status SetKey(absl::string_view key, ApiKey& to);

}  // namespace longshelf::router
