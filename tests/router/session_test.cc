#include "router/session.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "parked_session.h"
#include "router/api_request.h"
#include "sessions/session_objects.h"
#include "sessions/session_table.h"

namespace longshelf::router {
namespace {

using testing::ParkedBody;
using testing::ParkedCard;

TEST(SessionBytes, ComeBackAsTheyWere) {
  const auto card = CardFromBytes(CardToBytes(ParkedCard()));
  ASSERT_TRUE(card.ok()) << card.status();
  EXPECT_EQ(card->id, "refactor-7:main");
  EXPECT_EQ(card->retain_until, ParkedCard().retain_until);
  EXPECT_EQ(card->answer_at, ParkedCard().parked_at) << "of a card that does not say it";
  SessionInfo kept_longer = ParkedCard();
  kept_longer.answer_at = absl::FromUnixMillis(1'500'000);
  EXPECT_EQ(CardFromBytes(CardToBytes(kept_longer))->answer_at, kept_longer.answer_at);
  EXPECT_EQ(card->durability, Durability::kDisk);
  EXPECT_EQ(card->kv->trail, ParkedCard().kv->trail);
  EXPECT_EQ(card->kv->state.checkpoint_key, std::string(32, 'c'));
  const auto body = BodyFromBytes(BodyToBytes(ParkedBody()), 10);
  ASSERT_TRUE(body.ok()) << body.status();
  EXPECT_EQ(*body->prompt, *ParkedBody().prompt);
  EXPECT_EQ(body->output, ParkedBody().output);
  EXPECT_EQ(body->seed, ~uint64_t{0});
  EXPECT_FALSE(body->is_chat);
  EXPECT_EQ(*body->body, *ParkedBody().body);
  EXPECT_EQ(body->namespace_id, "alice");
}

TEST(SessionBytes, TokensThatThisModelDoesNotHaveAreRefused) {
  EXPECT_EQ(BodyFromBytes(BodyToBytes(ParkedBody()), 5).status().code(), absl::StatusCode::kDataLoss);
  Session empty = ParkedBody();
  empty.prompt = std::make_shared<const std::vector<uint32_t>>();
  EXPECT_EQ(BodyFromBytes(BodyToBytes(empty), 10).status().code(), absl::StatusCode::kDataLoss);
}

TEST(SessionBytes, ACardIsNotCutToFitButRefused) {
  const auto refuses = [](const std::function<void(SessionInfo&)>& change) {
    SessionInfo info = ParkedCard();
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
  const std::string card = CardToBytes(ParkedCard());
  const std::string body = BodyToBytes(ParkedBody());
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

TEST(SessionBytes, ADeletedOneSaysSo) {
  SessionInfo deleted;
  deleted.id = "x";
  deleted.is_deleted = true;
  deleted.body_key = std::string(32, 'b');
  const auto card = CardFromBytes(CardToBytes(deleted));
  ASSERT_TRUE(card.ok()) << card.status();
  EXPECT_TRUE(card->is_deleted);
  EXPECT_FALSE(CardFromBytes(CardToBytes(ParkedCard()))->is_deleted);
}

class SessionTableTest : public ::testing::Test {
 protected:
  // An answer of `n_tokens` that has ended.
  void AddIdle(const std::string& tenant, const std::string& id, size_t n_tokens) {
    const auto entry = std::make_shared<SessionEntry>(Tenant{tenant}, [](const auto&) {});
    entry->session.id = id;
    entry->session.prompt = std::make_shared<const std::vector<uint32_t>>(n_tokens);
    table_.Add(entry);
    table_.SetIdle(*entry, absl::UnixEpoch());
  }
  bool Has(const std::string& tenant, const std::string& id) { return table_.Find({tenant}, id) != nullptr; }

  SessionTable table_{4000, 4};  // bytes: a thousand tokens
};

TEST_F(SessionTableTest, ForgetsTheOldestOfTheTenantThatHasMost) {
  AddIdle("small", "first", 200);
  for (const char* id : {"a", "b", "c"}) AddIdle("large", id, 300);
  EXPECT_TRUE(Has("small", "first"));
  EXPECT_FALSE(Has("large", "a"));
  EXPECT_TRUE(Has("large", "b"));
  EXPECT_TRUE(Has("large", "c"));
}

TEST_F(SessionTableTest, CountsToo) {
  AddIdle("small", "first", 1);
  for (const char* id : {"a", "b", "c", "d"}) AddIdle("large", id, 1);
  EXPECT_TRUE(Has("small", "first"));
  EXPECT_FALSE(Has("large", "a"));
  EXPECT_TRUE(Has("large", "b"));
}

TEST_F(SessionTableTest, ARunningAnswerIsNeverForgottenAndWhatItReplacesIsNotCounted) {
  const auto running = std::make_shared<SessionEntry>(Tenant{"small"}, [](const auto&) {});
  running->session.id = "running";
  running->session.prompt = std::make_shared<const std::vector<uint32_t>>(5000);
  table_.Add(running);
  for (int i = 0; i < 100; ++i) AddIdle("large", "same", 900);
  EXPECT_TRUE(Has("small", "running"));
  EXPECT_TRUE(Has("large", "same"));
  AddIdle("large", "larger", 5000);
  EXPECT_FALSE(Has("large", "larger")) << "more than there is room for";
  table_.Forget(*running);
  EXPECT_FALSE(Has("small", "running"));
}

TEST(SessionObjects, ATrailTellsTheFirstBlocksOneByOne) {
  std::vector<kvstore::BlockKey> chain(100);
  for (size_t i = 0; i < chain.size(); ++i) chain[i].fill(static_cast<uint8_t>(i));
  const auto first_bytes = [](const std::vector<std::string>& trail) {
    std::vector<int> out;
    for (const std::string& key : trail) out.push_back(static_cast<uint8_t>(key[0]));
    return out;
  };
  EXPECT_EQ(first_bytes(TrailOf(chain, 256, 3 * 256 + 255)), (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(first_bytes(TrailOf(chain, 256, 50 * 256)),
            (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 31, 47}));
}

TEST(SessionObjects, OnlyWhatNobodyElseHasIsDropped) {
  Session session;
  session.prompt = std::make_shared<const std::vector<uint32_t>>(60 * 256);
  SessionInfo info = ParkedCard();
  info.fingerprint = std::string(32, 'f');
  info.kv->state.n_tokens = 60 * 256;
  const std::vector<kvstore::PlacedKey> all = ObjectsOf(info, session, "salt");
  ASSERT_EQ(all.size(), 62u);
  const auto text = [&](size_t block) {
    return std::string(reinterpret_cast<const char*>(all[block].key.hash.data()), all[block].key.hash.size());
  };
  const auto n_kept = [&](std::vector<std::string> trail, const std::string& checkpoint) {
    SessionInfo other = ParkedCard();
    other.kv->trail = std::move(trail);
    other.kv->state.checkpoint_key = checkpoint;
    OwnObjects own(info, session, "salt");
    own.LeaveTo(other);
    std::vector<kvstore::PlacedKey> keys;
    own.AddTo(keys);
    return all.size() - keys.size();
  };
  EXPECT_EQ(n_kept({}, "another"), 0u);
  EXPECT_EQ(n_kept({text(0), text(1)}, "another"), 2u);
  // What lies between two places of a trail may be shared.
  EXPECT_EQ(n_kept({text(14), text(15)}, "another"), 31u);
  EXPECT_EQ(n_kept({text(15), text(31)}, "another"), 47u);
  EXPECT_EQ(n_kept({}, info.kv->state.checkpoint_key), 2u);
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
  EXPECT_NE(std::get<ApiRequest>(named).body, nullptr);
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
