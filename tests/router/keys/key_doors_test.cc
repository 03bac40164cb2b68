// Keys, their limits and the audit log, as clients and operators see them.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "longshelf/v1/inference.grpc.pb.h"
#include "router/audit_log.h"
#include "router/http_api.h"
#include "router/prefix_index.h"
#include "router_harness.h"
#include "testing/fixtures.h"

namespace longshelf::router::testing {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string ContentOf(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class KeyDoors : public ::testing::Test {
 protected:
  RouterConfig With(const std::string& keys) {
    RouterConfig config = RouterHarness::DefaultConfig();
    config.api_keys_file = (dir_ / "keys").string();
    std::ofstream(config.api_keys_file) << keys;
    config.audit_log = audit_.string();
    return config;
  }
  static Headers As(const std::string& key) { return {{"Authorization", "Bearer " + key}}; }
  // After the router has ended.
  std::vector<json> Lines() const {
    std::vector<json> lines;
    for (const auto& line : absl::StrSplit(ContentOf(audit_), '\n', absl::SkipEmpty())) {
      lines.push_back(json::parse(std::string(line)));
    }
    return lines;
  }
  static grpc::Status ChatOver(RouterHarness& router, const std::string& key, const std::string& prompt = "hi") {
    const auto stub = v1::Inference::NewStub(grpc::CreateChannel(
        absl::StrCat("127.0.0.1:", router.service->grpc_port()), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    context.AddMetadata("x-api-key", key);
    v1::ChatRequest request;
    request.add_messages()->set_role("user");
    request.mutable_messages(0)->set_content(prompt);
    const auto reader = stub->Chat(&context, request);
    v1::ChatReply reply;
    while (reader->Read(&reply)) continue;
    return reader->Finish();
  }

  const std::filesystem::path dir_ = longshelf::testing::MakeTempDir("router-keys");
  const std::filesystem::path audit_ = dir_ / "audit.log";
};

TEST_F(KeyDoors, EveryRouteAsksForItsScopeAndNamesIt) {
  std::string keys = "keys:\n";
  for (const std::string_view scope : kScopeNames) {
    absl::StrAppend(&keys, "  - {tenant: a, key: sk-", std::string(scope), ", scopes: [", std::string(scope), "]}\n");
  }
  RouterHarness router(1, With(keys));
  for (const Route& route : Routes()) {
    if (route.exempt) continue;
    const std::string own(ScopeName(*ScopeOf(route.kind)));
    const std::string path = absl::StrCat(std::string(route.path), route.prefix ? "demo" : "");
    for (const std::string_view scope : kScopeNames) {
      const Reply reply = router.Do(std::string(route.method), path, "", As("sk-" + std::string(scope)));
      EXPECT_EQ(reply.result_int() == 403, scope != own) << path << " with " << scope;
      if (scope == own) continue;
      EXPECT_THAT(reply.body(), HasSubstr("scope `" + own + "`")) << path;
    }
  }
  EXPECT_EQ(json::parse(router.Do("GET", "/v1/models", "", As("sk-chat")).body())["error"]["code"],
            "insufficient_scope");
  EXPECT_TRUE(ChatOver(router, "sk-chat").ok());
  EXPECT_EQ(ChatOver(router, "sk-models").error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(ChatOver(router, "sk-none").error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(KeyDoors, AnExpiredKeyIsToldSo) {
  RouterHarness router(1, With("keys:\n  - {tenant: a, key: sk-old, expires: 2020-01-01T00:00:00Z}\n"
                               "  - {tenant: a, key: sk-new, expires: 2200-01-01T00:00:00Z}\n"));
  const Reply reply = router.Chat("", As("sk-old"));
  EXPECT_EQ(reply.result_int(), 401u);
  EXPECT_EQ(json::parse(reply.body())["error"]["code"], "expired_api_key");
  EXPECT_EQ(router.Chat("", As("sk-new")).result_int(), 200u);
  EXPECT_EQ(ChatOver(router, "sk-old").error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_THAT(router.Metrics(), HasSubstr("longshelf_router_auth_failures_total{reason=\"expired\"} 2"));
}

TEST_F(KeyDoors, LimitsOfAKeyAre429WithTheTimeToComeBack) {
  RouterHarness router(1, With("keys:\n  - {tenant: a, key: sk-one, limits: {requests-at-once: 1}}\n"
                               "  - {tenant: a, key: sk-few, limits: {tokens-per-minute: 6}}\n"
                               "  - {tenant: a, key: sk-free}\n"));
  Script held{RouterHarness::AnswerTokens()};
  held.held = true;
  router.workers[0]->SetScript(held);
  TestClient first(router.service->http_port());
  first.Send(RequestText("POST", "/v1/chat/completions", ChatBody(), As("sk-one")));
  ASSERT_TRUE(router.workers[0]->AwaitCalls(1));
  const Reply refused = router.Chat("", As("sk-one"));
  EXPECT_EQ(refused.result_int(), 429u);
  EXPECT_EQ(refused["Retry-After"], "1");
  EXPECT_THAT(refused.body(), AllOf(HasSubstr("rate_limit_exceeded"), HasSubstr("requests at once")));
  EXPECT_EQ(ChatOver(router, "sk-one").error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << "at either door";
  router.workers[0]->SetScript({RouterHarness::AnswerTokens()});
  router.workers[0]->Release();
  EXPECT_EQ(first.Read().result_int(), 200u);
  EXPECT_EQ(router.Chat("", As("sk-one")).result_int(), 200u);
  // A full bucket lets one in; its answer has overdrawn it for minutes.
  EXPECT_EQ(router.Chat("", As("sk-few")).result_int(), 200u);
  const Reply later = router.Chat("", As("sk-few"));
  EXPECT_EQ(later.result_int(), 429u);
  EXPECT_THAT(later.body(), HasSubstr("tokens per minute"));
  const auto n_output = RouterHarness::AnswerTokens().size();
  EXPECT_GT(std::stoul(std::string(later["Retry-After"])), n_output * 10 - 60) << "the output was charged too";
  EXPECT_EQ(router.Chat("", As("sk-free")).result_int(), 200u);
}

TEST_F(KeyDoors, SEC_40_WhatOneTenantHasComputedIsNobodyElses) {
  RouterHarness router(1, With("keys:\n  - {tenant: a, key: sk-a}\n  - {tenant: b, key: sk-b}\n"
                               "  - {tenant: a, key: sk-salted, salt: x}\n  - {tenant: a, key: sk-other, salt: y}\n"));
  const auto salt_of = [&](const std::string& key, const std::string& extra = "") {
    EXPECT_EQ(router.Chat(extra, As(key)).result_int(), 200u);
    return router.workers[0]->requests().back().namespace_salt();
  };
  // The same prompt, from everybody.
  const std::vector<std::string> salts = {salt_of("sk-a"),
                                          salt_of("sk-b"),
                                          salt_of("sk-salted"),
                                          salt_of("sk-other"),
                                          salt_of("sk-a", R"("user_id":"u")"),
                                          salt_of("sk-a", R"("user_id":"v")"),
                                          salt_of("sk-b", R"("user_id":"u")"),
                                          salt_of("sk-salted", R"("user_id":"u")")};
  EXPECT_EQ(salt_of("sk-a"), salts[0]);
  EXPECT_EQ(salt_of("sk-salted"), salts[2]);
  std::vector<uint32_t> prompt(1000);
  std::iota(prompt.begin(), prompt.end(), 0U);
  for (size_t owner = 0; owner < salts.size(); ++owner) {
    // All that a worker could hold of the owner's prompt.
    const PromptKeys held = MakePromptKeys({}, salts[owner], 64, prompt);
    PrefixIndex index;
    for (uint32_t i = 1; i < held.chain.size(); ++i) index.Add({held.chain[i], held.chain[i - 1], i * 64});
    for (size_t other = 0; other < salts.size(); ++other) {
      const uint32_t n_cached = index.UsablePrefix(MakePromptKeys({}, salts[other], 64, prompt), prompt);
      EXPECT_EQ(n_cached, owner == other ? 960u : 0u) << owner << " by " << other;
    }
  }
}

TEST_F(KeyDoors, TheAuditLogSaysWhoDidWhatAndHowItEnded) {
  {
    RouterHarness router(1, With("keys:\n  - {tenant: a, name: ci, key: sk-a, scopes: [chat]}\n"));
    Headers headers = As("sk-a");
    headers.emplace_back("x-request-id", "request-7");
    EXPECT_EQ(router.Chat("", headers).result_int(), 200u);
    EXPECT_EQ(router.Do("GET", "/v1/models", "", As("sk-a")).result_int(), 403u);
    EXPECT_EQ(router.Do("GET", "/v1/models", "", As("sk-b")).result_int(), 401u);
    EXPECT_EQ(router.Do("GET", "/secret?x=secret", "", As("sk-a")).result_int(), 404u);
    EXPECT_EQ(router.Do("GET", "/livez").result_int(), 200u);
    EXPECT_TRUE(ChatOver(router, "sk-a").ok());
  }
  const std::vector<json> lines = Lines();
  ASSERT_EQ(lines.size(), 5u) << "all but the probe";
  EXPECT_EQ(lines[0]["request_id"], "request-7");
  EXPECT_EQ(lines[0]["tenant"], "a");
  EXPECT_EQ(lines[0]["key"], "ci");
  EXPECT_EQ(lines[0]["route"], "/v1/chat/completions");
  EXPECT_EQ(lines[0]["status"], 200);
  EXPECT_GT(lines[0]["prompt_tokens"], 0);
  EXPECT_EQ(lines[0]["output_tokens"], RouterHarness::AnswerTokens().size());
  EXPECT_GE(lines[0]["duration_ms"], 0);
  EXPECT_EQ(lines[0]["client"], "127.0.0.1");
  absl::Time at;
  std::string error;
  ASSERT_TRUE(absl::ParseTime(absl::RFC3339_full, lines[0]["time"].get<std::string>(), &at, &error)) << error;
  EXPECT_LT(absl::AbsDuration(absl::Now() - at), absl::Minutes(5));
  EXPECT_EQ(lines[1]["status"], 403);
  EXPECT_EQ(lines[1]["key"], "ci");
  EXPECT_EQ(lines[2]["status"], 401);
  EXPECT_EQ(lines[2]["tenant"], "");
  EXPECT_EQ(lines[3]["status"], 404);
  EXPECT_EQ(lines[3]["route"], "none") << "what a client wrote is not in it";
  EXPECT_EQ(lines[4]["route"], "/longshelf.v1.Inference/Chat");
  EXPECT_EQ(lines[4]["grpc_status"], 0);
  EXPECT_EQ(lines[4]["output_tokens"], RouterHarness::AnswerTokens().size());
  EXPECT_EQ(lines[4]["client"], "127.0.0.1");
  struct stat file {};
  ASSERT_EQ(stat(audit_.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
}

TEST_F(KeyDoors, SEC_43_PromptsOutputAndKeysAreInNoLogNorMetric) {
  std::ostringstream log;
  std::string metrics;
  const auto before = spdlog::default_logger();
  spdlog::set_default_logger(
      std::make_shared<spdlog::logger>("router", std::make_shared<spdlog::sinks::ostream_sink_mt>(log)));
  {
    RouterHarness router(1, With("keys:\n  - {tenant: a, key: sk-canary, salt: canary}\n"),
                         {RouterHarness::Tokens("</think>The canary sings.<｜end▁of▁sentence｜>")});
    Headers headers = As("sk-canary");
    headers.emplace_back("User-Agent", "canary/1.0");
    headers.emplace_back("X-Canary", "canary");
    const std::string prompt = R"({"messages":[{"role":"user","content":"canary"}]})";
    EXPECT_THAT(router.Do("POST", "/v1/chat/completions", prompt, headers).body(), HasSubstr("canary"));
    EXPECT_EQ(router.Do("POST", "/v1/chat/completions", R"({"messages":"canary)", headers).result_int(), 400u);
    EXPECT_EQ(
        router.Do("POST", "/v1/chat/completions", R"({"model":"canary","messages":[]})", headers).result_int() / 100,
        4u);
    EXPECT_EQ(router.Do("GET", "/canary?canary=1", "", headers).result_int(), 404u);
    EXPECT_GE(router.Do("CANARY", "/v1/models", "", headers).result_int(), 400u);
    EXPECT_EQ(router.Do("GET", "/v1/models/canary", "", headers).result_int(), 404u);
    EXPECT_EQ(router.Do("GET", "/v1/models", "", As("sk-canary-2")).result_int(), 401u);
    EXPECT_TRUE(ChatOver(router, "sk-canary", "canary").ok());
    EXPECT_FALSE(ChatOver(router, "sk-canary-2", "canary").ok());
    metrics = router.Metrics();
  }
  spdlog::set_default_logger(before);
  EXPECT_THAT(log.str(), AllOf(HasSubstr("router serves"), Not(HasSubstr("anary"))));
  EXPECT_THAT(metrics, AllOf(HasSubstr("longshelf_router_requests_total"), Not(HasSubstr("anary"))));
  EXPECT_GE(Lines().size(), 8u);
  EXPECT_THAT(ContentOf(audit_), Not(HasSubstr("anary")));
  EXPECT_THAT(ContentOf(audit_), Not(HasSubstr("CANARY")));
}

TEST_F(KeyDoors, AFullDiskBehindTheAuditLogStopsNobody) {
  RouterConfig config = With("a:sk-a\n");
  config.audit_log = "/dev/full";
  RouterHarness router(1, config);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(router.Chat("", As("sk-a")).result_int(), 200u);
  const std::string wanted = "longshelf_router_audit_lines_dropped_total 3";
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (router.Metrics().find(wanted) == std::string::npos && absl::Now() < deadline) std::this_thread::yield();
  EXPECT_THAT(router.Metrics(), HasSubstr(wanted));
  config.audit_log = "/nonexistent/audit.log";
  EXPECT_FALSE(RouterService::Start(config, router.clock).ok()) << "a router that cannot begin one says so";
}

TEST_F(KeyDoors, AnAuditLogThatWasMovedAwayIsBegunAnew) {
  std::ofstream(audit_) << "before\n";
  const std::filesystem::path moved = dir_ / "audit.log.1";
  const AuditRecord record{.begun_at = absl::UnixEpoch(), .request_id = "r"};
  {
    auto log = AuditLog::Open(audit_.string(), [](uint64_t) {});
    ASSERT_TRUE(log.ok()) << log.status();
    (*log)->Write(record);
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (ContentOf(audit_).size() < 10 && absl::Now() < deadline) std::this_thread::yield();
    std::filesystem::rename(audit_, moved);
    (*log)->Write(record);
  }
  EXPECT_EQ(ContentOf(moved), "before\n" + AuditLine(record));
  EXPECT_EQ(ContentOf(audit_), AuditLine(record));
}

}  // namespace
}  // namespace longshelf::router::testing
