#include "router/session.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <string>

#include "router/api_request.h"

namespace longshelf::router {
namespace {

SessionInfo Info() {
  SessionInfo info;
  info.id = "agent-7:main";
  info.model = "demo";
  info.created = absl::FromUnixMillis(1'000'000);
  info.parked_at = absl::FromUnixMillis(2'000'000);
  info.retain_until = absl::FromUnixMillis(9'000'000);
  info.n_prompt_tokens = 70'000;
  info.n_output_tokens = 12;
  info.durability = Durability::kDisk;
  info.fingerprint = std::string(32, 'f');
  info.body_key = std::string(32, 'b');
  info.body_bytes = 500;
  info.kv = ParkedKv{.state = {69'888, 300, 1 << 20, std::string(32, 'c')},
                     .block_tokens = 256,
                     .trail = {std::string(32, '1'), std::string(32, '2')}};
  return info;
}

Session Body() {
  Session session;
  session.is_chat = false;
  session.body = R"({"prompt":"x"})";
  session.prompt = std::make_shared<const std::vector<uint32_t>>(std::vector<uint32_t>{1, 2, 3});
  session.output = {4, 5};
  session.seed = ~uint64_t{0};
  session.request_id = "req-1";
  session.namespace_id = "alice";
  return session;
}

TEST(SessionBytes, ComeBackAsTheyWere) {
  const auto card = CardFromBytes(CardToBytes(Info()));
  ASSERT_TRUE(card.ok()) << card.status();
  EXPECT_EQ(card->id, "agent-7:main");
  EXPECT_EQ(card->retain_until, Info().retain_until);
  EXPECT_EQ(card->durability, Durability::kDisk);
  EXPECT_EQ(card->kv->trail, Info().kv->trail);
  EXPECT_EQ(card->kv->state.checkpoint_key, std::string(32, 'c'));
  const auto body = BodyFromBytes(BodyToBytes(Body()), 10);
  ASSERT_TRUE(body.ok()) << body.status();
  EXPECT_EQ(*body->prompt, *Body().prompt);
  EXPECT_EQ(body->output, Body().output);
  EXPECT_EQ(body->seed, ~uint64_t{0});
  EXPECT_FALSE(body->is_chat);
  EXPECT_EQ(body->body, Body().body);
  EXPECT_EQ(body->namespace_id, "alice");
}

TEST(SessionBytes, TokensThatThisModelDoesNotHaveAreRefused) {
  EXPECT_EQ(BodyFromBytes(BodyToBytes(Body()), 5).status().code(), absl::StatusCode::kDataLoss);
  Session empty = Body();
  empty.prompt = std::make_shared<const std::vector<uint32_t>>();
  EXPECT_EQ(BodyFromBytes(BodyToBytes(empty), 10).status().code(), absl::StatusCode::kDataLoss);
}

TEST(SessionBytes, ACardIsNotCutToFitButRefused) {
  const auto refuses = [](const std::function<void(SessionInfo&)>& change) {
    SessionInfo info = Info();
    change(info);
    EXPECT_EQ(CardFromBytes(CardToBytes(info)).status().code(), absl::StatusCode::kDataLoss);
  };
  // Cut at the limit, this name would end inside a character and could not be stored again.
  refuses([](SessionInfo& info) { info.model = std::string(kSizeLimits.model_name_bytes - 1, 'm') + "é"; });
  refuses([](SessionInfo& info) { info.finish_reason = std::string(65, 'x'); });
  refuses([](SessionInfo& info) { info.kv->trail.push_back(std::string(31, 't')); });
}

TEST(SessionBytes, DamageIsAnErrorAndNothingElse) {
  std::mt19937_64 random(7);
  const std::string card = CardToBytes(Info());
  const std::string body = BodyToBytes(Body());
  for (size_t n = 0; n < card.size(); ++n) (void)CardFromBytes(card.substr(0, n));
  for (size_t n = 0; n < body.size(); ++n) (void)BodyFromBytes(body.substr(0, n), 10);
  for (int round = 0; round < 20'000; ++round) {
    std::string spoilt = round % 2 == 0 ? card : body;
    for (uint64_t flips = 1 + random() % 8; flips > 0; --flips) {
      spoilt[random() % spoilt.size()] ^= static_cast<char>(1 << random() % 8);
    }
    const auto as_card = CardFromBytes(spoilt);
    EXPECT_TRUE(!as_card.ok() || !CheckSessionId(as_card->id).has_value());
    const auto as_body = BodyFromBytes(spoilt, 10);
    if (as_body.ok()) {
      for (const uint32_t token : *as_body->prompt) ASSERT_LT(token, 10u);
    }
  }
}

ParseLimits Limits() { return {kSizeLimits, 1000}; }

TEST(SessionFields, AreReadFromTheBody) {
  const auto parse = [](const std::string& session) {
    return ParseRequestBody(Api::kCompletions, R"({"prompt":"x","session":)" + session + "}", Limits());
  };
  const auto named = parse(R"("my-session")");
  ASSERT_TRUE(std::holds_alternative<ApiRequest>(named));
  EXPECT_EQ(std::get<ApiRequest>(named).session, "my-session");
  EXPECT_FALSE(std::get<ApiRequest>(named).park.has_value());
  EXPECT_FALSE(std::get<ApiRequest>(named).body.empty());
  const auto parked = std::get<ApiRequest>(parse(R"({"id":"a","retention_s":60,"durability":"disk_all"})"));
  EXPECT_EQ(parked.park->retention, absl::Seconds(60));
  EXPECT_EQ(parked.park->durability, Durability::kDiskAll);
  for (const auto& [session, param] : std::vector<std::pair<std::string, std::string>>{
           {"5", "session"},
           {R"("")", "session"},
           {R"("a b")", "session"},
           {R"("../x")", "session"},
           {"\"" + std::string(129, 'a') + "\"", "session"},
           {R"({"retention_s":60})", "session"},
           {R"({"id":"a","durability":"disk"})", "session.retention_s"},
           {R"({"id":"a","retention_s":0})", "session.retention_s"},
           {R"({"id":"a","retention_s":60,"durability":"x"})", "session.durability"}}) {
    const auto refused = parse(session);
    ASSERT_TRUE(std::holds_alternative<ApiError>(refused)) << session;
    EXPECT_EQ(std::get<ApiError>(refused).param, param) << session;
  }
}

}  // namespace
}  // namespace longshelf::router
