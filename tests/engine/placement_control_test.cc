#include "engine/placement/placement_control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "comm/thread_group.h"
#include "engine/comm/baseline_expert_transport.h"

namespace longshelf::engine {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

constexpr uint32_t kExperts = 8;
constexpr uint64_t kInterval = 32;

// Fetches one expert for every step that allows it, at once, unless told to refuse.
class FakeMover final : public ExpertMover {
 public:
  void Fetch(std::vector<ExpertId> experts) override {
    n_left = experts.size();
    if (!experts.empty()) fetched.push_back(std::move(experts));
  }
  void AllowOne() override { n_left -= n_left > 0 ? 1 : 0; }
  std::optional<State> Look() override { return State{n_left, status}; }
  void Release(std::vector<ExpertId> experts) override { released.push_back(std::move(experts)); }

  absl::Status status;
  size_t n_left = 0;
  std::vector<std::vector<ExpertId>> fetched;
  std::vector<std::vector<ExpertId>> released;
};

// Tokens of a step of one shard; each goes to one expert.
using Routing = std::function<std::vector<uint32_t>(uint64_t seq)>;

struct Shard {
  FakeMover mover;
  std::vector<uint64_t> epochs;  // in use, by step
  ExpertPlacement placement = ExpertPlacement::Even(1, kExperts, 2);
  PlacementReport report;
};

// Two shards run steps that ask for the same experts.
std::vector<Shard> RunSteps(uint64_t n_steps, const Routing& routing, double gain_min = 1.05,
                            const absl::Status& refusal = absl::OkStatus()) {
  std::vector<Shard> shards(2);
  testing::ThreadGroup group(2);
  group.Run([&](Communicator& communicator) {
    Shard& shard = shards[static_cast<size_t>(communicator.rank())];
    if (communicator.rank() == 1) shard.mover.status = refusal;
    BaselineExpertTransport transport(communicator, kExperts, 1);
    PlacementOptions options;
    options.interval_steps = kInterval;
    options.window_steps = kInterval / 2;
    options.gain_min = gain_min;
    PlacementControl control(communicator, transport, shard.mover, 1, kExperts, options);
    for (uint64_t seq = 1; seq <= n_steps; ++seq) {
      ASSERT_TRUE(control.BeginStep(StepPhase::kDecode, control.epoch_to_announce()).ok());
      shard.epochs.push_back(control.epoch());
      std::vector<ExpertAssignment> assignments;
      for (const uint32_t e : routing(seq)) assignments.push_back({static_cast<uint32_t>(assignments.size()), e, 1.0F});
      const std::vector<std::byte> rows(assignments.size());
      ExpertTransport& exchange = control.transport();
      exchange.BeginStep(seq);
      ASSERT_TRUE(exchange.BeginDispatch(0, 0, rows, 1, assignments).ok());
      std::vector<DispatchedRow> received;
      ASSERT_TRUE(exchange.FinishDispatch(0, {}, received).ok());
      for (const DispatchedRow& row : received) {
        EXPECT_TRUE(control.placement().Holds(communicator.rank(), 0, row.expert));
      }
      std::vector<std::byte> results(received.size());
      ASSERT_TRUE(exchange.PlaceResults(0, results, 1, received).ok());
      ASSERT_TRUE(exchange.BeginCombine(0).ok());
      std::vector<const std::byte*> combined;
      ASSERT_TRUE(exchange.FinishCombine(0, combined).ok());
      ASSERT_TRUE(control.EndStep(seq).ok());
    }
    shard.placement = control.placement();
    shard.report = control.report();
  });
  return shards;
}

// Experts 0 and 1, which lie on shard 0 at first.
std::vector<uint32_t> Lopsided(uint64_t) { return {0, 0, 1, 1}; }
std::vector<uint32_t> EvenlySpread(uint64_t) { return {0, 1, 2, 3, 4, 5, 6, 7}; }

TEST(PlacementControl, BusyExpertsAreParted) {
  const std::vector<Shard> shards = RunSteps(4 * kInterval, Lopsided);
  EXPECT_EQ(shards[0].placement, shards[1].placement);
  EXPECT_NE(shards[0].placement.holders(0, 0)[0], shards[0].placement.holders(0, 1)[0]);
  EXPECT_EQ(shards[0].epochs, shards[1].epochs) << "a step had two placements";
  EXPECT_EQ(shards[0].epochs.back(), 1U) << "what is balanced was moved again";
  EXPECT_THAT(shards[0].report.rank_rows, ::testing::ElementsAre(kInterval * 2, kInterval * 2));
}

TEST(PlacementControl, TheSwitchComesOnlyAfterEverybodyHasFetchedWhatItShallHold) {
  const std::vector<Shard> shards = RunSteps(2 * kInterval, Lopsided);
  const auto first = std::find(shards[0].epochs.begin(), shards[0].epochs.end(), 1U) - shards[0].epochs.begin();
  size_t n_most = 0;
  for (const Shard& shard : shards) {
    ASSERT_EQ(shard.mover.fetched.size(), 1U);
    n_most = std::max(n_most, shard.mover.fetched[0].size());
  }
  EXPECT_GE(static_cast<uint64_t>(first), kInterval + n_most);
}

TEST(PlacementControl, WhatIsEvenOrWouldHardlyGainStays) {
  EXPECT_THAT(RunSteps(3 * kInterval, EvenlySpread)[0].epochs, Each(0U));
  // Half the rows at best.
  EXPECT_THAT(RunSteps(3 * kInterval, Lopsided, /*gain_min=*/2.1)[0].epochs, Each(0U));
  EXPECT_EQ(RunSteps(3 * kInterval, Lopsided, /*gain_min=*/1.9)[0].epochs.back(), 1U);
}

TEST(PlacementControl, OnlyStepsOfTheWindowCount) {
  // Lopsided in the first half of the interval, which is not looked at.
  const auto routing = [](uint64_t seq) { return seq % kInterval < kInterval / 2 ? Lopsided(seq) : EvenlySpread(seq); };
  EXPECT_THAT(RunSteps(3 * kInterval, routing)[0].epochs, Each(0U));
}

TEST(PlacementControl, WhatIsNoLongerHeldIsLetGoAtTheNextSwitch) {
  // Experts 0 and 1 first, then 2 and 3.
  const auto routing = [](uint64_t seq) {
    return seq <= kInterval ? Lopsided(seq) : std::vector<uint32_t>{2, 2, 3, 3};
  };
  const std::vector<Shard> shards = RunSteps(6 * kInterval, routing);
  ASSERT_GE(shards[0].epochs.back(), 2U);
  for (size_t r = 0; r < shards.size(); ++r) {
    const std::vector<std::vector<ExpertId>>& released = shards[r].mover.released;
    ASSERT_EQ(released.size(), shards[r].epochs.back());
    EXPECT_TRUE(released[0].empty()) << "let go while it was in use a moment ago";
    for (const ExpertId id : released.back()) {
      EXPECT_FALSE(shards[r].placement.Holds(static_cast<int>(r), id.layer, id.expert));
    }
  }
}

TEST(PlacementControl, OneShardThatRefusesKeepsEverybodyWhereTheyAre) {
  const std::vector<Shard> shards = RunSteps(3 * kInterval, Lopsided, 1.05, absl::DataLossError("wrong bytes"));
  for (const Shard& shard : shards) {
    EXPECT_THAT(shard.epochs, Each(0U));
    EXPECT_GE(shard.report.n_refused, 1U);
    EXPECT_EQ(shard.report.n_moved, 0U);
  }
}

TEST(PlacementControl, AnEpochThatThisShardDoesNotExpectIsRefusedWithBothValues) {
  testing::ThreadGroup group(1);
  group.Run([](Communicator& communicator) {
    BaselineExpertTransport transport(communicator, kExperts, 1);
    FakeMover mover;
    PlacementControl control(communicator, transport, mover, 1, kExperts, {});
    const absl::Status status = control.BeginStep(StepPhase::kDecode, 3);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(status.message()), HasSubstr("announces placement epoch 3; this shard expects 0"));
  });
}

}  // namespace
}  // namespace longshelf::engine
