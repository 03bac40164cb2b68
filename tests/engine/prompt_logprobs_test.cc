// Log probabilities of a prompt's own tokens.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "engine_harness.h"
#include "engine_requests.h"
#include "fake_feed.h"
#include "fake_model.h"
#include "prompt_scores.h"

namespace longshelf::engine {
namespace {

using ::testing::HasSubstr;

const FakeHasher kHasher;
constexpr uint32_t kTop = 2;

SequenceRequest Scored(std::vector<uint32_t> prompt, uint32_t max_tokens, uint32_t n_known = 0) {
  SequenceRequest request = Request(std::move(prompt), max_tokens);
  request.prompt_logprobs = true;
  request.n_prompt_scored = n_known;
  request.sampling.n_top_logprobs = kTop;
  return request;
}

TEST(PromptLogprobs, AreTheSameHoweverThePromptIsCutAndWhoeverIsBesideIt) {
  const auto prompt = Prompt(700, 1);
  const auto expected = ScoresOf(prompt, 1, kTop);
  for (const int64_t budget : {1, 7, 64, 512}) {
    for (const int n_shards : {1, 3}) {
      for (const uint64_t n_others : {0, 5}) {
        auto group = MakeFakeGroup(n_shards, 16, 64, 4, 3);
        EngineConfig config = EndlessConfig();
        config.step_token_budget = budget;
        Harness harness(config, *group, kHasher);
        std::shared_ptr<RecordingSink> sink;
        harness.Then([&] {
          for (uint64_t i = 0; i < n_others; ++i) harness.Submit(Request(Prompt(40 + i, 100 + i), 9));
          sink = harness.Submit(Scored(prompt, 3));
        });
        ASSERT_TRUE(harness.Run().ok());
        EXPECT_EQ(sink->first_scored, 1U);
        EXPECT_EQ(sink->scored, expected) << "budget " << budget << ", shards " << n_shards;
        EXPECT_EQ(sink->tokens(), ContinueWithoutEnd(prompt, 3));
      }
    }
  }
}

TEST(PromptLogprobs, OnlyWhatIsAskedForGoesThroughTheHead) {
  auto group = MakeFakeGroup(1, 4, 16);
  Harness harness(EndlessConfig(), *group, kHasher);
  harness.Then([&] { harness.Submit(Scored(Prompt(600, 1), 4, 400)); });
  ASSERT_TRUE(harness.Run().ok());
  size_t n_targets = 0;
  for (const StepPlan& plan : group->plans) {
    for (const auto& row : plan.rows) n_targets += row.targets.size();
  }
  EXPECT_EQ(n_targets, 200U);
}

TEST(PromptLogprobs, AreComputedWhateverTheCacheHolds) {
  const auto prompt = Prompt(600, 2);
  auto group = MakeFakeGroup(1, 4, 32);
  Harness harness(EndlessConfig(), *group, kHasher);
  std::shared_ptr<RecordingSink> sink;
  std::shared_ptr<RecordingSink> plain;
  std::vector<KvObject> parked;
  harness.Then([&] { harness.Submit(Request(prompt, 1)); });
  harness.Then([&] {
    harness.Export(prompt, [&](auto objects) {
      ASSERT_TRUE(objects.ok()) << objects.status();
      parked = *std::move(objects);
    });
  });
  harness.Then([&] {
    SequenceRequest request = Scored(prompt, 1);
    request.feed = std::make_shared<FakeFeed>(parked);
    sink = harness.Submit(std::move(request));
  });
  harness.Then([&] { plain = harness.Submit(Request(Join(prompt, {7}), 1)); });
  ASSERT_TRUE(harness.Run().ok());
  EXPECT_EQ(sink->scored, ScoresOf(prompt, 1, kTop));
  EXPECT_EQ(sink->started->n_cached_local + sink->started->n_cached_store, 0U);
  EXPECT_EQ(sink->started->miss_reason, "prompt_logprobs");
  EXPECT_EQ(plain->started->n_cached_local, 600U) << "nothing of what others use was lost";
}

TEST(PromptLogprobs, GoOnAfterThoseThatAreKnownWithThePrefixBeforeThem) {
  const auto prompt = Prompt(600, 3);
  for (const uint32_t n_known : {0U, 1U, 2U, 256U, 257U, 300U, 598U, 599U, 600U}) {
    auto group = MakeFakeGroup(1, 4, 32);
    Harness harness(EndlessConfig(), *group, kHasher);
    std::shared_ptr<RecordingSink> sink;
    harness.Then([&] { harness.Submit(Request(Prompt(600, 3), 1)); });
    harness.Then([&] { sink = harness.Submit(Scored(prompt, 2, n_known)); });
    ASSERT_TRUE(harness.Run().ok());
    const size_t first = std::max(1U, n_known);
    EXPECT_EQ(sink->scored, ScoresOf(prompt, first, kTop)) << n_known;
    EXPECT_EQ(sink->first_scored, first < 600 ? first : 0U);
    EXPECT_EQ(sink->tokens(), ContinueWithoutEnd(prompt, 2)) << n_known;
    EXPECT_EQ(sink->started->n_cached_local >= 256, first > 256) << n_known;
  }
}

TEST(PromptLogprobs, WithoutOutputAreAll) {
  for (const size_t n : {1, 2, 3, 256, 257, 512, 513}) {
    auto group = MakeFakeGroup(1, 4, 3);
    EngineConfig config = EndlessConfig();
    config.step_token_budget = 100;
    Harness harness(config, *group, kHasher);
    std::shared_ptr<RecordingSink> sink;
    std::shared_ptr<RecordingSink> known;
    harness.Then([&] { sink = harness.Submit(Scored(Prompt(n, 4), 0)); });
    harness.Then([&] { known = harness.Submit(Scored(Prompt(n, 4), 0, static_cast<uint32_t>(n))); });
    ASSERT_TRUE(harness.Run().ok());
    EXPECT_EQ(sink->scored, ScoresOf(Prompt(n, 4), 1, kTop)) << n;
    for (const auto& end : {sink, known}) {
      ASSERT_TRUE(end->finished.has_value()) << n;
      EXPECT_EQ(end->finished->reason, FinishReason::kLength);
      EXPECT_EQ(end->finished->n_output_tokens, 0U);
      EXPECT_TRUE(end->tokens().empty());
    }
    EXPECT_TRUE(known->scored.empty());
    EXPECT_EQ(harness.load.n_blocks_free, 3U);
  }
}

TEST(PromptLogprobs, ComeOnceEachWhenTheirSequenceIsPreempted) {
  auto group = MakeFakeGroup(1, 8, 10);
  EngineConfig config = EndlessConfig();
  config.step_token_budget = 60;
  config.admission_headroom_tokens = 0;
  Harness harness(config, *group, kHasher);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  harness.Then([&] {
    for (uint64_t i = 0; i < 2; ++i) harness.Submit(Request(Prompt(200, i), 1300));
    for (uint64_t i = 0; i < 3; ++i) sinks.push_back(harness.Submit(Scored(Prompt(500, 10 + i), 40)));
  });
  ASSERT_TRUE(harness.Run().ok());
  for (uint64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(sinks[i]->scored, ScoresOf(Prompt(500, 10 + i), 1, kTop));
    EXPECT_EQ(sinks[i]->tokens(), ContinueWithoutEnd(Prompt(500, 10 + i), 40));
  }
  EXPECT_GT(harness.load.n_preempted, 0U);
}

TEST(PromptLogprobs, OfARowThatIsNotANumberFailItsSequenceOnly) {
  auto group = MakeFakeGroup(1, 4, 16);
  Harness harness(EndlessConfig(), *group, kHasher);
  auto bad = Prompt(50, 5);
  bad[20] = FakeModel::kPoison;
  std::shared_ptr<RecordingSink> failed;
  std::shared_ptr<RecordingSink> good;
  harness.Then([&] {
    failed = harness.Submit(Scored(bad, 0));
    good = harness.Submit(Scored(Prompt(50, 6), 1));
  });
  ASSERT_TRUE(harness.Run().ok());
  ASSERT_TRUE(failed->failed.has_value());
  EXPECT_THAT(failed->failed->ToString(), HasSubstr("scoring position 21"));
  EXPECT_EQ(good->scored, ScoresOf(Prompt(50, 6), 1, kTop));
}

TEST(PromptLogprobs, ComeBeforeAnyOutputOfAnEarlierRun) {
  auto group = MakeFakeGroup(1, 4, 16);
  Harness harness(EndlessConfig(), *group, kHasher);
  std::shared_ptr<RecordingSink> refused;
  std::shared_ptr<RecordingSink> taken;
  harness.Then([&] {
    SequenceRequest request = Scored(Prompt(50, 5), 9, 49);
    request.committed = {3};
    refused = harness.Submit(std::move(request));
    request = Scored(Prompt(50, 5), 9, 50);
    request.committed = {3};
    taken = harness.Submit(std::move(request));
  });
  ASSERT_TRUE(harness.Run().ok());
  ASSERT_TRUE(refused->failed.has_value());
  EXPECT_THAT(refused->failed->ToString(), HasSubstr("n_prompt_scored is only 49"));
  EXPECT_EQ(taken->tokens().size(), 8U);
  EXPECT_TRUE(taken->scored.empty());
}

// A bias is part of what is sampled at every position, whoever guessed the tokens.
TEST(LogitBias, GivesTheSameTokensWithAndWithoutDrafts) {
  std::vector<std::vector<uint32_t>> outputs;
  for (const int64_t n_draft : {0, 5}) {
    auto group = MakeFakeGroup(2, 4, 16, 8, n_draft);
    EngineConfig config = EndlessConfig();
    config.draft_lookup = n_draft > 0;
    Harness harness(config, *group, kHasher);
    std::shared_ptr<RecordingSink> sink;
    harness.Then([&] {
      SequenceRequest request = Request(Prompt(30, 7), 200);
      request.sampling = {.temperature = 0.7, .seed = 5, .logprobs = true};
      request.sampling.logit_bias = {{5, 4.0F}, {6, 3.5F}, {8, -100.0F}};
      sink = harness.Submit(std::move(request));
    });
    ASSERT_TRUE(harness.Run().ok());
    outputs.push_back(sink->tokens());
    EXPECT_EQ(sink->finished->n_drafts_accepted > 0, n_draft > 0);
  }
  EXPECT_EQ(outputs[0], outputs[1]);
  EXPECT_GT(std::count(outputs[0].begin(), outputs[0].end(), 5U), 5);
  EXPECT_EQ(std::count(outputs[0].begin(), outputs[0].end(), 8U), 0);
}

}  // namespace
}  // namespace longshelf::engine
