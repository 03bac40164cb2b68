// The file of API keys. A file that is accepted lets in just those who are in it.
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/check.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "keys/key_file.h"
#include "router/auth.h"
#include "router/namespace_ids.h"

namespace longshelf::router {
namespace {

void CheckKey(const KeyRing& ring, absl::string_view line) {
  const size_t colon = line.find(':');
  LONGSHELF_CHECK(colon != absl::string_view::npos);
  const std::string key(absl::StripAsciiWhitespace(line.substr(colon + 1)));
  // It stands for another one, and is none itself.
  if (absl::StartsWith(key, "sha256:")) {
    LONGSHELF_CHECK(ring.Find(key) == nullptr);
    return;
  }
  const Tenant* tenant = ring.Find(key);
  LONGSHELF_CHECK(tenant != nullptr && tenant->name == absl::StripAsciiWhitespace(line.substr(0, colon)));
  LONGSHELF_CHECK(ring.Authenticate("", key) == tenant);
  LONGSHELF_CHECK(ring.Authenticate(absl::StrCat("bearer ", key), "") == tenant);
  LONGSHELF_CHECK(ring.Authenticate(absl::StrCat("Basic ", key), key) == nullptr);
  LONGSHELF_CHECK(NamespaceName(*tenant, "").size() <= 55 && NamespaceName(*tenant, "user").size() <= 55);
}

void Parse(std::string_view text) {
  const absl::StatusOr<KeyRing> ring = KeyRing::Parse(text);
  if (!ring.ok()) return;
  LONGSHELF_CHECK(!ring->anonymous());
  LONGSHELF_CHECK(ring->Find("") == nullptr && ring->Authenticate("", "") == nullptr);
  LONGSHELF_CHECK(ring->Find("a key that no seed and no word has") == nullptr);
  LONGSHELF_CHECK(ring->Admit("", "", std::nullopt, absl::UnixEpoch()).refusal.has_value());
  if (IsYamlKeyFile(text)) return;
  size_t n_keys = 0;
  for (absl::string_view line : absl::StrSplit(absl::string_view(text.data(), text.size()), '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    CheckKey(*ring, line);
    ++n_keys;
  }
  LONGSHELF_CHECK(n_keys > 0);
}

}  // namespace
}  // namespace longshelf::router

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  return {.inputs = {"# tenants\nalice:sk-1\n\nbob: sk-2 \r\nalice:sk-3\n", "a.b-c_1:k:with:colons", "x:\xc3\xa9",
                     "keys:\n  - tenant: alice\n    name: ci\n    key: sk-1\n    expires: 2027-01-31T00:00:00Z\n"
                     "    scopes: [chat, models]\n    salt: x\n    limits: {requests-at-once: 8, tokens-queued: 9}\n",
                     "keys: \n- &k {tenant: a, key: x}\n- *k\n"},
          .words = {"\n", "\r\n", ":", "#", " ", "alice", "sk-1", "\nalice:sk-1", std::string(1, '\0')}};
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  longshelf::router::Parse(longshelf::fuzz::FuzzInput(data, size).Rest());
  return 0;
}
