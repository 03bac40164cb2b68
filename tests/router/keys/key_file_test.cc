#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "router/auth.h"
#include "router/router_config.h"
#include "testing/fixtures.h"

namespace longshelf::router {
namespace {

using ::testing::HasSubstr;

constexpr char kFile[] = R"(# people
keys:
  - tenant: alice
    name: ci
    key: sk-one
    expires: 2027-01-31T00:00:00+01:00
    scopes: [chat, models]
    salt: project-x
    limits:
      requests-at-once: 8
      requests_per_minute: 600
      tokens-per-minute: 100000
      tokens-queued: 5000
  - {tenant: alice, key: sk-two, limits: {tokens-queued: 5000}}
  - {tenant: bob, key: sk-three}
)";

std::string Said(const std::string& text) { return std::string(KeyRing::Parse(text).status().message()); }

TEST(KeyFile, AsYamlSaysWhatAKeyMayDoAndHowMuch) {
  const auto ring = KeyRing::Parse(kFile);
  ASSERT_TRUE(ring.ok()) << ring.status();
  const Tenant* ci = ring->Find("sk-one");
  ASSERT_NE(ci, nullptr);
  EXPECT_EQ(ci->name, "alice");
  EXPECT_EQ(ci->salt(), "project-x");
  EXPECT_EQ(ci->key->label, "ci");
  EXPECT_EQ(ci->key->expires_at, absl::FromCivil(absl::CivilSecond(2027, 1, 30, 23), absl::UTCTimeZone()));
  EXPECT_EQ(ci->key->limits.n_requests_max, 8u);
  EXPECT_EQ(ci->key->limits.n_requests_per_minute, 600u);
  EXPECT_EQ(ci->key->limits.n_tokens_per_minute, 100'000u);
  EXPECT_EQ(ring->n_tokens_queued_max("alice"), 5000u);
  EXPECT_EQ(ring->n_tokens_queued_max("bob"), 0u);
  const Tenant* two = ring->Find("sk-two");
  ASSERT_NE(two, nullptr);
  EXPECT_EQ(two->key->label.size(), 8u) << "digits of the digest, where there is no name";
  for (size_t i = 0; i < kScopeNames.size(); ++i) EXPECT_TRUE(two->key->scopes.Has(static_cast<Scope>(i)));
}

TEST(KeyFile, NeedsNotHoldTheKeyItself) {
  // printf sk-hidden | sha256sum
  const std::string digits = "90106aef13831ebc1c7117f89c9d35b546d8061a1a161386bab84985dc5849b4";
  for (const std::string& text :
       {absl::StrCat("keys:\n- {tenant: a, key: 'sha256:", digits, "'}\n"), absl::StrCat("a:sha256:", digits, "\n")}) {
    const auto ring = KeyRing::Parse(text);
    ASSERT_TRUE(ring.ok()) << ring.status();
    EXPECT_NE(ring->Find("sk-hidden"), nullptr);
    EXPECT_EQ(ring->Find("sha256:" + digits), nullptr) << "whoever reads the file must not get in";
  }
}

TEST(KeyFile, SaysWhatIsWrongAndWhere) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"keys:\n  - tenant: a\n    kee: x\n", "line 3: unknown name `kee`; did you mean `key`?"},
      {"keys:\n  - tenant: a\n    key: x\n    scopes: [chats]\n",
       "line 4: unknown scope `chats`; did you mean `chat`?"},
      {"keys:\n  - {tenant: a, key: x, limits: {tokens-per-minut: 1}}\n", "did you mean `tokens-per-minute`?"},
      {"keys:\n  - {tenant: a, key: x, limits: {tokens-per-minute: 0}}\n", "must be a whole number from 1"},
      {"keys:\n  - {tenant: a, key: x, limits: {requests-at-once: 5000000000}}\n", "from 1 to 4294967295"},
      {"keys:\n  - {tenant: a, key: x, limits: {requests-at-once: -1}}\n", "must be a whole number"},
      {"keys:\n  - {tenant: a, key: x, expires: tomorrow}\n", "expires must be a time as RFC 3339"},
      {"keys:\n  - {tenant: a, key: x, expires: infinite-future}\n", "expires must be a time as RFC 3339"},
      {"keys:\n  - {tenant: a, key: x, scopes: []}\n", "scopes must be a list of 1 to 7"},
      {"keys:\n  - {tenant: a, key: x, salt: ''}\n", "salt must be 1 to 256"},
      {"keys:\n  - {tenant: a, key: x, key: y}\n", "key is given twice"},
      {"keys:\n  - {tenant: a}\n", "there is no key"},
      {"keys:\n  - {key: x}\n", "the key has no tenant"},
      {"keys:\n  - {tenant: a, key: ''}\n", "the key must have 1 to"},
      {"keys:\n  - {tenant: a, key: '  '}\n", "blanks around it"},
      {"keys:\n  - {tenant: a, key: 'sha256:12'}\n", "64 hexadecimal digits"},
      {"keys:\n  - {tenant: a, key: [x]}\n", "expected text"},
      {"keys:\n  - {tenant: 'a b', key: x}\n", "the name must be 1 to 40"},
      {"keys:\n  - alice\n", "must be `name: value` lines"},
      {"keys:\n", "keys must be a list"},
      {"keys:\n  - {tenant: a, key: x}\nkeyz: 1\n", "did you mean `keys`?"},
      {"keys:\n  - {tenant: a, key: x\n", "line "},
      {"keys:\n  - {tenant: a, key: x}\n  - {tenant: b, key: x}\n", "is listed twice"},
      {"keys:\n  - {tenant: a, key: x, limits: {tokens-queued: 1}}\n  - {tenant: a, key: y}\n", "must say the same"},
      {"a:sha256:12\n", "64 hexadecimal digits"},
      {absl::StrCat("keys:\n#", std::string(1 << 20, '#')), "larger than 1048576 bytes"},
      {absl::StrCat("keys:\n", std::string(10'000, '[')), "line "},
  };
  for (const auto& [text, message] : cases) EXPECT_THAT(Said(text), HasSubstr(message)) << text.substr(0, 100);
}

TEST(KeyFile, DoesNotTellAKeyInItsErrors) {
  for (const char* text : {"keys:\n  - {tenant: a b, key: sk-canary}\n", "a b:sk-canary\n",
                           "keys:\n  - {tenant: a, key: sk-canary}\n  - {tenant: b, key: sk-canary}\n"}) {
    EXPECT_THAT(Said(text), ::testing::Not(HasSubstr("canary")));
    EXPECT_FALSE(Said(text).empty());
  }
}

TEST(KeyFile, IsReadNoFurtherThanItMayBeLarge) {
  const auto ring = KeyRing::Load("/dev/zero");
  EXPECT_THAT(std::string(ring.status().message()), HasSubstr("larger than"));
}

TEST(KeyRing, RefusesExpiredKeysAndThoseWithoutTheScope) {
  const auto ring = KeyRing::Parse(kFile);
  ASSERT_TRUE(ring.ok());
  const absl::Time expiry = ring->Find("sk-one")->key->expires_at;
  const absl::Time before = expiry - absl::Milliseconds(1);
  EXPECT_FALSE(ring->Admit("", "sk-one", Scope::kChat, before).refusal.has_value());
  EXPECT_FALSE(ring->Admit("", "sk-one", std::nullopt, before).refusal.has_value());
  const auto scope = ring->Admit("Bearer sk-one", "", Scope::kCache, before);
  ASSERT_TRUE(scope.refusal.has_value());
  EXPECT_EQ(scope.refusal->http_status, 403);
  EXPECT_EQ(scope.refusal->code, "insufficient_scope");
  EXPECT_THAT(scope.refusal->message, HasSubstr("`cache`"));
  EXPECT_EQ(scope.refused_for, "scope");
  const auto expired = ring->Admit("Bearer sk-one", "", Scope::kChat, expiry);
  ASSERT_TRUE(expired.refusal.has_value());
  EXPECT_EQ(expired.refusal->http_status, 401);
  EXPECT_EQ(expired.refusal->code, "expired_api_key");
  EXPECT_EQ(expired.tenant->name, "alice") << "whose it was is for the audit log";
  EXPECT_EQ(ring->Admit("", "", Scope::kChat, before).refused_for, "missing");
  EXPECT_EQ(ring->Admit("", "sk-four", Scope::kChat, before).refused_for, "unknown");
  EXPECT_EQ(ring->Admit("", "sk-four", Scope::kChat, before).refusal->code, "invalid_api_key");
  EXPECT_FALSE(ring->Admit("", "sk-three", Scope::kCache, absl::FromUnixSeconds(4'000'000'000)).refusal.has_value());
}

TEST(KeyRing, SEC_12_ComparesAllDigestsWhicheverIsEqual) {
  std::vector<KeyDigest> keys(5);
  for (size_t i = 0; i < keys.size(); ++i) keys[i].fill(static_cast<uint8_t>(i));
  for (size_t wanted = 0; wanted <= keys.size(); ++wanted) {
    KeyDigest digest;
    digest.fill(static_cast<uint8_t>(wanted));
    size_t n_compared = 0;
    const size_t found = FindDigest(keys, digest, [&](const KeyDigest& a, const KeyDigest& b) {
      ++n_compared;
      return CompareInConstantTime(a, b);
    });
    EXPECT_EQ(found, wanted);
    EXPECT_EQ(n_compared, keys.size()) << "no early exit";
  }
}

TEST(RouterOptions, SEC_05_AnEmptyOrBlankTokenIsNoToken) {
  const auto dir = longshelf::testing::MakeTempDir("tokens");
  for (const std::string text : {"", " \n\t "}) {
    const std::string path = (dir / absl::StrCat("token", text.size())).string();
    std::ofstream(path) << text;
    for (const char* option : {"internal-token-file", "tenant-secret-file", "admin-token-file"}) {
      RouterConfig config;
      ConfigSpec spec = RouterOptions(&config);
      const ParseOutcome outcome =
          spec.Parse({"--model=m", "--workers=w:1", absl::StrCat("--", option, "=", path)}, {});
      EXPECT_EQ(outcome.exit_code, kExitConfig) << option;
      EXPECT_THAT(outcome.text, HasSubstr(path)) << option;
    }
    EXPECT_FALSE(KeyRing::Load(path).ok());
  }
}

}  // namespace
}  // namespace longshelf::router
