#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace longshelf::router {

// Who is asking. The namespace keeps one tenant's KV apart from every other's.
struct Tenant {
  std::string name;
};

// API keys of a router, as SHA-256 digests. Immutable after loading: any thread.
class KeyRing {
 public:
  // No keys: every request is the anonymous tenant's.
  static KeyRing Anonymous();
  // Lines `name:key`; blank lines and lines that start with # are skipped. A name may have several keys.
  // INVALID_ARGUMENT names the line; a file without any key is an error too, never "everything is allowed".
  static absl::StatusOr<KeyRing> Parse(std::string_view text);
  static absl::StatusOr<KeyRing> Load(const std::filesystem::path& file);

  bool anonymous() const { return entries_.empty(); }
  // The tenant of a key. Takes the same time whichever byte differs: digests are compared, all of them, without an
  // early exit. Null when no key matches.
  const Tenant* Find(std::string_view key) const;
  // Of the value of an `Authorization` header, and of `x-api-key`; either may be empty.
  const Tenant* Authenticate(std::string_view authorization, std::string_view x_api_key) const;

 private:
  struct Entry {
    Tenant tenant;
    std::array<uint8_t, 32> digest{};
  };
  std::vector<Entry> entries_;
  Tenant anonymous_{"anonymous"};
};

}  // namespace longshelf::router
