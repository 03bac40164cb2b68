#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/time/time.h"

namespace longshelf::router {

// What a key may be used for. Each route needs one of them; ScopeOf in http_api.h says which.
enum class Scope : uint8_t { kChat, kCompletions, kMessages, kResponses, kModels, kSessions, kCache };
inline constexpr std::array<std::string_view, 7> kScopeNames = {"chat",   "completions", "messages", "responses",
                                                                "models", "sessions",    "cache"};
inline constexpr std::string_view ScopeName(Scope scope) { return kScopeNames.at(static_cast<size_t>(scope)); }

class ScopeSet {
 public:
  static constexpr ScopeSet All() {
    ScopeSet all;
    all.bits_ = (1U << kScopeNames.size()) - 1;
    return all;
  }
  constexpr void Add(Scope scope) { bits_ |= BitOf(scope); }
  constexpr bool Has(Scope scope) const { return (bits_ & BitOf(scope)) != 0; }

 private:
  static constexpr uint32_t BitOf(Scope scope) { return 1U << static_cast<uint32_t>(scope); }
  uint32_t bits_ = 0;
};

// 0: without limit. A router counts for itself: several share nothing.
struct KeyLimits {
  uint32_t n_requests_max = 0;  // at once: from the body's arrival to the answer's end
  uint64_t n_requests_per_minute = 0;
  uint64_t n_tokens_per_minute = 0;  // of prompts and output
  // Of requests that wait for a worker. Of the tenant: its keys say the same.
  uint64_t n_tokens_queued_max = 0;
};

using KeyDigest = std::array<uint8_t, 32>;  // SHA-256

struct ApiKey {
  std::string tenant;
  std::string label;  // for people: its name in the file, or else the first 8 digits of the digest
  KeyDigest digest{};
  absl::Time expires_at = absl::InfiniteFuture();
  ScopeSet scopes = ScopeSet::All();
  std::string salt = {};  // keys of one tenant with different ones share no KV
  KeyLimits limits = {};
};

// Who is asking. The namespace keeps one tenant's KV apart from every other's.
struct Tenant {
  std::string name;
  std::shared_ptr<const ApiKey> key = nullptr;  // that was shown; null where none is asked for

  std::string_view salt() const { return key == nullptr ? std::string_view() : std::string_view(key->salt); }
};

// 0 when equal, in a time that says nothing of where two differ.
using CompareDigests = std::function<int(const KeyDigest& a, const KeyDigest& b)>;
int CompareInConstantTime(const KeyDigest& a, const KeyDigest& b);
// The place of `wanted`, or `keys.size()`. All are compared, whether or where one is equal.
size_t FindDigest(std::span<const KeyDigest> keys, const KeyDigest& wanted,
                  const CompareDigests& compare = CompareInConstantTime);

}  // namespace longshelf::router
