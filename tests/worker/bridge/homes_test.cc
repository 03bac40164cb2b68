// One put over several shards, and what a get leaves behind.

#include "homes.h"

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <string>

namespace longshelf::worker {
namespace {

// A shard that does what the test says.
class ScriptedHome final : public HomeStore {
 public:
  class Call final : public PutCall {
   public:
    void Offer(PutItem item) override { offered.push_back(item.copy); }
    void Finish() override { is_finished = true; }
    void Cancel() override { is_cancelled = true; }

    kvstore::Client::PutEvents events;
    std::vector<uint64_t> offered;
    bool is_finished = false;
    bool is_cancelled = false;
  };

  std::shared_ptr<kvstore::Client::GetCall> Get(GetRequest request, GetEvents events) override {
    wanted = std::move(request);
    get = std::move(events);
    return nullptr;
  }
  std::shared_ptr<PutCall> Put(absl::Duration, kvstore::Client::PutEvents events) override {
    put = std::make_shared<Call>();
    put->events = std::move(events);
    if (!refusal.ok()) put->events.on_done(refusal);
    return put;
  }

  GetRequest wanted;
  GetEvents get;
  std::shared_ptr<Call> put;
  absl::Status refusal;  // not OK: every put ends at once
};

class HomesTest : public ::testing::Test {
 protected:
  std::shared_ptr<Homes::PutCall> Put() {
    return homes_.Put(absl::Seconds(1), {.on_outcome =
                                             [this](size_t index, const absl::StatusOr<kvstore::PutOutcome>& outcome) {
                                               EXPECT_FALSE(done_.has_value()) << "after the last";
                                               EXPECT_TRUE(outcomes_.emplace(index, outcome.status()).second);
                                             },
                                         .on_done =
                                             [this](const absl::Status& status) {
                                               EXPECT_FALSE(done_.has_value()) << "twice";
                                               done_ = status;
                                             }});
  }
  Homes::PutItem Item(uint16_t shard) { return {.head = {}, .copy = ledger_->HoldNew(shard, 2000, {})}; }
  size_t n_dropped() { return ledger_->TakeDropped().size(); }

  const std::shared_ptr<engine::KvCopyLedger> ledger_ = std::make_shared<engine::KvCopyLedger>();
  std::array<ScriptedHome, 3> shards_;
  Homes homes_{{&shards_[0], &shards_[1], &shards_[2]}, ledger_};
  std::map<size_t, absl::Status> outcomes_;  // by offer
  std::optional<absl::Status> done_;
};

TEST_F(HomesTest, OffersGoToTheirShardsAndEndsWhenAllHaveEnded) {
  const auto put = Put();
  for (const uint16_t shard : {2, 0, 2}) put->Offer(Item(shard));
  EXPECT_EQ(shards_[2].put->offered, (std::vector<uint64_t>{1, 3}));
  EXPECT_EQ(shards_[0].put->offered, std::vector<uint64_t>{2});
  EXPECT_EQ(shards_[1].put, nullptr) << "nothing was offered of it";
  put->Finish();
  EXPECT_TRUE(shards_[0].put->is_finished && shards_[2].put->is_finished);
  EXPECT_EQ(n_dropped(), 0U) << "held until the outcome";
  shards_[2].put->events.on_outcome(1, kvstore::PutOutcome());
  shards_[2].put->events.on_outcome(0, absl::ResourceExhaustedError("full"));
  shards_[2].put->events.on_done(absl::OkStatus());
  EXPECT_EQ(n_dropped(), 2U);
  EXPECT_FALSE(done_.has_value());
  shards_[0].put->events.on_outcome(0, kvstore::PutOutcome());
  shards_[0].put->events.on_done(absl::OkStatus());
  EXPECT_EQ(outcomes_, (std::map<size_t, absl::Status>{
                           {0, absl::ResourceExhaustedError("full")}, {1, absl::OkStatus()}, {2, absl::OkStatus()}}));
  EXPECT_EQ(done_, absl::OkStatus());
}

TEST_F(HomesTest, APutOfNothingEndsWhenItIsFinished) {
  const auto put = Put();
  put->Finish();
  EXPECT_EQ(done_, absl::OkStatus());
}

TEST_F(HomesTest, WhenOneShardBreaksAllEndAndEveryOfferHasAnOutcome) {
  const auto put = Put();
  for (const uint16_t shard : {0, 1, 1}) put->Offer(Item(shard));
  const absl::Status gone = absl::UnavailableError("gone");
  shards_[1].put->events.on_outcome(0, kvstore::PutOutcome());
  shards_[1].put->events.on_done(gone);  // without a word on its second
  EXPECT_EQ(outcomes_.at(2), gone);
  EXPECT_TRUE(shards_[0].put->is_cancelled);
  EXPECT_FALSE(done_.has_value());
  put->Offer(Item(1));  // ignored, as after a put has ended
  put->Offer(Item(2));
  EXPECT_EQ(shards_[2].put, nullptr);
  shards_[0].put->events.on_outcome(0, absl::CancelledError());
  shards_[0].put->events.on_done(absl::CancelledError());
  EXPECT_EQ(done_, gone);
  EXPECT_EQ(outcomes_.size(), 3U);
  EXPECT_EQ(n_dropped(), 5U);
}

TEST_F(HomesTest, AShardThatRefusesAtOnceBreaksThePutAtOnce) {
  shards_[1].refusal = absl::UnavailableError("not there");
  const auto put = Put();
  put->Offer(Item(1));
  EXPECT_EQ(done_, shards_[1].refusal);
  EXPECT_TRUE(outcomes_.empty());
  put->Finish();
  put->Cancel();
}

TEST_F(HomesTest, WhatWasFetchedGoesWhenNobodyTakesIt) {
  std::vector<engine::KvCopyPtr> taken;
  kvstore::Client::GetRequest request;
  request.items.resize(3);
  for (kvstore::GetItem& item : request.items) item.expected_bytes = 5000;
  engine::EncodedStamp stamp{};
  stamp.fill(std::byte{7});
  homes_.Get(1, request,
             {.on_object =
                  [&](size_t index, absl::StatusOr<engine::KvCopyPtr> copy) {
                    if (index == 0) taken.push_back(*std::move(copy));
                  },
              .on_done = [](const absl::Status&) {}});
  EXPECT_EQ(shards_[1].wanted.copies, (std::vector<uint64_t>{1, 2, 3}));
  shards_[1].get.on_object(0, stamp);
  shards_[1].get.on_object(1, absl::NotFoundError("evicted"));
  shards_[1].get.on_object(2, stamp);
  ASSERT_EQ(taken.size(), 1U);
  EXPECT_EQ(taken[0]->shard(), 1);
  EXPECT_EQ(taken[0]->number(), 1U);
  EXPECT_EQ(taken[0]->n_bytes(), 5000U);
  EXPECT_EQ(taken[0]->stamp(), stamp);
  EXPECT_EQ(ledger_->TakeDropped(), (std::vector<engine::StepPlan::DropCopy>{{1, 3}}));
}

}  // namespace
}  // namespace longshelf::worker
