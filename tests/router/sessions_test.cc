#include "router/sessions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <future>

#include "absl/strings/ascii.h"
#include "sessions_fixture.h"
#include "testing/fixtures.h"

namespace longshelf::router::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(SessionsTest, ARequestThatIsRefusedLeavesTheSessionAsItWas) {
  config_.queue_max = 1;
  RouterHarness router(1, config_);
  ParkAt(router, 4);
  Script full;
  full.full = true;
  router.workers[0]->SetScript(full);
  TestClient waiting(router.service->http_port());
  waiting.Send(RequestText("POST", "/v1/completions", Completion({5, 6, 7}, "other")));
  const absl::Time patience = clock_.Now() + absl::Seconds(10);
  while (router.Metrics().find("longshelf_router_queue_depth 1") == std::string::npos && clock_.Now() < patience) {
  }
  EXPECT_EQ(router.Do("POST", "/v1/completions", Completion({9, 9, 9}, "s", 1, false)).result_int(), 503u);
  EXPECT_EQ(Get(router)["status"], "unfinished");
  EXPECT_EQ(Get(router)["output_tokens"], 4);
  EXPECT_EQ(Delete(router), 200u);
}

TEST_F(SessionsTest, AnAnswerThatWasCutBehindItsLastTokenHasNothingLeftToCompute) {
  const auto answer = RouterHarness::AnswerTokens();
  const auto n = static_cast<uint32_t>(answer.size());
  for (const auto& [n_tokens, max_tokens, reason] :
       std::vector<std::tuple<uint32_t, uint32_t, std::string>>{{1, 1, "length"}, {4, 4, "length"}, {n, 500, "stop"}}) {
    RouterHarness router(1, config_, Held(n_tokens));
    TestClient client(router.service->http_port());
    client.Send(RequestText("POST", "/v1/completions", Completion({5, 6, 7}, "s", max_tokens)));
    ASSERT_TRUE(Await(router, "output_tokens", n_tokens));
    EXPECT_EQ(Park(router)["status"], "unfinished");
    for (const bool is_elsewhere : {false, true}) {
      RouterHarness other(1, config_);
      RouterHarness& here = is_elsewhere ? other : router;
      const Reply resumed = Resume(here);
      EXPECT_EQ(resumed.result_int(), 200u) << resumed.body();
      EXPECT_NE(resumed.body().find(absl::StrCat("\"finish_reason\":\"", reason, "\"")), std::string::npos)
          << resumed.body();
      EXPECT_EQ(here.workers[0]->requests().size(), is_elsewhere ? 0u : 1u);
    }
  }
}

TEST_F(SessionsTest, WhatIsLongerThanTheContextIsRefusedAndStays) {
  RouterHarness large(1, config_);
  ParkAt(large, 10);
  RouterHarness small(1, config_, {RouterHarness::AnswerTokens()}, /*n_context_max=*/12);
  ASSERT_EQ(small.Do("POST", "/v1/completions", Completion({5}, "warm", 1, false)).result_int(), 200u);
  const Reply refused = Resume(small);
  EXPECT_EQ(refused.result_int(), 400u);
  EXPECT_EQ(Parsed(refused)["error"]["code"], "context_length_exceeded");
  large.workers[0]->SetScript({RouterHarness::AnswerTokens()});
  EXPECT_EQ(Resume(large).result_int(), 200u);
}

TEST_F(SessionsTest, WhatAnotherRouterParkedLaterIsTheSession) {
  RouterHarness first(1, config_);
  RouterHarness second(1, config_);
  ParkAt(first, 2);
  second.workers[0]->SetScript(Held(5));
  {
    TestClient client(second.service->http_port());
    client.Send(RequestText("POST", "/v1/sessions/s/resume", "{}"));
    ASSERT_TRUE(Await(second, "output_tokens", 5));
    ASSERT_EQ(Park(second)["output_tokens"], 5);
  }
  EXPECT_EQ(Get(first)["output_tokens"], 5);
  EXPECT_EQ(Park(first)["output_tokens"], 5) << "parking it again must not bring the old one back";
  first.workers[0]->SetScript({RouterHarness::AnswerTokens()});
  EXPECT_EQ(Resume(first).result_int(), 200u);
  EXPECT_EQ(first.workers[0]->requests().back().committed_tokens_size(), 5);
}

TEST_F(SessionsTest, WhatAnotherRouterDeletedIsGone) {
  RouterHarness first(1, config_);
  RouterHarness second(1, config_);
  ParkAt(first, 2);
  EXPECT_EQ(Delete(second), 200u);
  for (RouterHarness* router : {&first, &second}) {
    EXPECT_EQ(router->Do("GET", "/v1/sessions/s").result_int(), 404u);
    EXPECT_EQ(Resume(*router).result_int(), 404u);
    EXPECT_EQ(Delete(*router), 404u);
    EXPECT_EQ(Parsed(router->Do("GET", "/v1/sessions"))["data"].size(), 0u);
  }
  // Its name can be used again, there and elsewhere.
  ParkAt(first, 3);
  EXPECT_EQ(Get(second)["output_tokens"], 3);
}

TEST_F(SessionsTest, AnAnswerWhosePlaceWasTakenDoesNotParkItself) {
  RouterHarness router(1, config_, Held(4));
  const auto body = [](uint32_t max_tokens, bool stream) {
    return json{{"prompt", {5, 6, 7}},
                {"session", {{"id", "s"}, {"retention_s", 600}}},
                {"max_tokens", max_tokens},
                {"stream", stream}}
        .dump();
  };
  TestClient slow(router.service->http_port());
  slow.Send(RequestText("POST", "/v1/completions", body(20, true)));
  ASSERT_TRUE(Await(router, "output_tokens", 4));
  Script quick{RouterHarness::AnswerTokens()};
  quick.held = true;  // what is held stays so
  quick.holds_at = 100;
  router.workers[0]->SetScript(quick);
  ASSERT_EQ(router.Do("POST", "/v1/completions", body(2, false)).result_int(), 200u);
  const absl::Time patience = clock_.Now() + absl::Seconds(10);
  while (Get(router)["parked_at"].is_null()) ASSERT_LT(clock_.Now(), patience);
  router.workers[0]->Release();
  EXPECT_NE(slow.ReadUntil("[DONE]").find("[DONE]"), std::string::npos);
  slow.Close();
  // A router that drains waits for its parks.
  std::promise<void> drained;
  router.service->BeginDrain([&] { drained.set_value(); });
  drained.get_future().wait();
  RouterHarness elsewhere(1, config_);
  EXPECT_EQ(Get(elsewhere)["output_tokens"], 2);
}

TEST_F(SessionsTest, ARunningAnswerIsNotResumed) {
  RouterHarness router(1, config_, Held(4));
  TestClient client(router.service->http_port());
  client.Send(RequestText("POST", "/v1/completions", Completion({5, 6, 7}, "s")));
  ASSERT_TRUE(Await(router, "output_tokens", 4));
  const Reply refused = Resume(router);
  EXPECT_EQ(refused.result_int(), 409u);
  EXPECT_EQ(Parsed(refused)["error"]["code"], "session_running");
}

TEST_F(SessionsTest, AStreamThatIsParkedBeforeAWorkerBeginsIsWhole) {
  Script held{RouterHarness::AnswerTokens()};
  held.held = true;
  RouterHarness router(1, config_, held);
  TestClient client(router.service->http_port());
  client.Send(RequestText("POST", "/v1/completions", Completion({5, 6, 7}, "s")));
  ASSERT_TRUE(Await(router, "status", "running"));
  EXPECT_EQ(Park(router)["output_tokens"], 0);
  const Reply reply = client.Read();
  EXPECT_EQ(reply.result_int(), 200u);
  EXPECT_NE(reply.body().find("\"finish_reason\":\"parked\""), std::string::npos) << reply.body();
  EXPECT_NE(reply.body().find("[DONE]"), std::string::npos);
}

TEST_F(SessionsTest, WhatThisRouterKnowsIsResumedWithoutTheStore) {
  RouterHarness router(1, config_);
  ParkAt(router, 3);
  server_.reset();
  router.workers[0]->SetScript({RouterHarness::AnswerTokens()});
  EXPECT_EQ(Resume(router).result_int(), 200u);
  EXPECT_EQ(router.workers[0]->requests().back().committed_tokens_size(), 3);
}

TEST_F(SessionsTest, DeletingLeavesWhatOtherSessionsShare) {
  RouterHarness router(1, config_);
  std::vector<State> states;
  // 700 tokens each, of which 600 are the same: two full blocks.
  for (const uint8_t which : {uint8_t{1}, uint8_t{2}}) {
    std::vector<uint32_t> prompt = Numbers(700);
    std::fill(prompt.begin() + 600, prompt.end(), which);
    // The salt is known when a worker was asked.
    const std::string id = absl::StrCat("s", which);
    BlockKey checkpoint{};
    checkpoint.fill(which);
    router.workers[0]->SetCheckpointKey(std::string(checkpoint.begin(), checkpoint.end()));
    ParkAt(router, 3, prompt, id);
    states.push_back(StateOf(prompt, router.workers[0]->requests().back().namespace_salt(), which));
    const State& state = states.back();
    for (size_t i = 0; i < state.blocks.size() && which == 1; ++i) {
      const auto depth = static_cast<uint32_t>((i + 1) * kBlockTokens);
      Store({state.blocks[i], ObjectKind::kBlock}, depth, kvstore::ExtentOf(state.root, state.blocks, depth),
            state.fingerprint);
    }
    Store({state.checkpoint, ObjectKind::kCheckpoint}, 703, kvstore::ExtentOf(state.root, state.blocks, 703),
          state.fingerprint);
  }
  ASSERT_EQ(states[0].blocks, states[1].blocks);
  const auto is_stored = [&](size_t which, ObjectKind kind, const BlockKey& key) {
    return IsStored({key, kind}, states[which].fingerprint);
  };
  EXPECT_EQ(Delete(router, "s1"), 200u);
  EXPECT_TRUE(is_stored(0, ObjectKind::kBlock, states[0].blocks[0]));
  EXPECT_TRUE(is_stored(0, ObjectKind::kBlock, states[0].blocks[1]));
  EXPECT_FALSE(is_stored(0, ObjectKind::kCheckpoint, states[0].checkpoint));
  EXPECT_TRUE(is_stored(1, ObjectKind::kCheckpoint, states[1].checkpoint));
  EXPECT_EQ(Delete(router, "s2"), 200u);
  EXPECT_FALSE(is_stored(0, ObjectKind::kBlock, states[0].blocks[0]));
  EXPECT_FALSE(is_stored(0, ObjectKind::kBlock, states[0].blocks[1]));
  EXPECT_FALSE(is_stored(1, ObjectKind::kCheckpoint, states[1].checkpoint));
}

TEST_F(SessionsTest, ParkingAgainKeepsTheStateAsLongWithoutTheWorkerThatMadeIt) {
  const std::vector<uint32_t> prompt = Numbers(300);
  State state;
  {
    RouterHarness router(1, config_);
    BlockKey checkpoint{};
    checkpoint.fill(7);
    router.workers[0]->SetCheckpointKey(std::string(checkpoint.begin(), checkpoint.end()));
    ParkAt(router, 3, prompt);
    state = StateOf(prompt, router.workers[0]->requests().back().namespace_salt(), 7);
  }
  Store({state.blocks[0], ObjectKind::kBlock}, kBlockTokens, kvstore::ExtentOf(state.root, state.blocks, kBlockTokens),
        state.fingerprint);
  const kvstore::ObjectKey checkpoint{state.checkpoint, ObjectKind::kCheckpoint};
  Store(checkpoint, 303, kvstore::ExtentOf(state.root, state.blocks, 303), state.fingerprint);
  RouterHarness router(1, config_);
  const json with = Park(router, "s", R"({"retention_s": 36000})");
  EXPECT_EQ(with["kv"]["tokens"], 303) << with;
  for (const kvstore::ObjectKey& key : {checkpoint, kvstore::ObjectKey{state.blocks[0], ObjectKind::kBlock}}) {
    EXPECT_GT(store_->Get(key, state.fingerprint)->head().retain_until, clock_.WallNow() + absl::Hours(9));
  }
  const kvstore::ObjectKey gone[] = {checkpoint};
  store_->Drop(gone);
  const json without = Park(router, "s", R"({"retention_s": 36000})");
  EXPECT_TRUE(without["kv"].is_null()) << "its checkpoint is not there";
  EXPECT_EQ(without["kv_missing"], "no_worker");
}

TEST_F(SessionsTest, ToolCallsAndTextAreCountedOnFromWhereTheAnswerWasCut) {
  const auto call = [](const std::string& name) {
    return "<｜DSML｜invoke name=\"" + name + "\">\n</｜DSML｜invoke>\n";
  };
  const std::string begun = "Two.\n\n<｜DSML｜tool_calls>\n" + call("first") + "<｜DSML｜invoke";
  const std::string whole =
      "Two.\n\n<｜DSML｜tool_calls>\n" + call("first") + call("second") + "</｜DSML｜tool_calls><｜end▁of▁sentence｜>";
  RouterHarness router(1, config_);
  for (const std::string stream : {"true", "false"}) {
    const auto n = static_cast<uint32_t>(RouterHarness::Tokens(begun).size());
    router.workers[0]->SetScript(Held(n, RouterHarness::Tokens(whole)));
    TestClient client(router.service->http_port());
    client.Send(RequestText("POST", "/v1/chat/completions",
                            ChatBody(R"("session":"s","stream":true,"thinking":{"type":"disabled"})")));
    ASSERT_TRUE(Await(router, "output_tokens", n));
    ASSERT_EQ(Park(router)["output_tokens"], n);
    EXPECT_THAT(client.Read().body(), HasSubstr(R"("tool_calls":[{"index":0,)"));
    router.workers[0]->SetScript({RouterHarness::Tokens(whole)});
    const std::string rest = router.Do("POST", "/v1/sessions/s/resume", R"({"stream":)" + stream + "}").body();
    EXPECT_THAT(rest, HasSubstr(R"("tool_calls":[{"index":1,)"));
    EXPECT_THAT(rest, HasSubstr("second"));
    EXPECT_THAT(rest, Not(HasSubstr(R"("index":0,"id")")));
  }
  // The same of places in a text.
  const std::vector<uint32_t> text = RouterHarness::Tokens("café and so on");
  for (const bool is_stream : {true, false}) {
    router.workers[0]->SetScript(Held(3, text));
    TestClient client(router.service->http_port());
    const json body{{"prompt", {5, 6, 7}}, {"session", "s"}, {"max_tokens", 5}, {"stream", true}, {"logprobs", 0}};
    client.Send(RequestText("POST", "/v1/completions", body.dump()));
    ASSERT_TRUE(Await(router, "output_tokens", 3));
    ASSERT_EQ(Park(router)["output_tokens"], 3);
    router.workers[0]->SetScript({text});
    const std::string rest = router.Do("POST", "/v1/sessions/s/resume", json{{"stream", is_stream}}.dump()).body();
    EXPECT_THAT(rest, HasSubstr("text_offset"));
    EXPECT_THAT(rest, Not(HasSubstr(R"("text_offset":[0)"))) << rest;
  }
}

TEST_F(SessionsTest, AnAnswerThatIsCompleteIsRefusedWithoutItsBody) {
  RouterHarness router(1, config_);
  ASSERT_EQ(router.Do("POST", "/v1/completions", Completion({5, 6, 7}, "s", 4, false)).result_int(), 200u);
  ASSERT_EQ(Park(router)["status"], "finished");
  DropBody();
  RouterHarness elsewhere(1, config_);
  const Reply refused = Resume(elsewhere);
  EXPECT_EQ(refused.result_int(), 409u);
  EXPECT_EQ(Parsed(refused)["error"]["code"], "session_complete");
}

TEST_F(SessionsTest, BodiesOfRunningAnswersAndOfThoseThatAreLoadedAreBounded) {
  config_.session_bytes_max = uint64_t{1} << 20;
  RouterHarness router(1, config_);
  const auto large = [](const std::string& id, uint32_t max_tokens) {
    return json{{"prompt", {5, 6, 7}},
                {"session", id},
                {"max_tokens", max_tokens},
                {"stream", true},
                {"ignored", std::string(600 << 10, 'x')}}
        .dump();
  };
  const auto expect_overloaded = [](const Reply& reply) {
    EXPECT_EQ(reply.result_int(), 503u);
    EXPECT_EQ(Parsed(reply)["error"]["code"], "overloaded");
  };
  router.workers[0]->SetScript(Held(2));
  {
    TestClient first(router.service->http_port());
    first.Send(RequestText("POST", "/v1/completions", large("s", 4)));
    ASSERT_TRUE(Await(router, "output_tokens", 2));
    expect_overloaded(router.Do("POST", "/v1/completions", large("t", 4)));
    // It has not become a session, and small ones have room.
    EXPECT_EQ(router.Do("GET", "/v1/sessions/t").result_int(), 404u);
    router.workers[0]->SetScript({RouterHarness::AnswerTokens()});
    EXPECT_EQ(router.Do("POST", "/v1/completions", Completion({5, 6, 7}, "small", 1, false)).result_int(), 200u);
    ASSERT_EQ(Park(router)["output_tokens"], 2);
  }
  // A router that has to load it.
  RouterHarness elsewhere(1, config_);
  elsewhere.workers[0]->SetScript(Held(3));
  TestClient running(elsewhere.service->http_port());
  running.Send(RequestText("POST", "/v1/completions", large("t", 20)));
  ASSERT_TRUE(Await(elsewhere, "output_tokens", 3, "t"));
  expect_overloaded(Resume(elsewhere));
  ASSERT_EQ(Delete(elsewhere, "t"), 200u);
  elsewhere.workers[0]->SetScript({RouterHarness::AnswerTokens()});
  EXPECT_EQ(Resume(elsewhere).result_int(), 200u);
  EXPECT_EQ(elsewhere.Do("POST", "/v1/completions", large("u", 4)).result_int(), 200u) << "all was given back";
  // Parking what is idle takes its share again.
  elsewhere.workers[0]->SetScript(Held(3));
  TestClient large_one(elsewhere.service->http_port());
  large_one.Send(RequestText("POST", "/v1/completions", large("t", 20)));
  ASSERT_TRUE(Await(elsewhere, "output_tokens", 3, "t"));
  expect_overloaded(elsewhere.Do("POST", "/v1/sessions/u/park", kPark));
  ASSERT_EQ(Delete(elsewhere, "t"), 200u);
  EXPECT_EQ(Park(elsewhere, "u")["output_tokens"], 4);
}

TEST_F(SessionsTest, ManyLoadsAtOnceWaitForEachOther) {
  RouterHarness router(1, config_);
  for (uint32_t i = 0; i < 20; ++i) ParkAt(router, 2, {5, 6, 7}, absl::StrCat("s", i));
  RouterHarness elsewhere(1, config_);
  std::vector<std::unique_ptr<TestClient>> clients;
  for (uint32_t i = 0; i < 20; ++i) {
    clients.push_back(std::make_unique<TestClient>(elsewhere.service->http_port()));
    clients.back()->Send(RequestText("POST", absl::StrCat("/v1/sessions/s", i, "/resume"), "{}"));
  }
  for (const auto& client : clients) EXPECT_EQ(client->Read().result_int(), 200u);
}

TEST_F(SessionsTest, NamesInPathsMayBeEncoded) {
  RouterHarness router(1, config_);
  ParkAt(router, 2, {5, 6, 7}, "a:b");
  EXPECT_EQ(router.Do("GET", "/v1/sessions/a%3Ab").result_int(), 200u);
  EXPECT_EQ(router.Do("POST", "/v1/sessions/a%3ab/park", kPark).result_int(), 200u);
  router.workers[0]->SetScript({RouterHarness::AnswerTokens()});
  EXPECT_EQ(router.Do("POST", "/v1/sessions/%61%3Ab/resume", "{}").result_int(), 200u);
  EXPECT_EQ(router.Do("DELETE", "/v1/sessions/a%3Ab").result_int(), 200u);
  for (const char* id : {"a%20b", "a%2Fb", "a%", "a%3", "a%zz", "a%00"}) {
    EXPECT_EQ(router.Do("GET", absl::StrCat("/v1/sessions/", id)).result_int(), 400u) << id;
  }
}

TEST_F(SessionsTest, WhatWasParkedHereIsKnownWithoutTheStore) {
  RouterHarness router(1, config_);
  ParkAt(router, 3);
  const json before = Get(router);
  server_.reset();
  EXPECT_EQ(Get(router), before);
}

TEST_F(SessionsTest, ARouterThatEndsDoesNotWaitForParksOfAWorkerThatHangs) {
  RouterHarness router(1, config_);
  router.workers[0]->HoldParks(true);
  ASSERT_EQ(router.Do("POST", "/v1/completions", ParkedAtEnd(2)).result_int(), 200u);
  ASSERT_TRUE(router.workers[0]->AwaitParks(1));
  const absl::Time begun = clock_.Now();
  router.service.reset();
  EXPECT_LT(clock_.Now() - begun, absl::Seconds(20));
}

// With two tenants.
class SessionsOfTwoTest : public SessionsTest {
 protected:
  void SetUp() override {
    SessionsTest::SetUp();
    config_.api_keys_file = (longshelf::testing::MakeTempDir("router-keys") / "keys").string();
    std::ofstream(config_.api_keys_file) << "alice:sk-alice\nbob:sk-bob\n";
  }
  // The salt that a worker is told of a request.
  std::string SaltOf(RouterHarness& router, const Headers& who, const std::string& user_id = "") {
    json body = {{"prompt", {5, 6, 7}}, {"max_tokens", 4}};
    if (!user_id.empty()) body["user_id"] = user_id;
    EXPECT_EQ(router.Do("POST", "/v1/completions", body.dump(), who).result_int(), 200u);
    const v1::WorkerGenerateRequest sent = router.workers[0]->requests().back();
    EXPECT_EQ(sent.namespace_salt(), Text(kvstore::NamespaceSalt("longshelf", sent.namespace_id())));
    return sent.namespace_salt();
  }
  // Every way to a session, over HTTP and over gRPC.
  static void ExpectStarting(RouterHarness& router, const Headers& who) {
    for (const auto& [method, path] : std::vector<std::pair<std::string, std::string>>{
             {"GET", ""}, {"GET", "/s"}, {"DELETE", "/s"}, {"POST", "/s/park"}, {"POST", "/s/resume"}}) {
      const std::string body = method == "POST" ? path == "/s/park" ? kPark : "{}" : "";
      const Reply refused = router.Do(method, "/v1/sessions" + path, body, who);
      EXPECT_EQ(refused.result_int(), 503u) << method << path;
      EXPECT_EQ(Parsed(refused)["error"]["code"], "starting") << method << path;
      EXPECT_EQ(refused["Retry-After"], "1");
    }
    const auto stub = Stub(router);
    v1::SessionRef session;
    session.set_id("s");
    v1::ParkSessionRequest park;
    park.set_id("s");
    park.set_retention_s(600);
    v1::SessionState state;
    v1::ListSessionsReply list;
    v1::GenerateReply generated;
    v1::ChatReply said;
    using Context = grpc::ClientContext;
    const std::vector<std::function<grpc::Status(Context*)>> calls = {
        [&](Context* context) { return stub->ListSessions(context, {}, &list); },
        [&](Context* context) { return stub->GetSession(context, session, &state); },
        [&](Context* context) { return stub->DeleteSession(context, session, &state); },
        [&](Context* context) { return stub->ParkSession(context, park, &state); },
        [&](Context* context) { return ReadAll(*stub->ResumeGenerate(context, session), generated); },
        [&](Context* context) { return ReadAll(*stub->ResumeChat(context, session), said); },
    };
    for (size_t i = 0; i < calls.size(); ++i) {
      Context context;
      for (const auto& [name, value] : who) context.AddMetadata(absl::AsciiStrToLower(name), value);
      const grpc::Status status = calls[i](&context);
      EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << i;
      EXPECT_THAT(status.error_message(), HasSubstr("which caches were deleted")) << i;
    }
  }
  template <typename Reply>
  static grpc::Status ReadAll(grpc::ClientReader<Reply>& reader, Reply& reply) {
    while (reader.Read(&reply)) {
    }
    return reader.Finish();
  }
  static std::string Text(const std::array<uint8_t, 32>& bytes) { return {bytes.begin(), bytes.end()}; }
  void AwaitReady(RouterHarness& router) {
    const absl::Time patience = clock_.Now() + absl::Seconds(10);
    while (router.Do("GET", "/readyz").result_int() != 200) ASSERT_LT(clock_.Now(), patience);
  }

  const Headers alice = {{"Authorization", "Bearer sk-alice"}};
  const Headers bob = {{"Authorization", "Bearer sk-bob"}};
};

TEST_F(SessionsOfTwoTest, ADeletedNamespaceIsAnotherOneAtOnceAndThenGone) {
  RouterHarness first(1, config_);
  RouterHarness second(1, config_);
  AwaitReady(first);
  AwaitReady(second);
  const std::string before = SaltOf(first, alice);
  const std::string of_bob = SaltOf(first, bob);
  const std::string of_user = SaltOf(first, alice, "u1");
  EXPECT_EQ(SaltOf(second, alice), before);
  const auto session = [&](RouterHarness& router, const Headers& who) {
    return router.Do("GET", "/v1/sessions/s", "", who).result_int();
  };
  for (const Headers& who : {alice, bob}) {
    const std::string body = json{{"prompt", {5, 6, 7}}, {"session", {{"id", "s"}, {"retention_s", 600}}}}.dump();
    ASSERT_EQ(first.Do("POST", "/v1/completions", body, who).result_int(), 200u);
    const absl::Time patience = clock_.Now() + absl::Seconds(10);
    while (session(second, who) != 200) ASSERT_LT(clock_.Now(), patience);
  }
  const Reply deleted = first.Do("DELETE", "/v1/cache", "", alice);
  EXPECT_EQ(deleted.result_int(), 200u) << deleted.body();
  EXPECT_EQ(Parsed(deleted)["stores_missed"], 0);
  const std::string after = SaltOf(first, alice);
  EXPECT_NE(after, before);
  EXPECT_EQ(session(first, alice), 404u);
  EXPECT_EQ(Parsed(first.Do("GET", "/v1/sessions", "", alice))["data"].size(), 0u);
  // What is nobody's business stays.
  EXPECT_EQ(SaltOf(first, bob), of_bob);
  const std::string of_user_after = SaltOf(first, alice, "u1");
  EXPECT_NE(of_user_after, of_user) << "the tenant's users are the tenant's";
  EXPECT_EQ(session(first, bob), 200u);
  // The other one hears of it.
  const absl::Time patience = clock_.Now() + absl::Seconds(10);
  while (SaltOf(second, alice) != after) ASSERT_LT(clock_.Now(), patience);
  EXPECT_EQ(session(second, alice), 404u);
  EXPECT_EQ(session(second, bob), 200u);
  // And so does one that starts later.
  RouterHarness third(1, config_);
  AwaitReady(third);
  EXPECT_EQ(SaltOf(third, alice), after);
  EXPECT_EQ(SaltOf(third, alice, "u1"), of_user_after);
  // Again, and one user alone.
  ASSERT_EQ(third.Do("DELETE", "/v1/cache", "", alice).result_int(), 200u);
  EXPECT_NE(SaltOf(third, alice), after);
  ASSERT_EQ(third.Do("DELETE", "/v1/cache?user_id=u1", "", alice).result_int(), 200u);
  EXPECT_NE(SaltOf(third, alice, "u1"), of_user_after);
  EXPECT_EQ(SaltOf(third, bob), of_bob);
}

TEST_F(SessionsOfTwoTest, DeletingANamespaceDropsItsObjectsAndNoOthers) {
  RouterHarness router(1, config_);
  const auto store = [&](uint8_t id, const std::string& namespace_id) {
    BlockKey hash{};
    hash.fill(id);
    const kvstore::ObjectKey key{hash, ObjectKind::kBlock};
    Store(key, kBlockTokens, {}, kvstore::Fingerprint{1}, namespace_id);
    return key;
  };
  std::vector<kvstore::ObjectKey> of_alice;
  std::vector<kvstore::ObjectKey> of_others;
  uint8_t id = 0;
  for (const char* user : {"", "u1", "u2"}) of_alice.push_back(store(++id, NamespaceName({"alice"}, user)));
  for (const char* user : {"", "u1"}) {
    for (const char* tenant : {"bob", "alice2", "alic"}) {
      of_others.push_back(store(++id, NamespaceName({tenant}, user)));
    }
  }
  ASSERT_EQ(router.Do("DELETE", "/cache?user_id=u2", "", alice).result_int(), 200u);
  EXPECT_TRUE(IsStored(of_alice[0], kvstore::Fingerprint{1}));
  EXPECT_TRUE(IsStored(of_alice[1], kvstore::Fingerprint{1}));
  EXPECT_FALSE(IsStored(of_alice[2], kvstore::Fingerprint{1}));
  ASSERT_EQ(router.Do("DELETE", "/v1/cache", "", alice).result_int(), 200u);
  for (const kvstore::ObjectKey& key : of_alice) EXPECT_FALSE(IsStored(key, kvstore::Fingerprint{1}));
  for (const kvstore::ObjectKey& key : of_others) EXPECT_TRUE(IsStored(key, kvstore::Fingerprint{1}));
  EXPECT_EQ(router.Do("DELETE", "/v1/cache?user_id=", "", alice).result_int(), 400u);
  EXPECT_EQ(router.Do("DELETE", "/v1/cache?user_id=a%20b", "", alice).result_int(), 400u);
  EXPECT_EQ(router.Do("DELETE", "/v1/cache?tenant=bob", "", alice).result_int(), 400u);
  server_.reset();
  EXPECT_EQ(router.Do("DELETE", "/v1/cache", "", bob).result_int(), 503u);
}

TEST_F(SessionsOfTwoTest, ARouterUsesNoNameBeforeTheStoresHaveSaidWhichAreDeleted) {
  std::string before;
  std::string after;
  {
    RouterHarness router(1, config_);
    before = SaltOf(router, alice);
    ASSERT_EQ(router.Do("DELETE", "/v1/cache", "", alice).result_int(), 200u);
    after = SaltOf(router, alice);
    ASSERT_EQ(router.Do("POST", "/v1/completions", Completion({5, 6, 7}, "s", 4, false), alice).result_int(), 200u);
    ASSERT_EQ(router.Do("POST", "/v1/sessions/s/park", kPark, alice).result_int(), 200u);
  }
  const uint16_t port = server_->port();
  server_.reset();
  RouterHarness late(1, config_, {RouterHarness::AnswerTokens()}, 8192, /*stores_are_up=*/false);
  const absl::Time patience = clock_.Now() + absl::Seconds(10);
  while (late.Metrics().find("longshelf_router_worker_up{worker=\"0\"} 1") == std::string::npos) {
    ASSERT_LT(clock_.Now(), patience);
  }
  const Reply refused = late.Do("POST", "/v1/completions", Completion({5, 6, 7}, "s", 4, false), alice);
  EXPECT_EQ(refused.result_int(), 503u);
  EXPECT_EQ(Parsed(refused)["error"]["code"], "starting");
  EXPECT_EQ(refused["Retry-After"], "1");
  EXPECT_EQ(late.Do("DELETE", "/v1/cache", "", alice).result_int(), 503u);
  ExpectStarting(late, alice);
  EXPECT_EQ(late.Do("GET", "/readyz").result_int(), 503u);
  EXPECT_TRUE(late.workers[0]->requests().empty());
  server_ = *kvstore::Server::Start({.listen = absl::StrCat("127.0.0.1:", port)}, *store_, clock_, metrics_);
  late.AwaitNamespaces();
  EXPECT_EQ(late.Do("GET", "/v1/sessions/s", "", alice).result_int(), 200u);
  EXPECT_EQ(SaltOf(late, alice), after);
  EXPECT_NE(after, before);
}

TEST_F(SessionsOfTwoTest, AnotherTenantsSessionIsNotThere) {
  RouterHarness router(1, config_);
  router.workers[0]->SetScript({RouterHarness::AnswerTokens()});
  ASSERT_EQ(router.Do("POST", "/v1/completions", Completion({5, 6, 7}, "s", 4, false), alice).result_int(), 200u);
  ASSERT_EQ(router.Do("POST", "/v1/sessions/s/park", kPark, alice).result_int(), 200u);
  EXPECT_EQ(router.Do("GET", "/v1/sessions/s", "", bob).result_int(), 404u);
  EXPECT_EQ(router.Do("POST", "/v1/sessions/s/park", kPark, bob).result_int(), 404u);
  EXPECT_EQ(router.Do("POST", "/v1/sessions/s/resume", "{}", bob).result_int(), 404u);
  EXPECT_EQ(router.Do("DELETE", "/v1/sessions/s", "", bob).result_int(), 404u);
  EXPECT_EQ(Parsed(router.Do("GET", "/v1/sessions", "", bob))["data"].size(), 0u);
  EXPECT_EQ(router.Do("GET", "/v1/sessions/s", "", alice).result_int(), 200u);
  EXPECT_EQ(Parsed(router.Do("GET", "/sessions", "", alice))["data"].size(), 1u);
  EXPECT_EQ(router.Do("GET", "/sessions/s", "", alice).result_int(), 200u);
  EXPECT_EQ(router.Do("POST", "/sessions/s/park", kPark, alice).result_int(), 200u);
  EXPECT_EQ(router.Do("DELETE", "/sessions/s", "", alice).result_int(), 200u);
}

}  // namespace
}  // namespace longshelf::router::testing
