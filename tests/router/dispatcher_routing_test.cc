// Which worker gets which stream when many come: no herds, prefixes found, sessions kept together.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "dispatcher_fixture.h"

namespace longshelf::router {
namespace {

using testing::DispatcherTest;
using testing::FakeCall;
using testing::Recorder;

using Prompt = std::shared_ptr<const std::vector<uint32_t>>;

class RoutingTest : public DispatcherTest {
 protected:
  static constexpr size_t kWorkers = 8;
  static constexpr uint32_t kBlock = 256;

  static WorkerInfo BigInfo(size_t worker) {
    WorkerInfo info = Info();
    info.id = "w" + std::to_string(worker);
    info.n_context_max = 1 << 20;
    return info;
  }
  void Start() {
    Make(kWorkers);
    for (size_t i = 0; i < kWorkers; ++i) {
      ASSERT_TRUE(dispatcher_->OnWorkerUp(i, BigInfo(i)));
      Report(i);
    }
    n_given_.assign(kWorkers, 0);
  }
  // A prompt that begins like all others do, and is its own from there on.
  static Prompt PromptOf(size_t n_shared, size_t n, std::mt19937& random) {
    std::vector<uint32_t> tokens(n, 7);
    for (size_t i = n_shared; i < n; ++i) tokens[i] = random() % 900 + 10;
    return std::make_shared<const std::vector<uint32_t>>(std::move(tokens));
  }
  std::unique_ptr<Recorder> Ask(const Prompt& prompt, const std::string& affinity = "") {
    auto recorder = std::make_unique<Recorder>();
    StreamSpec spec;
    spec.request_id = "r";
    spec.prompt = prompt;
    spec.max_tokens = 1;
    spec.affinity = affinity;
    auto stream = dispatcher_->Generate(std::move(spec), *recorder);
    EXPECT_TRUE(stream.ok()) << stream.status();
    if (stream.ok()) recorder->stream = *std::move(stream);
    return recorder;
  }
  // The worker has read the prompt, says so, and gives the one token.
  void Serve(size_t worker, FakeCall& call) {
    const std::vector<uint32_t>& prompt = *call.request.prompt;
    const PromptKeys keys = MakePromptKeys(Info().fingerprint, "", kBlock, prompt);
    WorkerUpdate update;
    for (size_t block = 1; block < keys.chain.size(); ++block) {
      if (held_[worker].insert(keys.chain[block]).second) {
        update.gained.push_back({keys.chain[block], keys.chain[block], static_cast<uint32_t>(block * kBlock)});
      }
    }
    ++n_given_[worker];
    call.Send(Token(0, 10));
    call.Send(WorkerFinished{FinishReason::kLength, {}});
    update.load.n_running = static_cast<uint32_t>(links_[worker]->calls.size());
    update.load.n_sequences_max = 16;
    dispatcher_->OnWorkerUpdate(worker, update);
  }
  size_t WorkerOfTheOnlyCall() const {
    for (size_t w = 0; w < kWorkers; ++w) {
      if (!links_[w]->calls.empty()) return w;
    }
    return SIZE_MAX;
  }
  double MaxOverMean() const {
    const int all = std::accumulate(n_given_.begin(), n_given_.end(), 0);
    return *std::max_element(n_given_.begin(), n_given_.end()) * static_cast<double>(kWorkers) / all;
  }

  std::vector<int> n_given_;
  std::map<size_t, std::set<BlockKey>> held_;
  std::mt19937 random_{1};
};

TEST_F(RoutingTest, AFloodOfLongPromptsOneAtATimeGoesEverywhere) {
  for (const size_t n_shared : {size_t{0}, size_t{512}, size_t{2048}}) {
    Start();
    for (int i = 0; i < 80; ++i) {
      const auto asked = Ask(PromptOf(n_shared, 32768, random_));
      const size_t worker = WorkerOfTheOnlyCall();
      ASSERT_NE(worker, SIZE_MAX);
      Serve(worker, links_[worker]->last());
    }
    EXPECT_LE(MaxOverMean(), 1.3) << n_shared;
    links_.clear();
    held_.clear();
  }
}

TEST_F(RoutingTest, AFloodOfLongPromptsAtOnceGoesEverywhere) {
  Start();
  std::vector<std::unique_ptr<Recorder>> asked;
  for (int i = 0; i < 120; ++i) asked.push_back(Ask(PromptOf(512, 32768, random_)));
  std::vector<size_t> n(kWorkers);
  for (size_t w = 0; w < kWorkers; ++w) n[w] = links_[w]->calls.size();
  EXPECT_EQ(*std::max_element(n.begin(), n.end()), 15u);
  EXPECT_EQ(*std::min_element(n.begin(), n.end()), 15u);
}

TEST_F(RoutingTest, TheSameAffinityGoesToTheSameWorkerAndDifferentOnesEverywhere) {
  Start();
  std::map<std::string, size_t> home;
  std::set<size_t> homes;
  for (int turn = 0; turn < 3; ++turn) {
    for (int session = 0; session < 64; ++session) {
      const std::string affinity = "session " + std::to_string(session);
      const auto asked = Ask(PromptOf(0, 300, random_), affinity);
      const size_t worker = WorkerOfTheOnlyCall();
      ASSERT_NE(worker, SIZE_MAX);
      EXPECT_EQ(home.try_emplace(affinity, worker).first->second, worker);
      homes.insert(worker);
      ++n_given_[worker];
      links_[worker]->last().Send(Token(0, 10));
      links_[worker]->last().Send(WorkerFinished{FinishReason::kLength, {}});
    }
  }
  EXPECT_EQ(homes.size(), kWorkers);
  EXPECT_LE(MaxOverMean(), 2.0);
}

// Sessions of many turns, each of which goes on from the last one's prompt; new ones come as old ones end.
class HitRate : public RoutingTest {
 protected:
  struct Session {
    std::vector<uint32_t> tokens;
    int n_turns = 0;
  };
  struct Running {
    size_t session;
    Prompt prompt;
    std::unique_ptr<Recorder> recorder;
    absl::Duration served;
  };

  // The share of all prompt tokens that the workers had, when so much of their slots is taken on average.
  double At(double load) {
    Start();
    const double per_second = load * kWorkers * 16 / absl::ToDoubleSeconds(kService);
    std::exponential_distribution<double> gap(per_second);
    absl::Time next = clock_.Now();
    const absl::Time end = clock_.Now() + absl::Seconds(30);
    uint64_t n_tokens = 0;
    uint64_t n_hits = 0;
    while (clock_.Now() < end) {
      for (; next <= clock_.Now(); next += absl::Seconds(gap(random_))) Turn();
      for (size_t w = 0; w < kWorkers; ++w) {
        const std::vector<FakeCall*> calls = links_[w]->calls;
        size_t n_in_slots = 0;
        for (FakeCall* call : calls) {
          if (n_in_slots++ == 16) break;
          absl::Duration& served = served_[call];
          if (served == absl::ZeroDuration()) {
            n_tokens += call->request.prompt->size();
            n_hits += HeldOf(w, *call->request.prompt);
          }
          served += kStep;
          if (served < kService) continue;
          served_.erase(call);
          Serve(w, *call);
        }
      }
      clock_.Advance(kStep);
      dispatcher_->Tick();
    }
    for (auto& asked : asked_) asked->stream.reset();
    asked_.clear();
    sessions_.clear();
    served_.clear();
    dispatcher_.reset();
    links_.clear();
    held_.clear();
    return static_cast<double>(n_hits) / static_cast<double>(n_tokens);
  }

 private:
  static constexpr absl::Duration kService = absl::Milliseconds(400);
  static constexpr absl::Duration kStep = absl::Milliseconds(10);

  void Turn() {
    if (sessions_.size() < 600) sessions_.emplace_back();
    Session& session = sessions_[random_() % sessions_.size()];
    if (session.n_turns++ == 12) session = {};
    const size_t n_new = 300 + random_() % 600;
    for (size_t i = 0; i < n_new; ++i) session.tokens.push_back(random_() % 900 + 10);
    asked_.push_back(Ask(std::make_shared<const std::vector<uint32_t>>(session.tokens)));
  }
  uint64_t HeldOf(size_t worker, const std::vector<uint32_t>& prompt) {
    const PromptKeys keys = MakePromptKeys(Info().fingerprint, "", kBlock, prompt);
    size_t block = 1;
    while (block < keys.chain.size() && held_[worker].contains(keys.chain[block])) ++block;
    return (block - 1) * kBlock;
  }

  std::deque<Session> sessions_;
  std::deque<std::unique_ptr<Recorder>> asked_;
  std::map<FakeCall*, absl::Duration> served_;
};

TEST_F(HitRate, AtHighLoadIsWhatItIsAtLowLoad) {
  const double low = At(0.3);
  const double high = At(0.9);
  EXPECT_GT(low, 0.4);
  EXPECT_GE(high, low - 0.05);
}

}  // namespace
}  // namespace longshelf::router
