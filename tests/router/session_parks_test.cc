// Parks that overlap with what others do to the session, and what is left in the store.
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <set>

#include "router/session.h"
#include "sessions_fixture.h"

namespace longshelf::router::testing {
namespace {

class SessionParksTest : public SessionsTest {
 protected:
  bool Gone(const State& state) {
    const absl::Time patience = clock_.Now() + absl::Seconds(10);
    while (IsStored(state) && clock_.Now() < patience) {
    }
    return !IsStored(state);
  }
  bool IsStoredBlock(const State& state, size_t i) {
    return IsStored({state.blocks[i], ObjectKind::kBlock}, state.fingerprint);
  }
  using SessionsTest::IsStored;
  // Parks an answer to `prompt` as a session with this state.
  State ParkWithState(RouterHarness& router, const std::vector<uint32_t>& prompt, uint8_t checkpoint,
                      const std::string& id = "s", bool with_blocks = true) {
    SetCheckpoint(router, checkpoint);
    ParkAt(router, 3, prompt, id);
    return StoreState(router, prompt, checkpoint, with_blocks);
  }
  // A card as a router would have written it, under a name that comes before those of other sessions.
  void StoreCard(uint32_t number, const SessionInfo& card, uint32_t depth) {
    kvstore::ObjectHead head;
    head.key.kind = ObjectKind::kManifest;
    for (size_t i = 0; i < sizeof number; ++i) head.key.hash[4 + i] = static_cast<uint8_t>(number >> (8 * i));
    head.parent = NameOf(absl::StrCat("sessions/1/", kTenant));
    head.depth_tokens = depth;
    head.fingerprint = ManifestFingerprint();
    head.namespace_id = kTenant;
    StoreBytes(head, CardToBytes(card));
  }
  static kvstore::Fingerprint ManifestFingerprint() {
    kvstore::Fingerprint fingerprint{};
    constexpr std::string_view kName = "longshelf sessions/1";
    std::copy(kName.begin(), kName.end(), fingerprint.begin());
    return fingerprint;
  }
};

TEST_F(SessionParksTest, ASessionThatIsDeletedWhileItIsParkedStaysDeleted) {
  RouterHarness router(1, config_);
  router.workers[0]->HoldParks(true);
  SetCheckpoint(router, 1);
  ASSERT_EQ(router.Do("POST", "/v1/completions", ParkedAtEnd(2)).result_int(), 200u);
  ASSERT_TRUE(router.workers[0]->AwaitParks(1));
  const State state = StoreState(router, {5, 6, 7}, 1);
  EXPECT_EQ(Delete(router), 200u);
  router.workers[0]->ReleaseParks();
  Drain(router);
  RouterHarness elsewhere(1, config_);
  EXPECT_EQ(elsewhere.Do("GET", "/v1/sessions/s").result_int(), 404u);
  EXPECT_FALSE(IsStored(state));
}

TEST_F(SessionParksTest, AParkThatEndsLateDoesNotTakeThePlaceOfANewerAnswer) {
  RouterHarness router(1, config_);
  RouterHarness elsewhere(1, config_);
  router.workers[0]->HoldParks(true);
  SetCheckpoint(router, 1);
  ASSERT_EQ(router.Do("POST", "/v1/completions", ParkedAtEnd(2)).result_int(), 200u);
  ASSERT_TRUE(router.workers[0]->AwaitParks(1));
  const State state = StoreState(router, {5, 6, 7}, 1);
  router.workers[0]->HoldParks(false);
  SetCheckpoint(router, 2);
  ASSERT_EQ(router.Do("POST", "/v1/completions", ParkedAtEnd(4)).result_int(), 200u);
  ASSERT_TRUE(Await(elsewhere, "output_tokens", 4));
  router.workers[0]->ReleaseParks();
  Drain(router);
  EXPECT_EQ(Get(elsewhere)["output_tokens"], 4);
  EXPECT_FALSE(IsStored(state)) << "nobody can name it";
}

TEST_F(SessionParksTest, WhatGoesOnBeforeItsBeginningIsParkedIsTheSession) {
  RouterHarness router(1, config_);
  router.workers[0]->SetScript(Held(3));
  router.workers[0]->HoldParks(true);
  TestClient client(router.service->http_port());
  client.Send(RequestText("POST", "/v1/completions", Completion({5, 6, 7}, "s", 5)));
  ASSERT_TRUE(Await(router, "output_tokens", 3));
  TestClient parker(router.service->http_port());
  parker.Send(RequestText("POST", "/v1/sessions/s/park", kPark));
  ASSERT_TRUE(router.workers[0]->AwaitParks(1));
  router.workers[0]->SetScript({RouterHarness::AnswerTokens()});
  router.workers[0]->HoldParks(false);
  ASSERT_EQ(Resume(router).result_int(), 200u);
  // The beginning is stored first, and then what goes on with it.
  router.workers[0]->ReleaseParks();
  EXPECT_EQ(parker.Read().result_int(), 200u);
  EXPECT_EQ(Park(router)["output_tokens"], 5);
  RouterHarness elsewhere(1, config_);
  EXPECT_EQ(Get(elsewhere)["output_tokens"], 5);
}

TEST_F(SessionParksTest, ASessionThatIsDeletedElsewhereWhileItIsParkedStaysDeleted) {
  RouterHarness first(1, config_);
  RouterHarness second(1, config_);
  ParkAt(first, 3);
  first.workers[0]->SetScript({RouterHarness::AnswerTokens()});
  first.workers[0]->HoldParks(true);
  ASSERT_EQ(first.Do("POST", "/v1/completions", ParkedAtEnd(2)).result_int(), 200u);
  ASSERT_TRUE(first.workers[0]->AwaitParks(2));
  EXPECT_EQ(Delete(second), 200u);
  first.workers[0]->ReleaseParks();
  Drain(first);
  EXPECT_EQ(second.Do("GET", "/v1/sessions/s").result_int(), 404u);
}

TEST_F(SessionParksTest, AnAnswerThatIsMadeWhileTheLastOneIsKeptLongerElsewhereStays) {
  RouterHarness first(1, config_);
  RouterHarness second(1, config_);
  ParkAt(first, 3);
  first.workers[0]->SetScript(Held(1));
  TestClient client(first.service->http_port());
  client.Send(RequestText("POST", "/v1/completions", ParkedAtEnd(5)));
  ASSERT_TRUE(Await(first, "output_tokens", 1));
  EXPECT_EQ(Park(second)["output_tokens"], 3);
  first.workers[0]->Release();
  EXPECT_EQ(client.Read().result_int(), 200u);
  Drain(first);
  EXPECT_EQ(Get(second)["output_tokens"], 5);
}

TEST_F(SessionParksTest, ParksOfOneAnswerDoNotRefuseEachOther) {
  RouterHarness router(1, config_);
  router.workers[0]->HoldParks(true);
  ASSERT_EQ(router.Do("POST", "/v1/completions", ParkedAtEnd(2)).result_int(), 200u);
  ASSERT_TRUE(router.workers[0]->AwaitParks(1));
  std::vector<std::unique_ptr<TestClient>> clients;
  for (size_t i = 0; i < 4; ++i) {
    clients.push_back(std::make_unique<TestClient>(router.service->http_port()));
    clients.back()->Send(RequestText("POST", "/v1/sessions/s/park", kPark));
  }
  ASSERT_TRUE(router.workers[0]->AwaitParks(5));
  router.workers[0]->ReleaseParks();
  for (const auto& client : clients) EXPECT_EQ(client->Read().result_int(), 200u);
  // Nor do those of one that is in the store alone.
  RouterHarness elsewhere(1, config_);
  clients.clear();
  for (size_t i = 0; i < 4; ++i) {
    clients.push_back(std::make_unique<TestClient>(elsewhere.service->http_port()));
    clients.back()->Send(RequestText("POST", "/v1/sessions/s/park", kPark));
  }
  for (const auto& client : clients) EXPECT_EQ(client->Read().result_int(), 200u);
}

TEST_F(SessionParksTest, TheStateOfWhatIsReplacedIsDropped) {
  RouterHarness router(1, config_);
  // Two full blocks, of which the first is the same.
  std::vector<uint32_t> prompt = Numbers(700);
  const State first = ParkWithState(router, prompt, 1);
  std::fill(prompt.begin() + kBlockTokens, prompt.end(), 9u);
  SetCheckpoint(router, 2);
  ParkAt(router, 4, prompt);
  EXPECT_TRUE(Gone(first));
  EXPECT_TRUE(IsStoredBlock(first, 0));
  EXPECT_FALSE(IsStoredBlock(first, 1));
  const State second = StoreState(router, prompt, 2, /*with_blocks=*/false);
  EXPECT_EQ(Delete(router), 200u);
  EXPECT_FALSE(IsStored(second));
  EXPECT_FALSE(IsStoredBlock(first, 0));
}

TEST_F(SessionParksTest, CardsOfDeletedSessionsHideNothing) {
  RouterHarness router(1, config_);
  SessionInfo deleted;
  deleted.is_deleted = true;
  deleted.body_key = std::string(BlockKey().size(), 'b');
  for (uint32_t i = 0; i <= 1000; ++i) {
    deleted.id = absl::StrCat("deleted-", i);
    StoreCard(i, deleted, 1);
  }
  const std::vector<uint32_t> prompt = Numbers(300);
  const State state = ParkWithState(router, prompt, 1);
  router.workers[0]->SetCheckpointKey(std::nullopt);
  for (const char* id : {"a", "b", "c"}) ParkAt(router, 2, {5, 6, 7}, id);
  std::set<std::string> listed;
  std::string after;
  for (const size_t n : {2u, 2u}) {
    const json page = Parsed(router.Do("GET", absl::StrCat("/v1/sessions?limit=2", after)));
    ASSERT_EQ(page["data"].size(), n) << page;
    for (const json& session : page["data"]) listed.insert(session["id"]);
    if (!page["next"].is_null()) after = absl::StrCat("&after=", page["next"].get<std::string>());
    EXPECT_EQ(page["has_more"], listed.size() < 4);
  }
  EXPECT_EQ(listed, (std::set<std::string>{"a", "b", "c", "s"}));
  EXPECT_EQ(Delete(router), 200u);
  EXPECT_FALSE(IsStored(state));
  EXPECT_FALSE(IsStoredBlock(state, 0));
}

TEST_F(SessionParksTest, WhatASessionWithAnUnreadableCardMayShareIsLeft) {
  RouterHarness router(1, config_);
  std::vector<uint32_t> prompt = Numbers(700);
  const State first = ParkWithState(router, prompt, 1, "s1");
  prompt.back() = 9;
  ParkWithState(router, prompt, 2, "s2", /*with_blocks=*/false);
  const kvstore::ObjectHead card = Cards("s2").back();
  store_->Drop(std::span(&card.key, 1));
  StoreBytes(card, "of another format");
  const json list = Parsed(router.Do("GET", "/v1/sessions"));
  EXPECT_EQ(list["data"].size(), 1u);
  EXPECT_EQ(list.value("n_unreadable", 0), 1) << list;
  EXPECT_EQ(Delete(router, "s1"), 200u);
  EXPECT_EQ(router.Do("GET", "/v1/sessions/s1").result_int(), 404u);
  EXPECT_TRUE(IsStoredBlock(first, 0));
  EXPECT_TRUE(IsStoredBlock(first, 1));
  // It can be deleted all the same.
  RouterHarness elsewhere(1, config_);
  EXPECT_EQ(elsewhere.Do("GET", "/v1/sessions/s2").result_int(), 500u);
  EXPECT_EQ(Delete(router, "s2"), 200u);
  EXPECT_EQ(router.Do("GET", "/v1/sessions/s2").result_int(), 404u);
}

// ---- a router that ends

class RouterEndTest : public SessionParksTest {
 protected:
  // Is being made, and is to be parked at its end.
  std::unique_ptr<TestClient> Begin(RouterHarness& router, uint32_t n) {
    router.workers[0]->SetScript(Held(n));
    auto client = std::make_unique<TestClient>(router.service->http_port());
    client->Send(RequestText("POST", "/v1/completions", ParkedAtEnd(50)));
    EXPECT_TRUE(Await(router, "output_tokens", n));
    return client;
  }
  // Another router goes on with it behind its `n` tokens.
  void ExpectUnfinished(uint32_t n, bool has_state = true) {
    RouterHarness elsewhere(1, config_);
    json session = Get(elsewhere);
    EXPECT_EQ(session["status"], "unfinished") << session;
    EXPECT_EQ(session["output_tokens"], n);
    EXPECT_EQ(session["kv"].is_null(), !has_state);
    ASSERT_EQ(Resume(elsewhere).result_int(), 200u);
    EXPECT_EQ(elsewhere.workers[0]->requests().back().committed_tokens_size(), static_cast<int>(n));
  }
  absl::Duration TimeToStop(RouterHarness& router) {
    const absl::Time begun = clock_.Now();
    router.service.reset();
    return clock_.Now() - begun;
  }
};

TEST_F(RouterEndTest, WhatItBreaksOffIsParked) {
  config_.grpc_listen.clear();  // its calls have a moment to end
  RouterHarness router(1, config_);
  SetCheckpoint(router, 1);
  const auto client = Begin(router, 4);
  EXPECT_LT(TimeToStop(router), absl::Seconds(2));
  ExpectUnfinished(4);
}

TEST_F(RouterEndTest, WhatItBreaksOffOverGrpcIsParked) {
  RouterHarness router(1, config_, Held(4));
  SetCheckpoint(router, 1);
  v1::GenerateRequest request;
  request.mutable_tokens()->add_ids(5);
  request.mutable_session()->set_id("s");
  request.mutable_session()->set_retention_s(600);
  grpc::ClientContext context;
  const auto stub = Stub(router);
  const auto reader = stub->Generate(&context, request);
  ASSERT_TRUE(Await(router, "output_tokens", 4));
  router.service.reset();
  v1::GenerateReply reply;
  while (reader->Read(&reply)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  ExpectUnfinished(4);
}

TEST_F(RouterEndTest, WhatNoWorkerHasBegunIsParked) {
  config_.grpc_listen.clear();  // its calls have a moment to end
  RouterHarness router(0, config_);
  TestClient client(router.service->http_port());
  client.Send(RequestText("POST", "/v1/completions", ParkedAtEnd(50)));
  ASSERT_TRUE(Await(router, "status", "running"));
  router.service.reset();
  ExpectUnfinished(0, /*has_state=*/false);
}

TEST_F(RouterEndTest, WhatAWorkerThatHangsDoesNotParkIsKeptWithoutItsState) {
  RouterHarness router(1, config_);
  router.workers[0]->HoldParks(true);
  const auto client = Begin(router, 4);
  EXPECT_LT(TimeToStop(router), absl::Seconds(10));
  ExpectUnfinished(4, /*has_state=*/false);
}

TEST_F(RouterEndTest, ADrainBreaksOffWhatLastsTooLongAndParksIt) {
  config_.drain_timeout = absl::ZeroDuration();
  RouterHarness router(1, config_);
  SetCheckpoint(router, 1);
  const auto client = Begin(router, 4);
  Drain(router);
  ExpectUnfinished(4);
}

TEST_F(RouterEndTest, ADrainThatIsGivenUpIsOverAtOnce) {
  RouterHarness router(1, config_);
  router.workers[0]->HoldParks(true);
  const auto client = Begin(router, 4);
  router.service->BeginDrain([] {});
  EXPECT_LT(TimeToStop(router), absl::Seconds(2));
}

TEST_F(RouterEndTest, WhatWaitsForAStoreIsOfferedOnceMore) {
  config_.grpc_listen.clear();  // its calls have a moment to end
  RouterHarness router(1, config_);
  const uint16_t port = server_->port();
  server_.reset();
  ASSERT_EQ(router.Do("POST", "/v1/completions", ParkedAtEnd(4)).result_int(), 200u);
  ASSERT_TRUE(router.workers[0]->AwaitParks(1));
  server_ = *kvstore::Server::Start({.listen = absl::StrCat("127.0.0.1:", port)}, *store_, clock_, metrics_);
  router.service.reset();
  RouterHarness elsewhere(1, config_);
  EXPECT_EQ(Get(elsewhere)["output_tokens"], 4);
}

TEST_F(RouterEndTest, ACallThatWaitsForAWorkerThatHangsIsAnswered) {
  for (const bool is_given_up : {false, true}) {
    RouterHarness router(1, config_);
    router.workers[0]->HoldParks(true);
    ASSERT_EQ(router.Do("POST", "/v1/completions", Completion({5, 6, 7}, "s", 4, false)).result_int(), 200u);
    const auto stub = Stub(router);
    auto parked = std::async(std::launch::async, [&] {
      grpc::ClientContext context;
      v1::ParkSessionRequest request;
      request.set_id("s");
      request.set_retention_s(600);
      v1::SessionState state;
      return stub->ParkSession(&context, request, &state).error_code();
    });
    ASSERT_TRUE(router.workers[0]->AwaitParks(1));
    if (is_given_up) router.service->BeginDrain([] {});
    EXPECT_LT(TimeToStop(router), absl::Seconds(is_given_up ? 2 : 10));
    EXPECT_EQ(parked.get(), is_given_up ? grpc::StatusCode::UNAVAILABLE : grpc::StatusCode::OK);
  }
}

}  // namespace
}  // namespace longshelf::router::testing
