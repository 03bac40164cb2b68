#include "engine/step_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include <cstring>
#include <random>

namespace longshelf::engine {
namespace {

using ::testing::HasSubstr;
using Random = std::mt19937_64;

uint64_t Below(Random& random, uint64_t n) { return random() % n; }

EncodedStamp SomeStamp(Random& random) {
  EncodedStamp out;
  for (auto& byte : out) byte = static_cast<std::byte>(random());
  return out;
}

std::vector<uint32_t> SomeTokens(Random& random) {
  std::vector<uint32_t> out(Below(random, 9));
  for (auto& token : out) token = static_cast<uint32_t>(random());
  return out;
}

SlotId SomeSlot(Random& random) { return {static_cast<uint16_t>(random()), static_cast<uint16_t>(random())}; }
uint16_t SomeShard(Random& random) { return static_cast<uint16_t>(random()); }
uint32_t Some32(Random& random) { return static_cast<uint32_t>(random()); }
int64_t Some64(Random& random) { return static_cast<int64_t>(random()); }

StepPlan SomePlan(Random& random) {
  StepPlan plan;
  plan.opcode = static_cast<StepPlan::Opcode>(Below(random, 2));
  plan.seq = random();
  for (auto n = Below(random, 4); n > 0; --n) {
    SamplingParams sampling{.temperature = 0.5 * static_cast<double>(Below(random, 5)),
                            .top_p = 0.25,
                            .top_k = Some32(random),
                            .min_p = 0.125,
                            .seed = random(),
                            .presence_penalty = -1.5,
                            .frequency_penalty = 0.75,
                            .logprobs = Below(random, 2) == 1,
                            .n_top_logprobs = Some32(random)};
    for (auto m = Below(random, 3); m > 0; --m) sampling.logit_bias.push_back({Some32(random), -2.5F});
    plan.open_slots.push_back({SomeSlot(random), sampling, SomeTokens(random)});
    plan.set_blocks.push_back({SomeSlot(random), Some32(random), Some32(random)});
  }
  for (auto n = Below(random, 4); n > 0; --n) {
    plan.move_copies.push_back({SomeShard(random), random(), SomeShard(random), random(), random()});
    plan.import_blocks.push_back({SomeShard(random), Some32(random), random()});
    plan.import_states.push_back({SomeSlot(random), Some64(random), random()});
  }
  for (auto n = Below(random, 4); n > 0; --n) {
    plan.rows.push_back({.slot = SomeSlot(random),
                         .n_past = Some64(random),
                         .tokens = SomeTokens(random),
                         .sample = Below(random, 2) == 1,
                         .return_logits = Below(random, 2) == 1,
                         .n_drafts = Some32(random),
                         .wants_draft = Below(random, 2) == 1,
                         .targets = SomeTokens(random)});
    plan.export_blocks.push_back({SomeShard(random), Some32(random), Some64(random), random(), SomeStamp(random)});
    plan.export_states.push_back({SomeSlot(random), Some64(random), random(), SomeStamp(random)});
    plan.drop_copies.push_back({SomeShard(random), random()});
  }
  plan.n_draft = Some32(random);
  return plan;
}

StepResult SomeResult(Random& random) {
  StepResult result;
  for (auto n = Below(random, 4); n > 0; --n) {
    SampledToken sampled{.token = Some32(random), .logprob = -1.25F, .top = {}, .logits = {}};
    for (auto m = Below(random, 3); m > 0; --m) sampled.top.push_back({Some32(random), -0.5F});
    for (auto m = Below(random, 5); m > 0; --m) sampled.logits.push_back(static_cast<float>(Below(random, 100)));
    ScoredToken scored{.token = Some32(random), .logprob = -2.25F, .top = {{Some32(random), -0.125F}}};
    result.rows.push_back(
        {.sampled = {sampled}, .draft = {Some32(random)}, .draft_confidence = {0.5F}, .scored = {scored, {}}});
  }
  if (Below(random, 2) == 1) result.failures.push_back({SomeSlot(random), absl::InternalError("not a number")});
  return result;
}

// Puts a fitting checksum under changed bytes, as a hostile peer would.
std::string Resealed(std::string bytes) {
  const uint64_t sum = XXH3_64bits(bytes.data(), bytes.size() - sizeof sum);
  std::memcpy(bytes.data() + bytes.size() - sizeof sum, &sum, sizeof sum);
  return bytes;
}

TEST(StepPlan, ParsesWhatItSerialises) {
  Random random(1);
  for (int i = 0; i < 500; ++i) {
    const StepPlan plan = SomePlan(random);
    const auto parsed = StepPlan::Parse(plan.Serialize());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, plan);
  }
}

TEST(StepResult, ParsesWhatItSerialises) {
  Random random(2);
  for (int i = 0; i < 500; ++i) {
    const StepResult result = SomeResult(random);
    const auto parsed = StepResult::Parse(result.Serialize());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, result);
  }
}

TEST(StepPlan, HasAFixedForm) {
  StepPlan plan;
  plan.seq = 0x0102030405060708;
  const std::string bytes = plan.Serialize();
  EXPECT_EQ(bytes.size(), 4U + 1 + 8 + 9 * 8 + 4 + 8);
  EXPECT_EQ(bytes.substr(5, 8), std::string("\x08\x07\x06\x05\x04\x03\x02\x01"));
}

TEST(StepPlan, RefusesEveryFlippedBit) {
  Random random(3);
  const std::string bytes = SomePlan(random).Serialize();
  for (size_t i = 0; i < bytes.size() * 8; ++i) {
    std::string changed = bytes;
    changed[i / 8] = static_cast<char>(changed[i / 8] ^ (1 << (i % 8)));
    EXPECT_EQ(StepPlan::Parse(changed).status().code(), absl::StatusCode::kDataLoss);
  }
}

TEST(StepPlan, RefusesEveryTruncation) {
  Random random(4);
  const std::string bytes = SomePlan(random).Serialize();
  for (size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(StepPlan::Parse(std::string_view(bytes).substr(0, n)).ok());
}

TEST(StepPlan, NeitherCrashesNorAllocatesOnMutatedBytesWithAGoodChecksum) {
  Random random(5);
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = Below(random, 2) == 1 ? SomePlan(random).Serialize() : SomeResult(random).Serialize();
    for (auto n = 1 + Below(random, 4); n > 0; --n) {
      bytes[Below(random, bytes.size())] = static_cast<char>(Below(random, 2) == 1 ? 0xFF : random());
    }
    if (Below(random, 3) == 0) bytes.resize(std::max<size_t>(8, Below(random, bytes.size())));
    bytes = Resealed(std::move(bytes));
    // What still parses has one form only.
    if (const auto plan = StepPlan::Parse(bytes); plan.ok()) {
      EXPECT_EQ(plan->Serialize(), bytes);
    }
    if (const auto result = StepResult::Parse(bytes); result.ok()) {
      EXPECT_EQ(result->Serialize(), bytes);
    }
  }
}

TEST(StepPlan, NamesTheFieldThatCountsTooMuch) {
  StepPlan plan;
  std::string bytes = plan.Serialize();
  const uint64_t huge = ~uint64_t{0};
  std::memcpy(bytes.data() + 13, &huge, sizeof huge);  // the count of open_slots
  const auto parsed = StepPlan::Parse(Resealed(bytes));
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("open_slots"));
}

StepPlan PlanOverTwoShards() {
  StepPlan plan;
  for (const uint16_t shard : {1, 0, 1}) plan.rows.push_back({.slot = {shard, 0}, .tokens = {1}});
  return plan;
}

StepResult ShardResult(const std::vector<uint32_t>& tokens) {
  StepResult result;
  for (const uint32_t token : tokens)
    result.rows.push_back(
        {.sampled = {{.token = token, .logprob = 0.0F, .top = {}, .logits = {}}}, .draft = {}, .draft_confidence = {}});
  return result;
}

TEST(MergeResults, PutsShardsBackIntoPlanOrder) {
  StepResult shard1 = ShardResult({10, 12});
  shard1.failures.push_back({{1, 3}, absl::InternalError("x")});
  auto merged = MergeResults(PlanOverTwoShards(), {ShardResult({11}), shard1});
  ASSERT_TRUE(merged.ok()) << merged.status();
  ASSERT_EQ(merged->rows.size(), 3U);
  EXPECT_EQ(merged->rows[0].sampled.at(0).token, 10U);
  EXPECT_EQ(merged->rows[1].sampled.at(0).token, 11U);
  EXPECT_EQ(merged->rows[2].sampled.at(0).token, 12U);
  EXPECT_EQ(merged->failures.size(), 1U);
}

TEST(MergeResults, RefusesCountsThatDoNotFitThePlan) {
  EXPECT_FALSE(MergeResults(PlanOverTwoShards(), {ShardResult({11})}).ok());
  EXPECT_FALSE(MergeResults(PlanOverTwoShards(), {ShardResult({11}), ShardResult({10})}).ok());
  EXPECT_FALSE(MergeResults(PlanOverTwoShards(), {ShardResult({11, 7}), ShardResult({10, 12})}).ok());
}

}  // namespace
}  // namespace longshelf::engine
