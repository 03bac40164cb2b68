#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "router/api_error.h"
#include "router/api_key.h"

namespace longshelf::router {

// API keys of a router, as SHA-256 digests. Immutable after loading: any thread.
class KeyRing {
 public:
  // No keys: every request is the anonymous tenant's.
  static KeyRing Anonymous();
  // Lines `name:key`; blank lines and lines that start with # are skipped. A name may have several keys. Or YAML, when
  // the first other line is `keys:`; see docs/operating.md.
  // INVALID_ARGUMENT names the line; a file without any key is an error too, never "everything is allowed".
  static absl::StatusOr<KeyRing> Parse(std::string_view text);
  static absl::StatusOr<KeyRing> Load(const std::filesystem::path& file);

  bool anonymous() const { return tenants_.empty(); }
  // The tenant of a key. Takes the same time whichever byte differs: digests are compared, all of them, without an
  // early exit. Null when no key matches. Says nothing of whether the key may be used: see Admit.
  const Tenant* Find(std::string_view key) const;
  // Of the value of an `Authorization` header, and of `x-api-key`; either may be empty.
  const Tenant* Authenticate(std::string_view authorization, std::string_view x_api_key) const;

  struct Verdict {
    const Tenant* tenant = nullptr;        // whose the key is, if it is anybody's; also when it may not be used
    std::string_view refused_for = {};     // "missing", "unknown", "expired" or "scope"
    std::optional<ApiError> refusal = {};  // null: let in; there is a tenant then
  };
  // Whether the request may be made now. `scope` is what it needs; null: any key that is known.
  Verdict Admit(std::string_view authorization, std::string_view x_api_key, std::optional<Scope> scope,
                absl::Time now) const;  // of Clock::WallNow
  // KeyLimits::n_tokens_queued_max of the tenant; 0 = without limit.
  uint64_t n_tokens_queued_max(const std::string& tenant) const;

 private:
  static absl::StatusOr<KeyRing> Of(std::vector<ApiKey> keys);

  std::vector<KeyDigest> digests_;
  std::vector<Tenant> tenants_;  // at the same places
  std::map<std::string, uint64_t, std::less<>> n_tokens_queued_max_;
  Tenant anonymous_{"anonymous"};
};

}  // namespace longshelf::router
