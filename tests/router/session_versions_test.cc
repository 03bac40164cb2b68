// Versions of a session that several routers, whose clocks differ, write at once.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "common/clock.h"
#include "common/metrics.h"
#include "fake_stores.h"
#include "kvstore/keys.h"
#include "router/completion.h"
#include "router/dispatcher.h"
#include "router/metrics.h"
#include "router/session_store.h"
#include "router/sessions.h"

namespace longshelf::router {
namespace {

using testing::FakeStores;

constexpr char kSecret[] = "secret";
constexpr absl::Duration kRetention = absl::Hours(48);

struct NoSink final : CompletionSink {
  void OnBegun(const Usage&) override {}
  void OnProgress(const PrefillProgress&) override {}
  void OnDelta(uint32_t, const ChoiceDelta&) override {}
  void OnChoiceFinished(uint32_t, const ChoiceEnd&) override {}
  void OnDone(const Usage&) override {}
  void OnError(const ApiError&) override {}
};

ServedModel Model() {
  ServedModel model;
  model.name = "demo";
  model.vocab_size = 1000;
  return model;
}

// One router's: without workers, the test is what answers.
class Router {
 public:
  Router(FakeStores& stores, absl::Duration is_ahead) : stores_(stores) { clock.Advance(is_ahead); }

  struct Answer {
    std::unique_ptr<Completion> completion;
    std::shared_ptr<AnswerRecorder> recorder;
  };
  Answer Begin(std::optional<ParkTerms> at_end = std::nullopt) {
    PreparedRequest prepared;
    prepared.request.api = Api::kCompletions;
    prepared.request.session = "s";
    prepared.request.body = std::make_shared<const std::string>("{}");
    prepared.request.park = at_end;
    prepared.prompts.resize(1);
    prepared.prompts[0].tokens = std::make_shared<const std::vector<uint32_t>>(std::vector<uint32_t>{1, 2, 3});
    prepared.tenant = prepared.namespace_id = "alice";
    Answer answer;
    answer.completion =
        std::make_unique<Completion>(dispatcher_, model_, clock, router_metrics_, std::move(prepared), "id", 1, sink_);
    answer.recorder = sessions.Begin(*answer.completion, "id");
    return answer;
  }
  void End(Answer& answer, uint32_t n_tokens) {
    for (uint32_t i = 0; i < n_tokens; ++i) answer.recorder->OnToken(i);
    answer.recorder->OnEnd("stop", std::nullopt);
    answer.completion.reset();
  }
  // An answer of `n_tokens` that is parked at its end.
  void AnswerAndPark(uint32_t n_tokens) {
    Answer answer = Begin(ParkTerms{.retention = kRetention});
    End(answer, n_tokens);
    Settle();
  }
  bool Step() {
    if (tasks_.empty()) return stores_.Run();
    const auto task = std::move(tasks_.front());
    tasks_.pop_front();
    task();
    return true;
  }
  void Settle() {
    while (Step()) {
    }
  }
  // 200, or the status of the error.
  int Park(absl::Duration retention = kRetention) {
    return StatusOf([&](auto done) { sessions.Park({"alice"}, "s", {.retention = retention}, done); });
  }
  int Get() {
    return StatusOf([&](auto done) { sessions.Find({"alice"}, "s", done); });
  }
  int Resume() {
    return StatusOf<Session>([&](auto done) { sessions.LoadUnfinished({"alice"}, "s", done); });
  }
  int List() {
    return StatusOf<SessionStore::Page>([&](auto done) { sessions.List({"alice"}, "", 10, done); });
  }
  int Delete() {
    return StatusOf([&](auto done) { sessions.Delete({"alice"}, "s", done); });
  }
  // Of the session; 0 when it is not found.
  uint32_t n_tokens() { return Get() == 200 ? last_.n_output_tokens : 0; }

 private:
  template <typename T = SessionInfo, typename Call>
  int StatusOf(const Call& call) {
    int status = 0;
    call([&](const std::variant<T, ApiError>& result) {
      const auto* error = std::get_if<ApiError>(&result);
      status = error == nullptr ? 200 : error->http_status;
      if constexpr (std::is_same_v<T, SessionInfo>) {
        if (error == nullptr) last_ = std::get<SessionInfo>(result);
      }
    });
    Settle();
    return status;
  }

  FakeStores& stores_;
  std::deque<std::function<void()>> tasks_;
  longshelf::Metrics metrics_{"test"};
  RouterMetrics router_metrics_{metrics_};
  const ServedModel model_ = Model();
  NoSink sink_;
  SessionInfo last_;

 public:
  ManualClock clock;

 private:
  Dispatcher dispatcher_{{}, clock, router_metrics_, {}};
  SessionStore store_{stores_, kSecret, [this](std::function<void()> task) { tasks_.push_back(std::move(task)); }};

 public:
  Sessions sessions{{.tenant_secret = kSecret}, model_, clock, dispatcher_, &store_, nullptr};
};

class SessionVersionsTest : public ::testing::Test {
 protected:
  void Advance(absl::Duration time) {
    for (ManualClock* clock : {&clock_, &first_.clock, &second_.clock}) clock->Advance(time);
  }
  size_t n_cards() const {
    return static_cast<size_t>(std::count_if(stores_.records.begin(), stores_.records.end(), [](const auto& each) {
      return each.second.first.parent == kvstore::NamespaceSalt(kSecret, "sessions/1/alice");
    }));
  }

  ManualClock clock_;
  FakeStores stores_{clock_};
  Router first_{stores_, absl::ZeroDuration()};
  Router second_{stores_, absl::ZeroDuration()};
};

TEST_F(SessionVersionsTest, WhatIsKeptLongerIsNoNewerAnswer) {
  first_.AnswerAndPark(3);
  for (const bool is_elsewhere : {true, false}) {
    Advance(absl::Seconds(1));
    Router third(stores_, first_.clock.Now() - ManualClock().Now());
    Router::Answer answer = first_.Begin(ParkTerms{.retention = kRetention});
    Advance(absl::Seconds(1));
    third.clock.Advance(absl::Seconds(1));
    EXPECT_EQ((is_elsewhere ? second_ : third).Park(), 200);
    const uint32_t n = is_elsewhere ? 5 : 6;
    first_.End(answer, n);
    first_.Settle();
    EXPECT_EQ(first_.n_tokens(), n);
    EXPECT_EQ(second_.n_tokens(), n);
    EXPECT_EQ(n_cards(), 1u);
  }
}

TEST_F(SessionVersionsTest, AnOldAnswerThatIsKeptLongerBehindANewerOneGivesWay) {
  first_.AnswerAndPark(3);
  Advance(absl::Seconds(1));
  // Between what the second one's park has seen and its card.
  stores_.before_put = [&](const auto&) {
    first_.AnswerAndPark(5);
    Advance(absl::Seconds(1));
  };
  Advance(absl::Seconds(1));
  EXPECT_EQ(second_.Park(), 200) << "of the newer one, in the end";
  second_.Settle();
  EXPECT_EQ(second_.n_tokens(), 5u);
  EXPECT_EQ(first_.n_tokens(), 5u);
  EXPECT_EQ(n_cards(), 1u);
}

TEST_F(SessionVersionsTest, ANewAnswerIsStoredBehindAnOldOneThatIsKeptLongerMeanwhile) {
  first_.AnswerAndPark(3);
  Advance(absl::Seconds(1));
  second_.clock.Advance(absl::Milliseconds(500));
  Router::Answer answer = first_.Begin();
  first_.End(answer, 5);
  auto kept = stores_.records;
  stores_.before_put = [&](const auto&) {
    EXPECT_EQ(second_.Park(), 200);
    kept = stores_.records;
  };
  EXPECT_EQ(first_.Park(), 200);
  EXPECT_EQ(n_cards(), 1u);
  // A store that was down has not heard that it was replaced.
  stores_.records.merge(kept);
  EXPECT_GT(n_cards(), 1u);
  EXPECT_EQ(first_.n_tokens(), 5u);
  EXPECT_EQ(second_.n_tokens(), 5u);
}

TEST_F(SessionVersionsTest, AnAnswerStandsOnWhatWasThereWhenItBeganWhateverTheClocksSay) {
  for (const bool is_deleted : {false, true}) {
    Router fast(stores_, absl::Milliseconds(500));
    Router slow(stores_, absl::Milliseconds(20));
    fast.AnswerAndPark(3);
    EXPECT_EQ(is_deleted ? fast.Delete() : 200, 200);
    slow.AnswerAndPark(5);
    EXPECT_EQ(slow.n_tokens(), 5u);
    EXPECT_EQ(fast.n_tokens(), 5u);
    EXPECT_EQ(n_cards(), 1u);
    stores_.records.clear();
  }
}

TEST_F(SessionVersionsTest, AnAnswerThatEndsAtOnceStandsOnWhatWasThereToo) {
  Router fast(stores_, absl::Milliseconds(500));
  fast.AnswerAndPark(3);
  Router::Answer answer = second_.Begin();
  second_.End(answer, 5);
  EXPECT_EQ(second_.n_tokens(), 5u) << "its stores have not said yet what was there";
  EXPECT_EQ(second_.Park(), 200);
  EXPECT_EQ(fast.n_tokens(), 5u);
}

TEST_F(SessionVersionsTest, StoresThatAreDownWhenAnAnswerBeginsDoNotMatter) {
  stores_.down = absl::UnavailableError("down");
  Router::Answer answer = first_.Begin(ParkTerms{.retention = kRetention});
  first_.Settle();
  stores_.down = absl::OkStatus();
  first_.End(answer, 4);
  first_.Settle();
  EXPECT_EQ(second_.n_tokens(), 4u);
}

TEST_F(SessionVersionsTest, WhatIsParkedOrDeletedElsewhereAfterAnAnswerBeganIsNewer) {
  for (const bool is_deleted : {false, true}) {
    second_.AnswerAndPark(2);
    Advance(absl::Seconds(1));
    Router::Answer answer = first_.Begin(ParkTerms{.retention = kRetention});
    first_.Settle();
    Advance(absl::Seconds(1));
    second_.AnswerAndPark(3);
    EXPECT_EQ(is_deleted ? second_.Delete() : 200, 200);
    first_.End(answer, 5);
    first_.Settle();
    EXPECT_EQ(first_.Get(), is_deleted ? 404 : 200);
    EXPECT_EQ(second_.n_tokens(), is_deleted ? 0u : 3u);
  }
}

TEST_F(SessionVersionsTest, WhatIsParkedWhileASessionIsDeletedIsDeletedToo) {
  for (const absl::Duration is_ahead : {absl::Milliseconds(-100), absl::Milliseconds(100)}) {
    Router elsewhere(stores_, first_.clock.Now() - ManualClock().Now() + is_ahead);
    first_.AnswerAndPark(3);
    Advance(absl::Seconds(1));
    Router::Answer answer = elsewhere.Begin();
    elsewhere.End(answer, 5);
    elsewhere.Settle();
    elsewhere.clock.Advance(absl::Seconds(1));
    // All was dropped, and nothing says so yet.
    stores_.before_put = [&](const auto&) { EXPECT_EQ(elsewhere.Park(), 200); };
    EXPECT_EQ(first_.Delete(), 200);
    for (int i = 0; i < 2; ++i) {
      for (Router* router : {&first_, &second_, &elsewhere}) EXPECT_EQ(router->Get(), 404) << is_ahead;
      EXPECT_EQ(stores_.records.size(), 1u) << "what says so";
      Advance(absl::Hours(25));
      elsewhere.clock.Advance(absl::Hours(25));
    }
    stores_.records.clear();
  }
}

TEST_F(SessionVersionsTest, DeletingEndsWhateverIsParkedMeanwhile) {
  for (const int n_parks : {2, 100}) {
    Router router(stores_, absl::ZeroDuration());
    Router elsewhere(stores_, absl::Hours(1));
    router.AnswerAndPark(3);
    int n = 0;
    std::function<void(const kvstore::PutItem&)> park = [&](const kvstore::PutItem&) {
      elsewhere.AnswerAndPark(5);
      if (++n < n_parks) stores_.before_put = park;
    };
    stores_.before_put = park;
    EXPECT_EQ(router.Delete(), n_parks < 3 ? 200 : 503) << "somebody may park it again";
    stores_.before_put = nullptr;
    EXPECT_EQ(router.Get(), 404);
    stores_.records.clear();
  }
}

TEST_F(SessionVersionsTest, ADeletedSessionDoesNotComeBackFromAnothersMemory) {
  first_.AnswerAndPark(3);
  EXPECT_EQ(second_.Delete(), 200);
  Advance(kRetention + absl::Hours(1));  // nothing says so any more
  first_.sessions.Tick();
  EXPECT_EQ(first_.Get(), 404);
  // One that is being made is not idle, however long it takes.
  Router::Answer answer = first_.Begin();
  Advance(absl::Hours(13));
  first_.sessions.Tick();
  EXPECT_EQ(first_.Get(), 200);
  first_.End(answer, 4);
  Advance(absl::Hours(11));
  first_.sessions.Tick();
  EXPECT_EQ(first_.n_tokens(), 4u);
  Advance(absl::Hours(2));
  first_.sessions.Tick();
  EXPECT_EQ(first_.Get(), 404);
}

TEST_F(SessionVersionsTest, ASessionWhoseTimeIsOverCanBeDeleted) {
  stores_.keeps_what_is_over = true;
  first_.AnswerAndPark(3);
  const auto parked = stores_.records;
  Advance(kRetention + absl::Hours(1));
  EXPECT_EQ(second_.Get(), 404);
  EXPECT_EQ(second_.Delete(), 200);
  for (const auto& [key, record] : parked) EXPECT_FALSE(stores_.records.contains(key));
  EXPECT_EQ(second_.Delete(), 404) << "it was";
}

TEST_F(SessionVersionsTest, WhatStoresThatDoNotAnswerMayHaveIsNotSaidToBeGone) {
  first_.AnswerAndPark(3);
  const auto all = std::exchange(stores_.records, {});
  // As many as may be all that have it.
  stores_.n_nodes_missed = 2;
  EXPECT_EQ(second_.Get(), 503);
  EXPECT_EQ(second_.Park(), 503);
  EXPECT_EQ(second_.Resume(), 503);
  EXPECT_EQ(second_.List(), 503);
  EXPECT_EQ(second_.Delete(), 503);
  EXPECT_EQ(first_.Get(), 200) << "it parked it itself";
  EXPECT_EQ(first_.Delete(), 503) << "and did not delete it";
  // Others may have later ones.
  stores_.records = all;
  EXPECT_EQ(second_.n_tokens(), 3u);
  EXPECT_EQ(second_.Delete(), 503);
  EXPECT_EQ(second_.List(), 503);
  EXPECT_EQ(second_.n_tokens(), 3u);
  stores_.n_nodes_missed = 1;
  EXPECT_EQ(second_.List(), 200);
  EXPECT_EQ(second_.Delete(), 200);
  EXPECT_EQ(second_.Get(), 404);
}

TEST_F(SessionVersionsTest, StoresThatDoNotAnswerDoNotStopParking) {
  stores_.n_nodes_missed = 2;
  Router::Answer answer = first_.Begin();
  first_.End(answer, 3);
  EXPECT_EQ(first_.Park(), 200);
  EXPECT_EQ(second_.n_tokens(), 3u);
}

TEST_F(SessionVersionsTest, ACardThatIsListedAndCannotBeReadIsNotGone) {
  first_.AnswerAndPark(3);
  stores_.unreadable = absl::NotFoundError("by those that answered");
  EXPECT_EQ(second_.Get(), 503);
  EXPECT_EQ(first_.Delete(), 503);
  stores_.unreadable = absl::OkStatus();
  EXPECT_EQ(second_.n_tokens(), 3u);
}

TEST_F(SessionVersionsTest, OfTwoParksOfTheSameMillisecondOneStays) {
  for (int round = 0; round < 20; ++round) {
    stores_.records.clear();
    std::deque<std::function<void()>> tasks;
    const auto post = [&](std::function<void()> task) { tasks.push_back(std::move(task)); };
    SessionStore first(stores_, kSecret, post);
    SessionStore second(stores_, kSecret, post);
    int n_stored = 0;
    for (SessionStore* store : {&first, &second}) {
      SessionInfo info;
      info.id = "s";
      info.parked_at = clock_.WallNow();
      info.retain_until = info.parked_at + kRetention;
      Session session;
      session.body = std::make_shared<const std::string>("{}");
      session.prompt = std::make_shared<const std::vector<uint32_t>>(3, 1);
      session.stands_on = info.parked_at - absl::Milliseconds(5);
      store->Put("alice", info, session, [&](const absl::StatusOr<SessionStore::Stored>& stored) {
        if (!stored.ok()) return;
        ++n_stored;
        first.Drop(stored->replaced, {}, [](const auto&) {});
      });
    }
    // In step: each lists before the other has stored, and again when both have.
    while (!tasks.empty() || stores_.Run()) {
      while (stores_.Run()) {
      }
      for (size_t n = tasks.size(); n > 0; --n) {
        const auto task = std::move(tasks.front());
        tasks.pop_front();
        task();
      }
    }
    EXPECT_EQ(n_stored, 1);
    EXPECT_EQ(n_cards(), 1u);
  }
}

}  // namespace
}  // namespace longshelf::router
