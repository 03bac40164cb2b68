#include "engine/executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <string>

#include "engine_requests.h"
#include "fake_model.h"

namespace longshelf::engine {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<Executor> MakeExecutor(uint32_t n_slots = 3, uint32_t n_blocks = 4) {
  auto executor = Executor::Create(std::make_unique<FakeModel>(), {.n_slots = n_slots, .n_blocks = n_blocks});
  EXPECT_TRUE(executor.ok()) << executor.status();
  return *std::move(executor);
}

StepPlan::OpenSlot Open(uint16_t shard, uint16_t slot) {
  return {.slot = {shard, slot}, .sampling = {.temperature = 0.0}, .prior_output = {}};
}

StepPlan::Row Row(uint16_t shard, uint16_t slot, std::vector<uint32_t> tokens) {
  return {.slot = {shard, slot}, .n_past = 0, .tokens = std::move(tokens), .sample = true};
}

uint32_t Greedy(const std::vector<uint32_t>& tokens) { return FakeModel::Continue(tokens, 1, 5000)[0]; }

TEST(Executor, ReturnsOnlyWhatIsLocal) {
  auto executor = MakeExecutor();
  StepPlan plan;
  plan.open_slots = {Open(0, 0), Open(1, 0), Open(1, 2)};
  plan.set_blocks = {{{1, 0}, 0, 1}, {{0, 0}, 0, 1}, {{1, 2}, 0, 3}};
  plan.rows = {Row(1, 0, {5, 6}), Row(0, 0, {7}), Row(1, 2, {8, 9})};
  plan.export_states = {{{0, 0}, 1, 70, {}}, {{1, 2}, 2, 71, {}}};
  const auto result = executor->Execute(plan, 1);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->rows.size(), 2U);
  EXPECT_EQ(result->rows[0].sampled.at(0).token, Greedy({5, 6}));
  EXPECT_EQ(result->rows[1].sampled.at(0).token, Greedy({8, 9}));
  EXPECT_EQ(executor->copies().Find(70), nullptr);
  EXPECT_NE(executor->copies().Find(71), nullptr);
}

TEST(Executor, AFreshBlockShowsNothingOfItsFormerOwner) {
  auto executor = MakeExecutor();
  StepPlan plan;
  plan.open_slots = {Open(0, 0)};
  plan.set_blocks = {{{0, 0}, 0, 2}};
  plan.rows = {Row(0, 0, Prompt(200, 1))};
  ASSERT_TRUE(executor->Execute(plan, 0).ok());
  plan.set_blocks = {{{0, 0}, 0, 2}};
  plan.rows = {Row(0, 0, {5})};  // the fake model aborts when it can read past the end
  plan.export_blocks = {{0, 2, kBlockTokens, 7, {}}};
  ASSERT_TRUE(executor->Execute(plan, 0).ok());
  const auto bytes = WithoutStamp(*executor->copies().Find(7));
  EXPECT_TRUE(
      std::all_of(bytes.begin() + FakeModel::kRecordBytes, bytes.end(), [](std::byte b) { return b == std::byte{0}; }));
}

TEST(Executor, ExportedTailsAreClearedPastTheirEnd) {
  auto executor = MakeExecutor();
  StepPlan plan;
  plan.open_slots = {Open(0, 0)};
  plan.set_blocks = {{{0, 0}, 0, 0}};
  plan.rows = {Row(0, 0, Prompt(100, 1))};
  plan.export_blocks = {{0, 0, 40, 7, {}}};
  ASSERT_TRUE(executor->Execute(plan, 0).ok());
  const auto bytes = WithoutStamp(*executor->copies().Find(7));
  EXPECT_NE(bytes[40 * FakeModel::kRecordBytes - 1] | bytes[40 * FakeModel::kRecordBytes - 2], std::byte{0});
  EXPECT_TRUE(std::all_of(bytes.begin() + 40 * FakeModel::kRecordBytes, bytes.end(),
                          [](std::byte b) { return b == std::byte{0}; }));
}

TEST(Executor, AStateThatDoesNotFitFailsOnlyItsSlot) {
  auto executor = MakeExecutor();
  StepPlan plan;
  plan.open_slots = {Open(0, 0), Open(0, 1)};
  executor->copies().Add(7, std::make_shared<const std::vector<std::byte>>(kStampBytes));
  plan.import_states = {{{0, 0}, 5, 7}};
  plan.set_blocks = {{{0, 0}, 0, 0}, {{0, 1}, 0, 1}};
  plan.rows = {Row(0, 0, {5}), Row(0, 1, {6})};
  plan.rows[0].n_past = 5;
  const auto result = executor->Execute(plan, 0);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->failures.size(), 1U);
  EXPECT_EQ(result->failures[0].slot, (SlotId{0, 0}));
  EXPECT_EQ(result->rows[0], RowResult());
  EXPECT_EQ(result->rows[1].sampled.at(0).token, Greedy({6}));
}

TEST(Executor, PenaltiesSpanRestartsThroughPriorOutput) {
  const std::vector<uint32_t> prompt = Prompt(10, 1);
  const uint32_t favourite = Greedy(prompt);
  auto executor = MakeExecutor();
  StepPlan plan;
  plan.open_slots = {Open(0, 0)};
  plan.open_slots[0].sampling.presence_penalty = 100.0;
  plan.open_slots[0].prior_output = {favourite};
  plan.set_blocks = {{{0, 0}, 0, 0}};
  plan.rows = {Row(0, 0, prompt)};
  const auto result = executor->Execute(plan, 0);
  ASSERT_TRUE(result.ok());
  EXPECT_NE(result->rows[0].sampled.at(0).token, favourite);
}

TEST(Executor, MovesBytesWithoutRunningTheModelWhenThereAreNoRows) {
  auto model = std::make_unique<FakeModel>();
  const FakeModel* watched = model.get();
  auto executor = Executor::Create(std::move(model), {.n_slots = 1, .n_blocks = 1});
  ASSERT_TRUE(executor.ok());
  StepPlan plan;
  plan.export_blocks = {{0, 0, 0, 7, {}}};
  EXPECT_TRUE((*executor)->Execute(plan, 0).ok());
  EXPECT_EQ(watched->n_forwards, 0);
  plan.open_slots = {Open(1, 0)};
  plan.set_blocks = {{{1, 0}, 0, 0}};
  plan.rows = {Row(1, 0, {5})};  // another shard's: the experts of this one may be needed
  EXPECT_TRUE((*executor)->Execute(plan, 0).ok());
  EXPECT_EQ(watched->n_forwards, 1);
}

TEST(Executor, RefusesPlansThatDoNotFit) {
  const std::vector<std::pair<std::string, std::function<void(StepPlan&)>>> cases = {
      {"slot", [](StepPlan& p) { p.open_slots[0].slot.slot = 3; }},
      {"slot", [](StepPlan& p) { p.rows[0].slot.slot = 9; }},
      {"not open", [](StepPlan& p) { p.rows[0].slot.slot = 2; }},
      {"block", [](StepPlan& p) { p.set_blocks[0].block = 4; }},
      {"slot", [](StepPlan& p) { p.set_blocks[0].slot.slot = 3; }},
      {"not open", [](StepPlan& p) { p.set_blocks[0].slot.slot = 2; }},
      {"gap", [](StepPlan& p) { p.set_blocks[0].index = 1; }},
      {"cover too little", [](StepPlan& p) { p.set_blocks.clear(); }},
      {"cover too little", [](StepPlan& p) { p.rows[0].n_past = 256; }},
      {"without tokens", [](StepPlan& p) { p.rows[0].n_past = -1; }},
      {"without tokens", [](StepPlan& p) { p.rows[0].tokens = {}; }},
      {"token", [](StepPlan& p) { p.rows[0].tokens = {FakeModel::kVocab}; }},
      {"tokens to score", [](StepPlan& p) { p.rows[0].targets = {7}; }},
      {"tokens to score",
       [](StepPlan& p) {
         p.rows[0].sample = false;
         p.rows[0].targets = {7, 8};
       }},
      {"token to score",
       [](StepPlan& p) {
         p.rows[0].sample = false;
         p.rows[0].targets = {FakeModel::kVocab};
       }},
      {"second row", [](StepPlan& p) { p.rows.push_back(p.rows[0]); }},
      {"imported copy",
       [](StepPlan& p) {
         p.import_blocks = {{0, 0, 1}};
       }},
      {"copy that this shard does not have",
       [](StepPlan& p) {
         p.import_blocks = {{0, 0, 2}};
       }},
      {"block",
       [](StepPlan& p) {
         p.export_blocks = {{0, 77, 1, 7, {}}};
       }},
      {"exported block",
       [](StepPlan& p) {
         p.export_blocks = {{0, 0, 257, 7, {}}};
       }},
      {"slot",
       [](StepPlan& p) {
         p.export_states = {{{0, 77}, 1, 7, {}}};
       }},
      {"slot",
       [](StepPlan& p) {
         p.import_states = {{{0, 77}, 1, 1}};
       }},
  };
  for (const auto& [why, spoil] : cases) {
    auto executor = MakeExecutor();
    executor->copies().Add(1, std::make_shared<const std::vector<std::byte>>(kStampBytes + 3));
    StepPlan plan;
    plan.open_slots = {Open(0, 0)};
    plan.set_blocks = {{{0, 0}, 0, 0}};
    plan.rows = {Row(0, 0, {5})};
    spoil(plan);
    const auto result = executor->Execute(plan, 0);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal) << why;
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(why));
  }
}

// What is dropped in the step that uses it has been used.
TEST(Executor, CopiesAreWhatWasExportedAndGoWhenThePlanSaysSo) {
  auto executor = MakeExecutor();
  EncodedStamp stamp;
  stamp.fill(std::byte{9});
  StepPlan plan;
  plan.open_slots = {Open(0, 0)};
  plan.set_blocks = {{{0, 0}, 0, 2}};
  plan.rows = {Row(0, 0, Prompt(kBlockTokens, 1))};
  plan.export_blocks = {{0, 2, kBlockTokens, 7, stamp}};
  ASSERT_TRUE(executor->Execute(plan, 0).ok());
  const KvCopies::Bytes made = executor->copies().Find(7);
  ASSERT_NE(made, nullptr);
  EXPECT_EQ(StampOf(*made), stamp);

  StepPlan back;
  back.import_blocks = {{0, 1, 7}};
  back.export_blocks = {{0, 1, kBlockTokens, 8, stamp}};
  back.drop_copies = {{0, 7}, {1, 8}, {0, 12345}};
  ASSERT_TRUE(executor->Execute(back, 0).ok());
  EXPECT_EQ(executor->copies().Find(7), nullptr);
  const KvCopies::Bytes again = executor->copies().Find(8);
  ASSERT_NE(again, nullptr);
  ASSERT_EQ(again->size(), made->size());
  EXPECT_EQ(std::memcmp(again->data(), made->data(), made->size()), 0);
  EXPECT_EQ(executor->copies().n_bytes(), again->size());
}

TEST(Executor, ARefusedPlanHasChangedNothing) {
  auto executor = MakeExecutor();
  StepPlan plan;
  plan.open_slots = {Open(0, 0)};
  plan.set_blocks = {{{0, 0}, 0, 3}};
  plan.rows = {Row(0, 0, {5})};
  ASSERT_TRUE(executor->Execute(plan, 0).ok());
  plan.set_blocks[0].block = 2;
  plan.rows[0].tokens = {FakeModel::kVocab};
  EXPECT_FALSE(executor->Execute(plan, 0).ok());
  EXPECT_EQ(executor->BlockTableOf(0), std::vector<uint32_t>{3});
}

TEST(Executor, ANewSequenceFindsAnEmptyBlockTable) {
  auto executor = MakeExecutor();
  StepPlan plan;
  plan.open_slots = {Open(0, 1)};
  plan.set_blocks = {{{0, 1}, 0, 3}, {{0, 1}, 1, 2}, {{0, 1}, 0, 1}};
  ASSERT_TRUE(executor->Execute(plan, 0).ok());
  EXPECT_EQ(executor->BlockTableOf(1), (std::vector<uint32_t>{1, 2}));
  plan.set_blocks.clear();
  ASSERT_TRUE(executor->Execute(plan, 0).ok());
  EXPECT_EQ(executor->BlockTableOf(1), std::vector<uint32_t>());
}

TEST(Executor, SaysWhichOptionIsOutOfRange) {
  EXPECT_EQ(Executor::Create(std::make_unique<FakeModel>(), {.n_slots = 0, .n_blocks = 4}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Executor::Create(std::make_unique<FakeModel>(), {.n_slots = 70000, .n_blocks = 4}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Executor::Create(std::make_unique<FakeModel>(), {.n_slots = 1, .n_blocks = 0}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Executor, KeepsItsArenaOutOfCoreDumps) {
  const auto count = [] {
    std::ifstream smaps("/proc/self/smaps");
    int n = 0;
    for (std::string line; std::getline(smaps, line);) {
      n += line.starts_with("VmFlags:") && line.find(" dd") != std::string::npos;
    }
    return n;
  };
  const int before = count();
  const auto executor = MakeExecutor(100, 1000);
  EXPECT_GT(count(), before);
}

}  // namespace
}  // namespace longshelf::engine
