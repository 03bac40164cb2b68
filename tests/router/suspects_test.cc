// What the dispatcher does with requests that kill their workers, and with those that were near them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "dispatcher_fixture.h"
#include "router/api_error.h"
#include "router/suspicion.h"

namespace longshelf::router {
namespace {

using testing::DispatcherTest;
using ::testing::ElementsAre;
using testing::FakeCall;
using testing::FakeLink;
using ::testing::HasSubstr;
using testing::Recorder;

bool IsRefused(const Recorder& r) {
  return r.failed.has_value() && FromStatus(*r.failed).code == "request_kills_workers";
}

class SuspectsTest : public DispatcherTest {
 protected:
  void Up(size_t worker) {
    WorkerInfo info = Info();
    info.id = "w" + std::to_string(worker);
    info.generation = ++n_generations_;
    ASSERT_TRUE(dispatcher_->OnWorkerUp(worker, info));
    infos_[worker] = info;
  }
  void Start(size_t n_workers, DispatcherConfig config = {}) {
    config.wait_max = absl::Minutes(10);  // however few workers are left: nobody is refused for the wait
    Make(n_workers, config);
    for (size_t i = 0; i < n_workers; ++i) Up(i);
  }
  // The group is gone: the watch breaks, and then every call.
  void Kill(size_t worker, const absl::Status& why = absl::UnavailableError("Socket closed")) {
    dispatcher_->OnWorkerDown(worker, why);
    while (!links_[worker]->calls.empty()) links_[worker]->last().Close(why);
  }
  FakeCall* CallOf(size_t worker, const std::string& id) {
    for (FakeCall* call : links_[worker]->calls) {
      if (call->request.request_id == id) return call;
    }
    return nullptr;
  }
  size_t WorkerOf(const std::string& id) {
    for (size_t w = 0; w < links_.size(); ++w) {
      if (CallOf(w, id) != nullptr) return w;
    }
    return SIZE_MAX;
  }
  absl::Status Begin(Recorder& recorder, const std::string& id,
                     std::shared_ptr<const std::vector<uint32_t>> prompt = nullptr) {
    StreamSpec spec;
    spec.request_id = id;
    spec.prompt = prompt != nullptr ? std::move(prompt)
                                    : std::make_shared<const std::vector<uint32_t>>(std::vector<uint32_t>(300, 7));
    spec.max_tokens = 1000;
    spec.stop_token_ids = {1};
    auto stream = dispatcher_->Generate(std::move(spec), recorder);
    if (!stream.ok()) return stream.status();
    recorder.stream = *std::move(stream);
    return absl::OkStatus();
  }
  double Blamed() {
    const std::string text = registry_.Serialize();
    const std::string name = "\nlongshelf_router_requests_blamed_total ";
    return std::stod(text.substr(text.find(name) + name.size()));
  }

  uint64_t n_generations_ = 0;
  std::map<size_t, WorkerInfo> infos_;
};

TEST_F(SuspectsTest, TheSecondGroupThatDiesUnderARequestIsItsLast) {
  Start(3);
  Recorder r;
  ASSERT_TRUE(Begin(r, "poison").ok());
  Kill(WorkerOf("poison"));
  ASSERT_FALSE(r.failed.has_value());
  Kill(WorkerOf("poison"), GroupFailure("shard 1: layer 3 of /m/v4 is broken"));
  ASSERT_TRUE(IsRefused(r));
  EXPECT_EQ(WorkerOf("poison"), SIZE_MAX);
  const ApiError error = FromStatus(*r.failed);
  EXPECT_EQ(error.http_status, 422);
  EXPECT_EQ(error.retry_after_s, 0);
  EXPECT_THAT(error.message, HasSubstr("shard 1: layer 3 of ... is broken"));
  EXPECT_TRUE(absl::IsFailedPrecondition(ToStatus(error)));
  EXPECT_EQ(Blamed(), 1);
  EXPECT_EQ(dispatcher_->n_streams(), 0u);
}

TEST_F(SuspectsTest, OneThatDiesTwiceBehindTheSameTokenIsRefusedAsWell) {
  Start(3);
  Recorder r;
  ASSERT_TRUE(Begin(r, "poison").ok());
  CallOf(WorkerOf("poison"), "poison")->Send(Token(0, 10));
  Kill(WorkerOf("poison"));
  EXPECT_THAT(CallOf(WorkerOf("poison"), "poison")->request.committed, ElementsAre(10));
  Kill(WorkerOf("poison"));
  EXPECT_TRUE(IsRefused(r));
  EXPECT_THAT(r.tokens, ElementsAre(10));
}

TEST_F(SuspectsTest, ATokenBetweenTwoDeathsIsAnAlibi) {
  Start(3);
  Recorder r;
  ASSERT_TRUE(Begin(r, "r").ok());
  uint32_t n = 0;
  for (int death = 0; death < 6; ++death) {
    const size_t worker = WorkerOf("r");
    // A death in the middle of many tokens, or right behind the first one.
    for (uint32_t i = 0; i < (death % 2 == 0 ? kProofTokens / 3 : 1); ++i) CallOf(worker, "r")->Send(Token(n++, 10));
    if (death % 2 == 1) {
      for (uint32_t i = 0; i < kProofTokens; ++i) CallOf(worker, "r")->Send(Token(n++, 10));
    }
    Kill(worker);
    Up(worker);
    dispatcher_->Tick();
    ASSERT_FALSE(r.failed.has_value()) << death;
  }
}

TEST_F(SuspectsTest, ThreeDeathsWithinAFewTokensEachAreTheLimit) {
  Start(4);
  Recorder r;
  ASSERT_TRUE(Begin(r, "slow poison").ok());
  uint32_t n = 0;
  for (int death = 0; death < 3; ++death) {
    ASSERT_FALSE(r.failed.has_value()) << death;
    const size_t worker = WorkerOf("slow poison");
    for (int i = 0; i < 5; ++i) CallOf(worker, "slow poison")->Send(Token(n++, 10));
    Kill(worker);
  }
  EXPECT_TRUE(IsRefused(r));
  EXPECT_EQ(r.tokens.size(), 15u);
}

TEST_F(SuspectsTest, ThoseWhoWereNearGoOnApartFromEachOther) {
  Start(4);
  Recorder poison, a, b;
  for (size_t w = 1; w < 4; ++w) dispatcher_->OnWorkerDown(w, absl::CancelledError("elsewhere"));
  ASSERT_TRUE(Begin(poison, "poison").ok() && Begin(a, "a").ok() && Begin(b, "b").ok());
  ASSERT_EQ(links_[0]->calls.size(), 3u);
  for (size_t w = 1; w < 4; ++w) Up(w);
  Kill(0);
  for (size_t w = 1; w < 4; ++w) EXPECT_EQ(links_[w]->calls.size(), 1u) << w;
  Kill(WorkerOf("poison"));
  EXPECT_TRUE(IsRefused(poison));
  for (const char* id : {"a", "b"}) {
    FakeCall* call = CallOf(WorkerOf(id), id);
    call->Send(Token(0, 10));
    call->Send(WorkerFinished{FinishReason::kLength, {}});
  }
  EXPECT_EQ(a.finished, FinishReason::kLength);
  EXPECT_EQ(b.finished, FinishReason::kLength);
}

TEST_F(SuspectsTest, OnOneWorkerTheyAreTriedOneAfterTheOtherAndNewRequestsDoNotWaitBehindThem) {
  Start(1);
  Recorder a, poison, fresh;
  ASSERT_TRUE(Begin(a, "a").ok() && Begin(poison, "poison").ok());
  Kill(0);
  Up(0);
  ASSERT_EQ(links_[0]->calls.size(), 1u) << "one of them";
  ASSERT_TRUE(Begin(fresh, "fresh").ok());
  EXPECT_NE(CallOf(0, "fresh"), nullptr);
  const bool a_first = CallOf(0, "a") != nullptr;
  if (a_first) {
    CallOf(0, "a")->Send(Token(0, 10));
    EXPECT_NE(CallOf(0, "poison"), nullptr) << "at once, when the place is free";
  }
  Kill(0);
  EXPECT_TRUE(IsRefused(poison)) << "tried " << (a_first ? "second" : "first");
  EXPECT_FALSE(a.failed.has_value());
  EXPECT_FALSE(fresh.failed.has_value());
}

TEST_F(SuspectsTest, WhoWaitedTooLongSharesAWorkerAndThenNobodyIsBlamed) {
  Start(2);
  Recorder a, b;
  dispatcher_->OnWorkerDown(1, absl::CancelledError("elsewhere"));
  ASSERT_TRUE(Begin(a, "a").ok() && Begin(b, "b").ok());
  Up(1);
  Kill(0);
  ASSERT_EQ(links_[1]->calls.size(), 1u);
  clock_.Advance(absl::Seconds(6));
  dispatcher_->Tick();
  ASSERT_EQ(links_[1]->calls.size(), 2u);
  Up(0);
  Kill(1);
  EXPECT_FALSE(a.failed.has_value() || b.failed.has_value());
  EXPECT_EQ(links_[0]->calls.size(), 1u) << "apart again";
  Kill(0);
  EXPECT_NE(IsRefused(a), IsRefused(b)) << "the third death names one";
}

TEST_F(SuspectsTest, WhatIsNoDeathMakesNoSuspect) {
  const absl::Status ends[] = {absl::CancelledError("drained"), absl::DeadlineExceededError("a day is over"),
                               absl::FailedPreconditionError("of another model"),
                               absl::ResourceExhaustedError("too many watchers")};
  Start(2);
  for (const absl::Status& why : ends) {
    Recorder a, b;
    ASSERT_TRUE(Begin(a, "a").ok() && Begin(b, "b").ok());
    dispatcher_->OnWorkerDown(0, why);
    while (!links_[0]->calls.empty()) links_[0]->last().Close(absl::UnavailableError("Socket closed"));
    EXPECT_EQ(links_[1]->calls.size(), 2u) << why << ": together, as they came";
    a.stream.reset();
    b.stream.reset();
    Up(0);
  }
  // A call that breaks, or is refused, while the worker lives.
  Recorder r;
  ASSERT_TRUE(Begin(r, "r").ok());
  for (int i = 0; i < 4; ++i) {
    const size_t worker = WorkerOf("r");
    if (worker != SIZE_MAX) CallOf(worker, "r")->Close(absl::UnavailableError("refused"));
    clock_.Advance(absl::Milliseconds(200));
    dispatcher_->Tick();
  }
  ASSERT_TRUE(r.failed.has_value());
  EXPECT_EQ(FromStatus(*r.failed).code, "no_workers");
}

TEST_F(SuspectsTest, ADrainingWorkerThatIsCutOffHasNotDied) {
  Start(2);
  for (int i = 0; i < 3; ++i) {
    Recorder r;
    ASSERT_TRUE(Begin(r, "r").ok());
    for (int death = 0; death < 2; ++death) {
      const size_t worker = WorkerOf("r");
      WorkerUpdate update;
      update.load.draining = true;
      dispatcher_->OnWorkerUpdate(worker, update);
      Kill(worker);
      Up(worker);
    }
    EXPECT_FALSE(r.failed.has_value());
  }
}

TEST_F(SuspectsTest, AWorkerThatWasOnlyOutOfReachHasNotDied) {
  Start(3);
  Recorder r;
  ASSERT_TRUE(Begin(r, "r").ok());
  const size_t first = WorkerOf("r");
  Kill(first);
  ASSERT_TRUE(dispatcher_->OnWorkerUp(first, infos_[first])) << "the same group";
  Kill(WorkerOf("r"));
  EXPECT_FALSE(r.failed.has_value()) << "its first death";
  Kill(WorkerOf("r"));
  EXPECT_TRUE(IsRefused(r));
}

TEST_F(SuspectsTest, AGroupThatSaysOnAStreamThatItFailedIsDeadForAllOfThem) {
  Start(3);
  Recorder a, b;
  for (size_t w = 1; w < 3; ++w) dispatcher_->OnWorkerDown(w, absl::CancelledError("elsewhere"));
  ASSERT_TRUE(Begin(a, "a").ok() && Begin(b, "b").ok());
  for (size_t w = 1; w < 3; ++w) Up(w);
  CallOf(0, "a")->Close(GroupFailure("out of memory"));
  EXPECT_EQ(dispatcher_->n_ready(), 2u);
  CallOf(0, "b")->Close(GroupFailure("out of memory"));
  dispatcher_->OnWorkerDown(0, absl::UnavailableError("Socket closed"));
  EXPECT_EQ(links_[1]->calls.size(), 1u);
  EXPECT_EQ(links_[2]->calls.size(), 1u);
}

TEST_F(SuspectsTest, TheLastWordsOfTheOnlyWorkerAreTheClientsReason) {
  Start(1);
  Recorder r;
  ASSERT_TRUE(Begin(r, "r").ok());
  Kill(0, GroupFailure("shard 1: cannot map\n/m/v4"));
  clock_.Advance(absl::Seconds(11));
  dispatcher_->Tick();
  ASSERT_TRUE(r.failed.has_value());
  EXPECT_EQ(FromStatus(*r.failed).code, "no_workers");
  EXPECT_THAT(FromStatus(*r.failed).message, HasSubstr("failed: shard 1: cannot map ..."));
}

TEST_F(SuspectsTest, TheChoicesOfOneRequestAreTriedInOnePlace) {
  Start(3);
  const auto prompt = std::make_shared<const std::vector<uint32_t>>(std::vector<uint32_t>(300, 7));
  Recorder one, two;
  for (size_t w = 1; w < 3; ++w) dispatcher_->OnWorkerDown(w, absl::CancelledError("elsewhere"));
  ASSERT_TRUE(Begin(one, "r-0", prompt).ok() && Begin(two, "r-1", prompt).ok());
  for (size_t w = 1; w < 3; ++w) Up(w);
  Kill(0);
  EXPECT_EQ(WorkerOf("r-0"), WorkerOf("r-1"));
  Kill(WorkerOf("r-0"));
  EXPECT_TRUE(IsRefused(one) && IsRefused(two));
  EXPECT_EQ(Blamed(), 1) << "one request";
}

// A whole cluster under a clock of its own: streams come and go, each worker reads prompts and makes tokens, a culprit
// kills its worker at one position, and groups come back.
class Cluster : public SuspectsTest, public ::testing::WithParamInterface<int> {
 protected:
  struct Client {
    std::string id;
    Recorder recorder;
    int kills_at = -1;        // output index before which its worker dies; -1 = never
    int n_deaths = 0;         // of groups that had it
    int n_silent_deaths = 0;  // since its last token
    size_t n_tokens_seen = 0;
  };
  static constexpr absl::Duration kStep = absl::Milliseconds(50);
  static constexpr uint32_t kTokens = 60;

  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }
  static uint32_t TokenOf(const std::string& id, uint32_t index) {
    return 2 + static_cast<uint32_t>((std::hash<std::string>()(id) + index * 31) % 900);
  }

  void AddClient(int kills_at) {
    auto client = std::make_unique<Client>();
    client->id = "s" + std::to_string(clients_.size());
    client->kills_at = kills_at;
    ASSERT_TRUE(Begin(client->recorder, client->id).ok());
    clients_.push_back(std::move(client));
  }
  Client& ClientOf(const std::string& id) { return *clients_[std::stoul(id.substr(1))]; }

  void KillGroup(size_t worker) {
    for (const FakeCall* call : links_[worker]->calls) {
      Client& client = ClientOf(call->request.request_id);
      ++client.n_deaths;
      ++client.n_silent_deaths;
    }
    back_at_[worker] = clock_.Now() + kStep * (1 + Below(40));
    Kill(worker);
  }

  // One step of a worker; false when it died of it.
  bool Step(size_t worker) {
    const std::vector<FakeCall*> calls = links_[worker]->calls;
    for (FakeCall* call : calls) {
      const auto key = std::pair(call->request.request_id, call->request.epoch);
      if (!steps_left_.contains(key)) steps_left_[key] = 1 + Below(3);
      if (steps_left_[key]-- > 0) continue;
      steps_left_[key] = 0;
      Client& client = ClientOf(call->request.request_id);
      const auto index = static_cast<uint32_t>(client.recorder.tokens.size());
      if (client.kills_at == static_cast<int>(index)) {
        KillGroup(worker);
        return false;
      }
      client.n_silent_deaths = 0;
      call->Send(Token(index, TokenOf(client.id, index)));
      // The stream ends itself, or its client its stream, only once all is sent.
      if (index + 1 == kTokens) call->Send(WorkerFinished{FinishReason::kLength, {}});
    }
    return true;
  }

  void Run(absl::Duration time, const std::function<void()>& every_step) {
    const absl::Time end = clock_.Now() + time;
    while (clock_.Now() < end) {
      clock_.Advance(kStep);
      every_step();
      for (size_t w = 0; w < links_.size(); ++w) {
        if (!back_at_.contains(w)) {
          Step(w);
        } else if (clock_.Now() >= back_at_[w]) {
          back_at_.erase(w);
          Up(w);
        }
      }
      dispatcher_->Tick();
    }
  }

  void ExpectWhole(const Client& client) {
    ASSERT_EQ(client.recorder.finished, FinishReason::kLength)
        << client.id << ": " << client.recorder.failed.value_or(absl::OkStatus());
    ASSERT_EQ(client.recorder.tokens.size(), kTokens);
    for (uint32_t i = 0; i < kTokens; ++i) ASSERT_EQ(client.recorder.tokens[i], TokenOf(client.id, i));
  }

  absl::Duration Elapsed() const { return clock_.Now() - begun_; }

  const absl::Time begun_ = clock_.Now();
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::map<size_t, absl::Time> back_at_;
  std::map<std::pair<std::string, uint32_t>, uint32_t> steps_left_;  // of a prompt
};
INSTANTIATE_TEST_SUITE_P(Seeds, Cluster, ::testing::Range(0, 200));

TEST_P(Cluster, ACulpritKillsTwoGroupsAndEverybodyElseIsAnsweredWhole) {
  random_.seed(static_cast<uint64_t>(GetParam()));
  const size_t n_workers = 3 + Below(3);
  Start(n_workers);
  size_t culprit = SIZE_MAX;
  const int kills_at = static_cast<int>(Below(2) == 0 ? 0 : Below(kTokens));
  Run(absl::Seconds(30), [&] {
    if (Elapsed() > absl::Seconds(20) || Below(4) != 0 || clients_.size() >= 60) return;
    const bool is_culprit = clients_.size() == 10;
    if (is_culprit) culprit = clients_.size();
    AddClient(is_culprit ? kills_at : -1);
  });
  ASSERT_LT(culprit, clients_.size());
  for (const auto& client : clients_) {
    if (client.get() != clients_[culprit].get()) ExpectWhole(*client);
  }
  EXPECT_TRUE(IsRefused(clients_[culprit]->recorder));
  EXPECT_EQ(clients_[culprit]->n_deaths, 2);
  EXPECT_EQ(clients_[culprit]->recorder.tokens.size(), static_cast<size_t>(kills_at));
  EXPECT_EQ(Blamed(), 1);
}

// In a quiet minute two kills in a row may be mistaken; here one worker had died before.
TEST_P(Cluster, KillsFromOutsideRefuseHardlyAnybody) {
  random_.seed(static_cast<uint64_t>(GetParam()));
  Start(4);
  KillGroup(3);
  Run(absl::Seconds(40), [&] {
    const size_t victim = Below(4);
    if (Below(100) == 0 && !back_at_.contains(victim)) KillGroup(victim);
    if (Elapsed() < absl::Seconds(25) && Below(4) == 0) AddClient(-1);
  });
  for (const auto& client : clients_) {
    if (!IsRefused(client->recorder)) {
      ExpectWhole(*client);
    } else {
      EXPECT_GE(client->n_deaths, 3) << client->id;
      EXPECT_TRUE(client->n_silent_deaths >= 3 || client->n_deaths >= 4) << client->id;
    }
  }
  RecordProperty("refused", static_cast<int>(Blamed()));
  RecordProperty("streams", static_cast<int>(clients_.size()));
  RecordProperty("kills", static_cast<int>(n_generations_ - 4));
}

TEST_P(Cluster, ACulpritAmongKillsFromOutsideEndsSoonToo) {
  random_.seed(static_cast<uint64_t>(GetParam()));
  Start(4);
  const int kills_at = static_cast<int>(Below(kTokens));
  Run(absl::Seconds(40), [&] {
    const size_t victim = Below(4);
    if (Below(100) == 0 && !back_at_.contains(victim)) KillGroup(victim);
    if (Elapsed() < absl::Seconds(20) && Below(4) == 0) AddClient(clients_.size() == 10 ? kills_at : -1);
  });
  ASSERT_GT(clients_.size(), 10u);
  EXPECT_TRUE(IsRefused(clients_[10]->recorder));
  EXPECT_LE(clients_[10]->n_silent_deaths, 4);
}

}  // namespace
}  // namespace longshelf::router
