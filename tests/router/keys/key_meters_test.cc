#include "router/key_meters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "common/metrics.h"

namespace longshelf::router {
namespace {

using ::testing::HasSubstr;

class KeyMetersTest : public ::testing::Test {
 protected:
  static std::shared_ptr<const ApiKey> KeyWith(KeyLimits limits) {
    ApiKey key;
    key.limits = limits;
    return std::make_shared<const ApiKey>(std::move(key));
  }
  // Null: refused, and why is in error_.
  std::optional<KeyMeters::Use> Begin(const std::shared_ptr<const ApiKey>& key) {
    auto begun = meters_.Begin(key, now_);
    if (auto* error = std::get_if<ApiError>(&begun)) {
      error_ = *error;
      return std::nullopt;
    }
    return std::get<KeyMeters::Use>(std::move(begun));
  }

  Metrics registry_{"test"};
  RouterMetrics metrics_{registry_};
  KeyMeters meters_{metrics_};
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  ApiError error_;
};

TEST_F(KeyMetersTest, WithoutLimitsOrKeysNothingIsRefused) {
  for (const auto& key : {std::shared_ptr<const ApiKey>(), KeyWith({})}) {
    std::vector<KeyMeters::Use> uses;
    for (int i = 0; i < 1000; ++i) {
      auto use = Begin(key);
      ASSERT_TRUE(use.has_value());
      EXPECT_FALSE(use->CheckPrompt(1'000'000, now_).has_value());
      use->Charge(1'000'000, now_);
      uses.push_back(*std::move(use));
    }
  }
}

TEST_F(KeyMetersTest, CountsRequestsAtOnceUntilTheyEnd) {
  const auto key = KeyWith({.n_requests_max = 2});
  auto first = Begin(key);
  auto second = Begin(key);
  ASSERT_TRUE(first.has_value() && second.has_value());
  EXPECT_FALSE(Begin(key).has_value());
  EXPECT_EQ(error_.http_status, 429);
  EXPECT_EQ(error_.code, "rate_limit_exceeded");
  EXPECT_THAT(error_.message, HasSubstr("requests at once"));
  EXPECT_EQ(error_.retry_after_s, 1);
  EXPECT_TRUE(Begin(KeyWith({.n_requests_max = 2})).has_value()) << "another key's";
  KeyMeters::Use moved = *std::move(first);
  first.reset();
  EXPECT_FALSE(Begin(key).has_value()) << "it goes on elsewhere";
  moved = {};
  EXPECT_TRUE(Begin(key).has_value());
  EXPECT_THAT(registry_.Serialize(), HasSubstr("longshelf_router_rate_limited_total{limit=\"requests_at_once\"} 2"));
}

TEST_F(KeyMetersTest, CountsRequestsPerMinuteAndSaysWhenToComeBack) {
  const auto key = KeyWith({.n_requests_per_minute = 6});
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(Begin(key).has_value()) << i;
  EXPECT_FALSE(Begin(key).has_value());
  EXPECT_EQ(error_.retry_after_s, 10);
  now_ += absl::Seconds(9);
  EXPECT_FALSE(Begin(key).has_value());
  EXPECT_EQ(error_.retry_after_s, 1);
  now_ += absl::Seconds(1);
  EXPECT_TRUE(Begin(key).has_value()) << "it was told so";
  EXPECT_FALSE(Begin(key).has_value());
}

TEST_F(KeyMetersTest, CountsTokensPerMinuteOfPromptsAndOutput) {
  const auto key = KeyWith({.n_tokens_per_minute = 600});
  auto use = Begin(key);
  ASSERT_TRUE(use.has_value());
  EXPECT_FALSE(use->CheckPrompt(500, now_).has_value());
  use->Charge(500, now_);
  const auto refused = Begin(key)->CheckPrompt(200, now_);
  ASSERT_TRUE(refused.has_value());
  EXPECT_THAT(refused->message, HasSubstr("tokens per minute"));
  EXPECT_EQ(refused->retry_after_s, 10) << "100 more are there then";
  use->Charge(700, now_);  // output, known at its end
  EXPECT_FALSE(Begin(key).has_value());
  EXPECT_EQ(error_.retry_after_s, 61) << "600 too many, and one to begin with";
  now_ += absl::Seconds(61);
  EXPECT_TRUE(Begin(key).has_value());
}

TEST_F(KeyMetersTest, APromptOfMoreThanAMinutesTokensIsComputedWhenNoneWereUsed) {
  const auto key = KeyWith({.n_tokens_per_minute = 600});
  auto use = Begin(key);
  ASSERT_TRUE(use.has_value());
  EXPECT_FALSE(use->CheckPrompt(6000, now_).has_value());
  use->Charge(1, now_);
  EXPECT_TRUE(use->CheckPrompt(6000, now_).has_value());
}

}  // namespace
}  // namespace longshelf::router
