// Links that end: with a process, a connection, or because the leader wants it so.
#include <gmock/gmock.h>

#include <future>

#include "link_fixture.h"
#include "tcp_relay.h"

namespace longshelf::worker {
namespace {

using kvstore::TcpRelay;
using ::testing::HasSubstr;

// A call of each kind in the middle of its work, on the leader's side and on the shard's.
struct Running {
  std::shared_ptr<GetRecord> get;
  std::shared_ptr<PutRecord> put;
  std::shared_ptr<kvstore::Client::GetCall> get_call;
  std::shared_ptr<HomeStore::PutCall> put_call;
};

class LinkFaultsTest : public LinkFixture {
 protected:
  // 1 of 4 objects and 1 of 3 offers are answered.
  Running StartCalls(Shard& shard) {
    Running running;
    std::tie(running.get, running.get_call) = Get(RequestFor(4));
    std::tie(running.put, running.put_call) = Put();
    for (uint64_t id = 1; id <= 3; ++id) running.put_call->Offer(OfferOf(id));
    shard.store.get(0)->Answer(StampOf(0));
    const auto put = shard.store.put(0);
    EXPECT_TRUE(Eventually([&] { return put->items().size() == 3; }));
    put->Answer(2, kvstore::PutOutcome{});
    EXPECT_TRUE(running.get->WaitForAnswers(1));
    EXPECT_TRUE(running.put->WaitForAnswers(1));
    return running;
  }
  static void ExpectEnded(const Running& running, absl::StatusCode code) {
    EXPECT_EQ(running.get->WaitForEnd().code(), code);
    EXPECT_EQ(running.get->n_answers(), 4u);
    EXPECT_EQ(running.get->Count(4, code), 3u);
    EXPECT_EQ(running.put->WaitForEnd().code(), code);
    EXPECT_EQ(running.put->n_answers(), 3u);
    EXPECT_EQ(running.put->Count(3, code), 2u);
    running.get_call->Release(1);
    running.put_call->Offer(OfferOf(9));
  }
};

TEST_F(LinkFaultsTest, AShardThatGoesEndsItsCallsAndLaterOnesAndNobodyElses) {
  StartLeader(3);
  auto shard = Attach(1);
  const auto other = Attach(2);
  const auto [kept, kept_call] = Get(RequestFor(1), 2);
  const Running running = StartCalls(*shard);
  const auto get = shard->store.get(0);
  const auto put = shard->store.put(0);
  shard.reset();
  EXPECT_TRUE(get->is_cancelled);
  EXPECT_TRUE(put->is_cancelled);
  ExpectEnded(running, absl::StatusCode::kUnavailable);
  const auto [later, later_call] = Get(RequestFor(1), 1);
  const absl::Status status = later->WaitForEnd();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("shard 1"));
  other->store.get(0)->End(absl::OkStatus());
  EXPECT_TRUE(kept->WaitForEnd().ok());
  EXPECT_EQ(other->n_lost(), 0u);
}

TEST_F(LinkFaultsTest, AClientThatGoesWaitsForTheEndOfItsCalls) {
  StartLeader();
  auto shard = Attach();
  shard->store.cancelled_calls_end = false;
  const auto [record, call] = Get(RequestFor(1));
  const auto there = shard->store.get(0);
  std::promise<void> gone;
  std::thread end([&] {
    shard->client.reset();
    gone.set_value();
  });
  ASSERT_TRUE(Eventually([&] { return there->is_cancelled.load(); }));
  auto is_gone = gone.get_future();
  EXPECT_EQ(is_gone.wait_for(std::chrono::milliseconds(100)), std::future_status::timeout);
  there->End(absl::CancelledError("cancelled"));
  end.join();
  EXPECT_EQ(shard->n_lost(), 0u);
  EXPECT_EQ(record->WaitForEnd().code(), absl::StatusCode::kUnavailable);
}

TEST_F(LinkFaultsTest, ALostConnectionEndsBothSidesAndTheShardIsToldOnceItsCallsHaveEnded) {
  StartLeader();
  std::atomic<bool> is_cut = false;
  const auto cut = [&](size_t, std::span<char> bytes) {
    return TcpRelay::Verdict{.n_passed = is_cut ? 0 : bytes.size(),
                             .after = is_cut ? TcpRelay::After::kClose : TcpRelay::After::kGoOn};
  };
  TcpRelay relay(server_->loopback_port(), {.from_upstream = cut, .from_client = cut});
  StoreLinkClientOptions options = ClientOptions(1);
  options.address = absl::StrCat("127.0.0.1:", relay.port());
  const auto shard = Attach(options);
  shard->store.cancelled_calls_end = false;
  const Running running = StartCalls(*shard);
  is_cut = true;
  shard->store.get(0)->Answer(StampOf(1));  // something that passes by
  ExpectEnded(running, absl::StatusCode::kUnavailable);
  ASSERT_TRUE(Eventually([&] { return shard->store.put(0)->is_cancelled.load(); }));
  ASSERT_TRUE(shard->store.get(0)->is_cancelled);
  shard->store.get(0)->End(absl::CancelledError("cancelled"));
  EXPECT_EQ(shard->n_lost(), 0u) << "a call still runs";
  shard->store.put(0)->End(absl::CancelledError("cancelled"));
  EXPECT_EQ(shard->WaitForLoss().code(), absl::StatusCode::kUnavailable);
}

TEST_F(LinkFaultsTest, AConnectionThatIsSilentForSecondsIsNotGivenUp) {
  StartLeader();
  std::atomic<bool> is_held = false;
  const auto hold = [&](size_t, std::span<char> bytes) {
    EXPECT_TRUE(Eventually([&] { return !is_held; }));
    return TcpRelay::PassOn(0, bytes);
  };
  TcpRelay relay(server_->loopback_port(), {.from_upstream = hold, .from_client = hold});
  StoreLinkClientOptions options = ClientOptions(1);
  options.address = absl::StrCat("127.0.0.1:", relay.port());
  const auto shard = Attach(options);
  const auto [first, first_call] = Get(RequestFor(1));
  shard->store.get(0)->End(absl::OkStatus());
  ASSERT_TRUE(first->WaitForEnd().ok());
  // Longer than the keepalive of our other channels bears.
  is_held = true;
  const auto [second, second_call] = Get(RequestFor(1));
  EXPECT_FALSE(second->WaitForAnswers(1, absl::Seconds(4))) << second->WaitForEnd();
  EXPECT_FALSE(second->ended());
  is_held = false;
  shard->store.get(1)->End(absl::OkStatus());
  EXPECT_TRUE(second->WaitForEnd().ok());
  EXPECT_EQ(shard->n_lost(), 0u);
}

TEST_F(LinkFaultsTest, ALeaderThatGoesEndsItsCallsAndTheShardsQuietly) {
  StartLeader();
  const auto shard = Attach();
  const Running running = StartCalls(*shard);
  HomeStore& store = server_->shard(1);
  server_->Shutdown();
  EXPECT_TRUE(running.get->ended());
  EXPECT_TRUE(running.put->ended());
  ExpectEnded(running, absl::StatusCode::kCancelled);
  const auto late = std::make_shared<GetRecord>();
  store.Get(RequestFor(2), EventsOf(late));
  EXPECT_EQ(late->WaitForEnd().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(late->n_answers(), 2u);
  server_->Shutdown();
  server_.reset();
  ASSERT_TRUE(Eventually([&] { return shard->store.get(0)->has_ended && shard->store.put(0)->has_ended; }));
  shard->client.reset();
  EXPECT_EQ(shard->n_lost(), 0u);
}

TEST_F(LinkFaultsTest, ALeaderThatGoesBeforeItsShardsCameIsNotWaitedFor) {
  StartLeader();
  const StoreLinkClientOptions options = ClientOptions(1);
  const auto [waiting, call] = Get(RequestFor(1));
  server_.reset();
  EXPECT_TRUE(waiting->ended());
  const auto shard = Attach(options);
  EXPECT_EQ(shard->WaitForLoss().code(), absl::StatusCode::kUnavailable);
}

// However much is under way in both directions.
TEST_F(LinkFaultsTest, AShutdownIsNeverTakenForALoss) {
  for (int round = 0; round < 40; ++round) {
    StartLeader();
    const auto shard = Attach();
    constexpr size_t kCalls = 8;
    constexpr size_t kItems = 500;
    std::vector<std::shared_ptr<GetRecord>> records;
    for (size_t i = 0; i < kCalls; ++i) records.push_back(Get(RequestFor(kItems)).first);
    std::atomic<bool> stop = false;
    std::vector<std::shared_ptr<FakeHomeStore::AskedGet>> there;
    for (size_t i = 0; i < kCalls; ++i) there.push_back(shard->store.get(i));
    std::thread answers([&] {
      for (size_t n = 0; n < kItems / 2 && !stop; ++n) {
        for (const auto& get : there) {
          if (!get->is_cancelled) get->Answer(StampOf(n));
        }
      }
    });
    // Any point of it.
    records[0]->WaitForAnswers(static_cast<size_t>(round) * 6);
    server_.reset();
    stop = true;
    answers.join();
    for (const auto& record : records) EXPECT_TRUE(record->ended());
    shard->client.reset();
    ASSERT_EQ(shard->n_lost(), 0u) << shard->lost[0] << " in round " << round;
  }
}

}  // namespace
}  // namespace longshelf::worker
