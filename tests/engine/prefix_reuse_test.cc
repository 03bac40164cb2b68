// The local prefix cache, exports and restores, seen through an engine over a model whose tokens depend on every byte
// of the past.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <thread>

#include "engine_harness.h"
#include "engine_requests.h"
#include "fake_feed.h"
#include "fake_model.h"
#include "prefix_chain.h"

namespace longshelf::engine {
namespace {

const FakeHasher kHasher;

// Runs requests one after another, each when the engine is idle.
class OneByOne {
 public:
  explicit OneByOne(const EngineConfig& config, int n_shards = 1, uint32_t n_blocks = 64)
      : group_(MakeFakeGroup(n_shards, 16, n_blocks)), harness_(config, *group_, kHasher) {}

  size_t Add(std::vector<uint32_t> prompt, uint32_t max_tokens, std::string salt = "") {
    const size_t i = sinks_.size();
    sinks_.emplace_back();
    prompts_.push_back(prompt);
    max_tokens_.push_back(max_tokens);
    harness_.Then([this, i, prompt, max_tokens, salt] {
      SequenceRequest request = Request(prompt, max_tokens);
      request.namespace_salt = salt;
      sinks_[i] = harness_.Submit(std::move(request));
    });
    return i;
  }
  void Run() {
    ASSERT_TRUE(harness_.Run().ok());
    for (size_t i = 0; i < sinks_.size(); ++i) {
      EXPECT_EQ(sinks_[i]->tokens(), ContinueWithoutEnd(prompts_[i], max_tokens_[i])) << "request " << i;
    }
    EXPECT_EQ(harness_.load.n_blocks_free, harness_.load.n_blocks_total);
  }
  const Started& started(size_t i) const { return *sinks_[i]->started; }
  Harness& harness() { return harness_; }
  FakeGroup& group() { return *group_; }

 private:
  std::unique_ptr<FakeGroup> group_;
  Harness harness_;
  std::vector<std::shared_ptr<RecordingSink>> sinks_;
  std::vector<std::vector<uint32_t>> prompts_;
  std::vector<uint32_t> max_tokens_;
};

TEST(PrefixReuse, TheNextTurnContinuesWhereTheOutputEnded) {
  for (const size_t n : {1, 3, 100, 250, 255, 256, 257, 511, 600}) {
    const auto prompt = Prompt(n, n);
    const auto output = ContinueWithoutEnd(prompt, 9);
    const auto next = Join(Join(prompt, output), Prompt(20, 3));
    OneByOne runs(EndlessConfig());
    runs.Add(prompt, 9);
    const size_t second = runs.Add(next, 9);
    runs.Run();
    // The last token of an output is sampled, not processed.
    EXPECT_EQ(runs.started(second).n_cached_local, n + 8) << n;
    EXPECT_EQ(runs.started(second).miss_reason, "diverged");
  }
}

TEST(PrefixReuse, AnotherAnswerToTheSamePromptStartsAtThePromptsEnd) {
  const auto prompt = Prompt(300, 1);
  OneByOne runs(EndlessConfig());
  runs.Add(prompt, 5);
  const size_t second = runs.Add(Join(prompt, Prompt(7, 2)), 5);
  runs.Run();
  EXPECT_EQ(runs.started(second).n_cached_local, 300U);
}

TEST(PrefixReuse, NeverReusesTheLastToken) {
  for (const size_t n : {1, 10, 256, 257, 512, 600}) {
    const auto prompt = Prompt(n, n);
    OneByOne runs(EndlessConfig());
    runs.Add(prompt, 5);
    const size_t second = runs.Add(prompt, 5);
    runs.Run();
    EXPECT_EQ(runs.started(second).n_cached_local, (n - 1) / 256 * 256) << n;
    EXPECT_EQ(runs.started(second).miss_reason, (n - 1) % 256 == 0 ? "" : "no_checkpoint") << n;
  }
}

TEST(PrefixReuse, SaysColdForAnotherPromptAndKeepsTenantsApart) {
  const auto prompt = Prompt(600, 1);
  OneByOne runs(EndlessConfig());
  runs.Add(prompt, 3, "tenant a");
  const size_t other_prompt = runs.Add(Prompt(600, 2), 3, "tenant a");
  const size_t other_tenant = runs.Add(prompt, 3, "tenant b");
  const size_t same = runs.Add(Join(prompt, {5}), 3, "tenant a");
  runs.Run();
  EXPECT_EQ(runs.started(other_prompt).n_cached_local, 0U);
  EXPECT_EQ(runs.started(other_prompt).miss_reason, "cold");
  EXPECT_EQ(runs.started(other_tenant).n_cached_local, 0U);
  EXPECT_EQ(runs.started(other_tenant).miss_reason, "cold");
  EXPECT_EQ(runs.started(same).n_cached_local, 600U);
  EXPECT_EQ(runs.started(same).miss_reason, "");
}

TEST(PrefixReuse, ACommonPrefixGetsACheckpointTheSecondTimeItIsSeen) {
  EngineConfig config = EndlessConfig();
  config.checkpoint_interval_tokens = 4096;
  const auto shared = Prompt(768, 1);
  OneByOne runs(config);
  runs.Add(Join(shared, Prompt(1000, 2)), 2);
  const size_t second = runs.Add(Join(shared, Prompt(1000, 3)), 2);
  const size_t third = runs.Add(Join(shared, Prompt(1000, 4)), 2);
  runs.Run();
  EXPECT_EQ(runs.started(second).n_cached_local, 0U);
  EXPECT_EQ(runs.started(second).miss_reason, "no_checkpoint");
  EXPECT_EQ(runs.started(third).n_cached_local, 768U);
  EXPECT_EQ(runs.started(third).miss_reason, "diverged");
}

TEST(PrefixReuse, DecodingTakesCheckpointsAtTheIntervalToo) {
  const auto prompt = Prompt(200, 1);
  const auto output = ContinueWithoutEnd(prompt, 400);
  OneByOne runs(EndlessConfig());
  runs.Add(prompt, 400);
  // Shares the first 100 tokens of the output only: 256 lies among them.
  auto fork = Join(prompt, {output.begin(), output.begin() + 100});
  const size_t second = runs.Add(Join(fork, Prompt(50, 9)), 5);
  runs.Run();
  EXPECT_EQ(runs.started(second).n_cached_local, 256U);
}

TEST(PrefixReuse, AFinishedTurnLeavesTheLastFewOfItsPeriodicCheckpointsAndThoseThatWereUsed) {
  EngineConfig config = EndlessConfig();
  config.export_cache_objects = true;
  const auto prompt = Prompt(3000, 1);
  const auto branch = Join({prompt.begin(), prompt.begin() + 600}, Prompt(10, 2));
  OneByOne runs(config);
  std::vector<int64_t> dropped;
  std::shared_ptr<RecordingSink> used;
  runs.harness().Then([&] {
    const auto first = runs.harness().Submit(Request(prompt, 10));
    first->on_token = [&, done = false](const RecordingSink&) mutable {
      // While the first one answers, another goes on from a position inside its prompt.
      if (!std::exchange(done, true)) used = runs.harness().Submit(Request(branch, 2));
    };
  });
  const size_t again = runs.Add(Join(prompt, Prompt(5, 3)), 2);
  runs.Run();
  EXPECT_EQ(used->started->n_cached_local, 512U);
  EXPECT_EQ(runs.started(again).n_cached_local, 3000U);
  PrefixChain chain(kHasher, "");
  chain.Extend(prompt, 3000);
  std::vector<int64_t> kept;
  for (int64_t n = 256; n <= 2816; n += 256) {
    if (runs.harness().known.contains(chain.KeyAt(prompt, n))) kept.push_back(n);
    if (std::ranges::count(runs.harness().dropped_checkpoints, chain.KeyAt(prompt, n)) > 0) dropped.push_back(n);
  }
  // 2,816 is the last boundary of the prompt, which a repeated prompt resumes at.
  EXPECT_EQ(kept, (std::vector<int64_t>{512, 1792, 2048, 2304, 2560, 2816}));
  EXPECT_EQ(dropped, (std::vector<int64_t>{256, 768, 1024, 1280, 1536}));
}

// Blocks without a state at their end: the last of them are processed once more, when that is less than all behind the
// last checkpoint.
TEST(PrefixReuse, AStateThatIsGoneIsReplayedFromItsBlocks) {
  constexpr int64_t kReplay = 700;
  EngineConfig config = EndlessConfig();
  config.checkpoint_interval_tokens = 4096;
  const auto shared = Prompt(2048, 1);
  for (const bool is_parked_between : {false, true}) {
    auto group = MakeFakeGroup(1, 4, 64, 0, 0, kReplay);
    Harness harness(config, *group, kHasher);
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    const auto submit = [&](size_t n_shared, uint64_t seed) {
      harness.Then([&, n_shared, seed] {
        sinks.push_back(harness.Submit(Request(
            Join({shared.begin(), shared.begin() + static_cast<std::ptrdiff_t>(n_shared)}, Prompt(900, seed)), 3)));
      });
    };
    submit(2048, 2);
    submit(2048, 3);
    if (is_parked_between) submit(2048, 4);
    submit(600, 5);  // too short to be worth it
    ASSERT_TRUE(harness.Run().ok());
    EXPECT_EQ(sinks[1]->tokens(), ContinueWithoutEnd(Join(shared, Prompt(900, 3)), 3));
    EXPECT_EQ(sinks[1]->started->n_cached_local, 2048 - kReplay);
    EXPECT_EQ(sinks[1]->started->miss_reason, "no_checkpoint");
    if (is_parked_between) {
      EXPECT_EQ(sinks[2]->started->n_cached_local, 2048U) << "the second one left a checkpoint there";
    }
    EXPECT_EQ(sinks.back()->started->n_cached_local, 0U);
    EXPECT_EQ(harness.load.n_blocks_free, 64U);
  }
}

TEST(PrefixReuse, SharedBlocksAreNeverWritten) {
  // Many forks from one unaligned checkpoint, all at once: each copies the tail.
  const auto shared = Prompt(700, 1);
  auto group = MakeFakeGroup(1, 16, 64);
  Harness harness(EndlessConfig(), *group, kHasher);
  std::vector<std::vector<uint32_t>> prompts;
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  harness.Then([&] { harness.Submit(Request(shared, 1)); });
  harness.Then([&] {
    for (uint64_t i = 0; i < 12; ++i) {
      prompts.push_back(Join(shared, Prompt(1 + 30 * i, 50 + i)));
      sinks.push_back(harness.Submit(Request(prompts.back(), 40)));
    }
  });
  ASSERT_TRUE(harness.Run().ok());
  for (size_t i = 0; i < sinks.size(); ++i) {
    EXPECT_EQ(sinks[i]->tokens(), ContinueWithoutEnd(prompts[i], 40)) << i;
    EXPECT_EQ(sinks[i]->started->n_cached_local, 700U);
  }
}

TEST(PrefixReuse, ManyEqualPromptsAtOnceShareTheirBlocksInTheEnd) {
  const auto prompt = Prompt(1024, 1);
  auto group = MakeFakeGroup(1, 16, 200);
  EngineConfig config = EndlessConfig();
  config.step_token_budget = 100000;
  Harness harness(config, *group, kHasher);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  uint32_t n_free_min = 200;
  harness.Then([&] {
    for (int i = 0; i < 8; ++i) sinks.push_back(harness.Submit(Request(prompt, 30)));
  });
  size_t n_states = 0;
  group->on_plan = [&](const StepPlan& plan) {
    n_states += plan.export_states.size();
    if (group->plans.size() > 10) n_free_min = std::min(n_free_min, harness.load.n_blocks_free);
  };
  ASSERT_TRUE(harness.Run().ok());
  for (const auto& sink : sinks) EXPECT_EQ(sink->tokens(), ContinueWithoutEnd(prompt, 30));
  EXPECT_EQ(n_free_min, 200U - 4 - 8);  // four shared ones, and one of its own each
  EXPECT_EQ(n_states, 4U + 1);          // each position once: 256, 512, 768, 1024, and the common output end
}

TEST(PrefixReuse, NoCacheReadComputesEverythingAndStillFillsTheCache) {
  const auto prompt = Prompt(600, 1);
  auto group = MakeFakeGroup(1, 16, 64);
  Harness harness(EndlessConfig(), *group, kHasher);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  const auto submit = [&](bool no_cache_read, size_t n_prompt) {
    harness.Then([&, no_cache_read, n_prompt] {
      SequenceRequest request = Request({prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(n_prompt)}, 3);
      request.no_cache_read = no_cache_read;
      sinks.push_back(harness.Submit(std::move(request)));
    });
  };
  submit(true, 300);
  submit(true, 600);  // its first block is a twin
  submit(false, 301);
  submit(false, 600);
  ASSERT_TRUE(harness.Run().ok());
  EXPECT_EQ(sinks[1]->started->n_cached_local, 0U);
  EXPECT_EQ(sinks[1]->started->miss_reason, "disabled");
  EXPECT_EQ(sinks[1]->tokens(), ContinueWithoutEnd(prompt, 3));
  EXPECT_EQ(sinks[2]->started->n_cached_local, 300U);
  EXPECT_EQ(sinks[3]->tokens(), ContinueWithoutEnd(prompt, 3));
  EXPECT_EQ(harness.load.n_blocks_free, 64U);
}

TEST(PrefixReuse, WithoutCheckpointMemoryNothingIsKept) {
  EngineConfig config = EndlessConfig();
  config.checkpoint_memory_bytes = 0;
  const auto prompt = Prompt(600, 1);
  OneByOne runs(config);
  runs.Add(prompt, 3);
  const size_t second = runs.Add(prompt, 3);
  runs.Run();
  EXPECT_EQ(runs.started(second).n_cached_local, 0U);
  EXPECT_EQ(runs.started(second).miss_reason, "disabled");
  EXPECT_TRUE(runs.harness().known.empty());
  for (const StepPlan& plan : runs.group().plans) EXPECT_TRUE(plan.export_states.empty());
}

TEST(PrefixReuse, EvictsLeastRecentlyUsedBlocksAndSaysSo) {
  const auto prompt = Prompt(1000, 1);
  OneByOne runs(EndlessConfig(), 1, /*n_blocks=*/8);
  runs.Add(prompt, 3);
  runs.Add(Prompt(1000, 2), 3);  // beside the first
  const size_t still_there = runs.Add(prompt, 3);
  runs.Add(Prompt(1500, 3), 3);  // six blocks: pushes out the second one and half of the first
  const size_t evicted = runs.Add(prompt, 3);
  runs.Run();
  EXPECT_EQ(runs.started(still_there).n_cached_local, 768U);
  EXPECT_LT(runs.started(evicted).n_cached_local, 768U);
  EXPECT_GT(runs.started(evicted).n_cached_local, 0U) << "the root end of a chain must be the last to go";
  EXPECT_EQ(runs.started(evicted).miss_reason, "evicted");
}

TEST(PrefixReuse, ACheckpointGoesWithTheBlocksBeforeIt) {
  const auto prompt = Prompt(1000, 2);
  OneByOne runs(EndlessConfig(), 1, /*n_blocks=*/4);
  runs.Add(Prompt(1000, 1), 3);
  runs.Add(prompt, 3);  // takes every block of the first
  runs.Run();
  PrefixChain chain(kHasher, "");
  const auto whole = Join(prompt, ContinueWithoutEnd(prompt, 3));
  chain.Extend(whole, 1000);
  std::vector<PrefixKey> keys;
  for (const auto& [key, checkpoint] : runs.harness().known) {
    EXPECT_EQ(key, chain.KeyAt(whole, checkpoint.n_tokens)) << checkpoint.n_tokens;
    keys.push_back(key);
  }
  EXPECT_EQ(keys.size(), 5U);  // 256, 512, 768, 1000 and the output's end
}

TEST(PrefixReuse, CheckpointsStayWithinTheirBudget) {
  EngineConfig config = EndlessConfig();
  config.checkpoint_memory_bytes = 20000;  // a handful, each with a tail block
  OneByOne runs(config, 1, 256);
  size_t last = 0;
  for (uint64_t i = 0; i < 30; ++i) last = runs.Add(Prompt(300 + i, i), 3);
  const size_t oldest = runs.Add(Prompt(300, 0), 3);
  const size_t newest = runs.Add(Prompt(329, 29), 3);
  runs.Run();
  EXPECT_LT(runs.harness().known.size(), 30U);
  EXPECT_EQ(runs.started(last).miss_reason, "cold");
  EXPECT_EQ(runs.started(oldest).n_cached_local, 0U);
  EXPECT_EQ(runs.started(oldest).miss_reason, "evicted");
  EXPECT_EQ(runs.started(newest).n_cached_local, 256U);
}

TEST(PrefixReuse, TheObserverKnowsEveryPositionThatProbeFinds) {
  const auto prompt = Prompt(700, 1);
  const auto output = ContinueWithoutEnd(prompt, 10);
  const auto whole = Join(prompt, output);
  OneByOne runs(EndlessConfig());
  runs.Add(prompt, 10);
  std::map<size_t, int64_t> found;
  runs.harness().Then([&] {
    for (const size_t n : {1, 256, 257, 513, 700, 701, 709, 710}) {
      const std::vector<uint32_t> tokens(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n));
      runs.harness().Probe(tokens, [&found, n](int64_t n_tokens) { found[n] = n_tokens; });
    }
  });
  runs.Run();
  const std::map<size_t, int64_t> expected = {{1, 0},     {256, 0},   {257, 256}, {513, 512},
                                              {700, 512}, {701, 700}, {709, 700}, {710, 709}};
  EXPECT_EQ(found, expected);
  std::vector<int64_t> positions;
  const PrefixKey root = kHasher.Root("");
  for (const auto& [key, checkpoint] : runs.harness().known) {
    positions.push_back(checkpoint.n_tokens);
    PrefixKey parent = root;
    const std::span<const uint32_t> tokens(whole);
    int64_t n = 0;
    for (; n + 256 <= checkpoint.n_tokens; n += 256) parent = kHasher.Next(parent, tokens.subspan(n, 256));
    EXPECT_EQ(checkpoint.parent, parent);
    EXPECT_EQ(key,
              n == checkpoint.n_tokens ? parent : kHasher.Next(parent, tokens.subspan(n, checkpoint.n_tokens - n)));
  }
  std::sort(positions.begin(), positions.end());
  EXPECT_EQ(positions, (std::vector<int64_t>{256, 512, 700, 709}));
}

TEST(PrefixReuse, EachShardKeepsItsOwnBlocksAndRequestsGoToTheirPrefix) {
  const auto a = Prompt(1500, 1);
  const auto b = Prompt(1500, 2);
  OneByOne runs(EndlessConfig(), /*n_shards=*/3);
  runs.Add(a, 3);
  runs.Add(b, 3);
  std::vector<size_t> more;
  for (uint64_t i = 0; i < 6; ++i) more.push_back(runs.Add(Join(i % 2 == 0 ? a : b, Prompt(30, 10 + i)), 3));
  runs.Run();
  for (const size_t i : more) EXPECT_EQ(runs.started(i).n_cached_local, 1500U);
}

// ---- exports and restores

std::vector<KvObject> Parked(const std::vector<uint32_t>& prompt, uint32_t max_tokens, size_t n_export) {
  auto group = MakeFakeGroup(2, 4, 64);
  Harness harness(EndlessConfig(), *group, kHasher);
  std::vector<KvObject> out;
  harness.Then([&] { harness.Submit(Request(prompt, max_tokens)); });
  harness.Then([&] {
    const auto whole = Join(prompt, ContinueWithoutEnd(prompt, max_tokens));
    harness.Export({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n_export)}, [&](auto objects) {
      EXPECT_TRUE(objects.ok()) << objects.status();
      if (objects.ok()) out = *std::move(objects);
    });
  });
  EXPECT_TRUE(harness.Run().ok());
  return out;
}

TEST(PrefixExport, WhatIsParkedResumesOnAnotherEngine) {
  for (const size_t n : {1, 3, 100, 255, 256, 257, 512, 1000}) {
    const auto prompt = Prompt(n, n);
    const auto whole = Join(prompt, ContinueWithoutEnd(prompt, 6));
    const auto objects = Parked(prompt, 6, whole.size());
    ASSERT_FALSE(objects.empty());
    EXPECT_EQ(objects.back().n_tokens, static_cast<int64_t>(n + 5));
    auto group = MakeFakeGroup(1, 4, 64);
    Harness harness(EndlessConfig(), *group, kHasher);
    const auto next = Join(whole, Prompt(5, 77));
    std::shared_ptr<RecordingSink> first;
    std::shared_ptr<RecordingSink> second;
    harness.Then([&] {
      SequenceRequest request = Request(next, 7);
      request.feed = std::make_shared<FakeFeed>(objects);
      first = harness.Submit(std::move(request));
    });
    harness.Then([&] { second = harness.Submit(Request(Join(whole, Prompt(6, 78)), 7)); });
    ASSERT_TRUE(harness.Run().ok());
    EXPECT_EQ(first->tokens(), ContinueWithoutEnd(next, 7));
    EXPECT_EQ(first->started->n_cached_local, 0U);
    EXPECT_EQ(first->started->n_cached_store, n + 5);
    // What was restored is in the local cache now.
    EXPECT_EQ(second->tokens(), ContinueWithoutEnd(Join(whole, Prompt(6, 78)), 7));
    EXPECT_EQ(second->started->n_cached_local, n + 5);
    EXPECT_EQ(second->started->n_cached_store, 0U);
  }
}

TEST(PrefixExport, NamesItsObjectsByTheChain) {
  const auto prompt = Prompt(600, 4);
  const auto objects = Parked(prompt, 1, 600);
  ASSERT_EQ(objects.size(), 4U);  // two blocks, the tail, the checkpoint
  const std::span<const uint32_t> tokens(prompt);
  const PrefixKey root = kHasher.Root("");
  const PrefixKey first = kHasher.Next(root, tokens.subspan(0, 256));
  const PrefixKey second = kHasher.Next(first, tokens.subspan(256, 256));
  const PrefixKey tail = kHasher.Next(second, tokens.subspan(512));
  EXPECT_EQ(objects[0].key, first);
  EXPECT_EQ(objects[0].parent, root);
  EXPECT_EQ(objects[1].key, second);
  EXPECT_EQ(objects[1].parent, first);
  EXPECT_EQ(objects[1].n_tokens, 512);
  EXPECT_EQ(objects[2].kind, ParkedObject::Kind::kTail);
  EXPECT_EQ(objects[2].key, tail);
  EXPECT_EQ(objects[2].parent, second);
  EXPECT_EQ(objects[3].kind, ParkedObject::Kind::kCheckpoint);
  EXPECT_EQ(objects[3].key, tail);
  EXPECT_EQ(objects[3].n_tokens, 600);
}

TEST(PrefixExport, AnswersNotFoundForTokensItNeverSaw) {
  auto group = MakeFakeGroup(1, 4, 64);
  Harness harness(EndlessConfig(), *group, kHasher);
  absl::Status status;
  harness.Then([&] { harness.Submit(Request(Prompt(600, 1), 3)); });
  harness.Then([&] { harness.Export(Prompt(600, 2), [&](auto objects) { status = objects.status(); }); });
  ASSERT_TRUE(harness.Run().ok());
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
}

TEST(PrefixExport, FeedsTheStoreWithEveryNewObjectOnce) {
  EngineConfig config = EndlessConfig();
  config.export_cache_objects = true;
  auto group = MakeFakeGroup(1, 4, 64);
  Harness harness(config, *group, kHasher);
  const auto prompt = Prompt(600, 1);
  const auto whole = Join(prompt, ContinueWithoutEnd(prompt, 300));
  const auto submit = [&] {
    SequenceRequest request = Request(prompt, 300);
    request.namespace_id = "acme";
    harness.Submit(std::move(request));
  };
  harness.Then([&] {
    submit();
    submit();
  });
  harness.Then(submit);
  ASSERT_TRUE(harness.Run().ok());
  std::map<std::pair<ParkedObject::Kind, PrefixKey>, int> n_times;
  std::vector<int64_t> blocks;
  std::vector<int64_t> checkpoints;
  for (const KvObject& object : harness.objects) {
    EXPECT_EQ((++n_times[{object.kind, object.key}]), 1);
    if (object.kind == ParkedObject::Kind::kBlock) blocks.push_back(object.n_tokens);
    if (object.kind == ParkedObject::Kind::kCheckpoint) checkpoints.push_back(object.n_tokens);
  }
  std::sort(checkpoints.begin(), checkpoints.end());
  EXPECT_EQ(blocks, (std::vector<int64_t>{256, 512, 768}));
  EXPECT_EQ(checkpoints, (std::vector<int64_t>{256, 512, 600, 768, 899}));
  for (const std::string& name : harness.object_namespaces) EXPECT_EQ(name, "acme");
}

TEST(PrefixExport, TellsWhichCheckpointEachGoesOnFrom) {
  EngineConfig config = EndlessConfig();
  config.export_cache_objects = true;
  auto group = MakeFakeGroup(1, 4, 64);
  Harness harness(config, *group, kHasher);
  const auto prompt = Prompt(300, 1);
  const auto turn = Join(Join(prompt, ContinueWithoutEnd(prompt, 20)), Prompt(300, 2));
  const auto other = Join({prompt.begin(), prompt.begin() + 280}, Prompt(30, 3));
  harness.Then([&] { harness.Submit(Request(prompt, 20)); });
  harness.Then([&] { harness.Submit(Request(turn, 5)); });
  harness.Then([&] { harness.Submit(Request(other, 1)); });  // shares the first block
  ASSERT_TRUE(harness.Run().ok());
  std::map<PrefixKey, int64_t> depths;
  for (const KvObject& object : harness.objects) {
    if (object.kind == ParkedObject::Kind::kCheckpoint) depths[object.key] = object.n_tokens;
  }
  std::vector<std::pair<int64_t, int64_t>> steps;
  for (const auto& [key, before] : harness.continued) {
    steps.emplace_back(depths[key], before.has_value() ? depths.at(*before) : 0);
  }
  std::sort(steps.begin(), steps.end());
  EXPECT_EQ(steps, (std::vector<std::pair<int64_t, int64_t>>{
                       {256, 0}, {300, 256}, {310, 256}, {319, 300}, {512, 319}, {620, 512}, {624, 620}}));
}

// One request over a feed, on an engine of its own; `before` may have filled its cache.
class FeedTest : public ::testing::Test {
 protected:
  void SetUp() override { objects_ = Parked(prompt_, 1, prompt_.size()); }
  std::shared_ptr<FakeFeed> Feed() const { return std::make_shared<FakeFeed>(objects_); }

  std::shared_ptr<RecordingSink> Run(const std::shared_ptr<FakeFeed>& feed, size_t n_before = 0,
                                     const std::function<void(Harness&)>& beside = {}) {
    Harness harness(EndlessConfig(), *group_, kHasher);
    if (feed->on_take == nullptr) {
      feed->on_take = [&harness] { EXPECT_TRUE(harness.inbox().Post(Wake{})); };
    }
    std::shared_ptr<RecordingSink> sink;
    if (n_before > 0) {
      harness.Then([&] {
        harness.Submit(Request({prompt_.begin(), prompt_.begin() + static_cast<std::ptrdiff_t>(n_before)}, 1));
      });
    }
    harness.Then([&] {
      SequenceRequest request = Request(next_, 4);
      request.id = 7;
      request.feed = feed;
      sink = harness.Submit(std::move(request));
      if (beside) beside(harness);
    });
    EXPECT_TRUE(harness.Run().ok());
    EXPECT_EQ(harness.load.n_blocks_free, harness.load.n_blocks_total);
    return sink;
  }

  const std::vector<uint32_t> prompt_ = Prompt(1200, 1);
  const std::vector<uint32_t> next_ = Join(prompt_, Prompt(5, 2));
  std::vector<KvObject> objects_;  // four blocks, a tail, the state at 1,200
  std::unique_ptr<FakeGroup> group_ = MakeFakeGroup(1, 4, 64);
};

TEST_F(FeedTest, BringsOnlyTheMissingPart) {
  const auto feed = Feed();
  const auto sink = Run(feed, /*n_before=*/800);  // three blocks are here
  EXPECT_EQ(sink->tokens(), ContinueWithoutEnd(next_, 4));
  EXPECT_EQ(feed->first_blocks, std::vector<int64_t>{3});
  EXPECT_EQ(sink->started->n_cached_local, 768U);
  EXPECT_EQ(sink->started->n_cached_store, 1200U - 768);
  EXPECT_EQ(sink->started->miss_reason, "diverged");
}

TEST_F(FeedTest, IsNotAskedWhenTheLocalCacheLeadsAsFar) {
  const auto feed = Feed();
  const auto sink = Run(feed, /*n_before=*/1200);
  EXPECT_EQ(sink->tokens(), ContinueWithoutEnd(next_, 4));
  EXPECT_EQ(feed->n_begun, 0);
  EXPECT_TRUE(feed->is_stopped);
  EXPECT_EQ(sink->started->n_cached_local, 1200U);
}

TEST_F(FeedTest, BlocksThatComeOneByOneAreTakenOneByOneWhileOthersRun) {
  const auto feed = Feed();
  feed->n_arrived = 0;
  std::shared_ptr<RecordingSink> other;
  Mailbox<EngineMessage>* inbox = nullptr;
  feed->on_take = [&] {
    if (feed->n_takes % 8 == 0) ++feed->n_arrived;
    EXPECT_TRUE(inbox->Post(Wake{}));
  };
  std::vector<size_t> taken;
  group_->on_plan = [&](const StepPlan& plan) {
    if (!plan.import_blocks.empty()) taken.push_back(plan.import_blocks.size());
  };
  const auto sink = Run(feed, 0, [&](Harness& harness) {
    inbox = &harness.inbox();
    other = harness.Submit(Request(Prompt(20, 9), 60));
  });
  EXPECT_EQ(sink->tokens(), ContinueWithoutEnd(next_, 4));
  EXPECT_EQ(sink->started->n_cached_store, 1200U);
  EXPECT_EQ(taken, (std::vector<size_t>{1, 1, 1, 1, 1})) << "four blocks and the tail";
  EXPECT_EQ(other->tokens(), ContinueWithoutEnd(Prompt(20, 9), 60));
}

TEST_F(FeedTest, WhatABrokenOneBroughtIsComputedFromTheLastPositionHeld) {
  for (const size_t n_before : {0, 300}) {
    const auto feed = Feed();
    feed->breaks_at = 3;
    feed->n_arrived = 3;
    group_ = MakeFakeGroup(1, 4, 64);
    const auto sink = Run(feed, n_before);
    EXPECT_EQ(sink->tokens(), ContinueWithoutEnd(next_, 4));
    EXPECT_EQ(sink->started->n_cached_store, 0U);
    EXPECT_EQ(sink->started->n_cached_local, n_before);
    EXPECT_EQ(sink->started->miss_reason, "store_timeout");
  }
}

TEST_F(FeedTest, OfOneThatBrokeTheStateIsReplayed) {
  constexpr int64_t kReplay = 300;
  const auto feed = Feed();
  feed->breaks_at = 4;
  group_ = MakeFakeGroup(1, 4, 64, 0, 0, kReplay);
  feed->end = {.n_tokens = 0, .state = {}, .tail = {}, .miss_reason = "missing"};  // all blocks, but no state
  const auto sink = Run(feed);
  EXPECT_EQ(sink->tokens(), ContinueWithoutEnd(next_, 4));
  EXPECT_EQ(sink->started->n_cached_store, 1024U - kReplay);
}

TEST_F(FeedTest, MayEndAtAnEarlierPosition) {
  const auto shorter = Parked({prompt_.begin(), prompt_.begin() + 600}, 1, 600);
  const auto feed = Feed();
  const FakeFeed other(shorter);
  feed->end = other.end;
  feed->end.miss_reason = "missing";
  const auto sink = Run(feed);
  EXPECT_EQ(sink->tokens(), ContinueWithoutEnd(next_, 4));
  EXPECT_EQ(sink->started->n_cached_store, 600U);
  EXPECT_EQ(sink->started->miss_reason, "missing");
}

TEST_F(FeedTest, WhatDoesNotFitIsRefusedAndComputed) {
  const std::vector<std::function<void(FakeFeed&)>> faults = {
      [](FakeFeed& feed) { feed.end.state.pop_back(); },
      [](FakeFeed& feed) { feed.end.tail.pop_back(); },
      [](FakeFeed& feed) { feed.end.tail.clear(); },
      [](FakeFeed& feed) { feed.blocks[0].pop_back(); },
      [](FakeFeed& feed) { feed.blocks[2].pop_back(); },
      [](FakeFeed& feed) { feed.blocks.pop_back(); },
      [](FakeFeed& feed) { feed.blocks.resize(9, feed.blocks[0]); },  // more than the tokens have
      [](FakeFeed& feed) { feed.end.n_tokens = -5; },
      [](FakeFeed& feed) { feed.end.n_tokens = 1205; },  // the last token must be computed
      [](FakeFeed& feed) { feed.end.n_tokens = 100000; },
  };
  for (size_t i = 0; i < faults.size(); ++i) {
    const auto feed = Feed();
    faults[i](*feed);
    group_ = MakeFakeGroup(1, 4, 64);
    const auto sink = Run(feed);
    EXPECT_EQ(sink->tokens(), ContinueWithoutEnd(next_, 4)) << i;
    EXPECT_EQ(sink->started->n_cached_store, 0U) << i;
    EXPECT_EQ(sink->started->miss_reason, "restore_refused") << i;
  }
}

TEST_F(FeedTest, WhatIsOfOtherTokensIsRefusedAndComputed) {
  auto other_prompt = prompt_;
  other_prompt[3] += 1;  // all but its first block has the same tokens of its own
  const FakeFeed others(Parked(other_prompt, 1, 1200));
  const std::vector<std::function<void(FakeFeed&)>> faults = {
      [&](FakeFeed& feed) { feed.blocks[0] = others.blocks[0]; },
      [&](FakeFeed& feed) { feed.blocks[2] = others.blocks[2]; },
      [&](FakeFeed& feed) { feed.end.state = others.end.state; },
      [&](FakeFeed& feed) { feed.end.tail = others.end.tail; },
      [&](FakeFeed& feed) { feed.blocks[1] = feed.blocks[0]; },
      [&](FakeFeed& feed) { feed.blocks[1].back() ^= std::byte{1}; },  // one token
  };
  for (size_t i = 0; i < faults.size(); ++i) {
    const auto feed = Feed();
    faults[i](*feed);
    group_ = MakeFakeGroup(1, 4, 64);
    const auto sink = Run(feed);
    EXPECT_EQ(sink->tokens(), ContinueWithoutEnd(next_, 4)) << i;
    EXPECT_EQ(sink->started->n_cached_store, 0U) << i;
    EXPECT_EQ(sink->started->miss_reason, "token_mismatch") << i;
    EXPECT_TRUE(feed->is_stopped) << i;
  }
}

TEST_F(FeedTest, CancellingEndsIt) {
  const auto feed = Feed();
  feed->n_arrived = 2;
  Mailbox<EngineMessage>* inbox = nullptr;
  feed->on_take = [&] {
    if (feed->n_takes == 3) {
      EXPECT_TRUE(inbox->Post(Cancel{7}));
    }
    EXPECT_TRUE(inbox->Post(Wake{}));
  };
  const auto sink = Run(feed, 0, [&](Harness& harness) { inbox = &harness.inbox(); });
  EXPECT_EQ(sink->finished->reason, FinishReason::kCancelled);
  EXPECT_FALSE(sink->started.has_value());
  EXPECT_TRUE(feed->is_stopped);
}

TEST_F(FeedTest, APreemptedOneBeginsAnewBehindWhatItBrought) {
  group_ = MakeFakeGroup(1, 4, 9);  // the prompt takes five
  const auto feed = Feed();
  feed->n_arrived = 2;
  std::shared_ptr<RecordingSink> first;
  Mailbox<EngineMessage>* inbox = nullptr;
  feed->on_take = [&] {
    if (feed->n_begun == 2) feed->n_arrived = 100;
    EXPECT_TRUE(inbox->Post(Wake{}));
  };
  EngineConfig config = EndlessConfig();
  config.admission_headroom_tokens = 0;
  Harness harness(config, *group_, kHasher);
  inbox = &harness.inbox();
  std::shared_ptr<RecordingSink> sink;
  harness.Then([&] {
    first = harness.Submit(Request(Prompt(700, 5), 900));  // grows until nothing is left for the other
    SequenceRequest request = Request(next_, 4);
    request.feed = feed;
    sink = harness.Submit(std::move(request));
  });
  ASSERT_TRUE(harness.Run().ok());
  EXPECT_EQ(first->tokens(), ContinueWithoutEnd(Prompt(700, 5), 900));
  EXPECT_EQ(sink->tokens(), ContinueWithoutEnd(next_, 4));
  EXPECT_EQ(feed->n_begun, 2);
  EXPECT_EQ(sink->started->n_cached_local + sink->started->n_cached_store, 1200U);
}

// Nothing else runs: the engine must sleep until the feed rings, and then go on at once.
TEST_F(FeedTest, AnEngineThatOnlyWaitsForAFeedSleeps) {
  const auto feed = Feed();
  feed->n_arrived = 0;
  feed->on_take = [] {};
  Mailbox<EngineMessage>* inbox = nullptr;
  std::thread ringer;
  const auto sink = Run(feed, 0, [&](Harness& harness) {
    inbox = &harness.inbox();
    ringer = std::thread([&] {
      for (int i = 0; i < 4; ++i) {
        const int n_takes = feed->n_takes;
        if (n_takes == 0) feed->n_takes.wait(0);  // it has looked, and found nothing
        feed->n_arrived += 1;
        EXPECT_TRUE(inbox->Post(Wake{}));
        feed->n_takes.wait(n_takes);
      }
    });
  });
  ringer.join();
  EXPECT_EQ(sink->tokens(), ContinueWithoutEnd(next_, 4));
  EXPECT_LE(feed->n_takes, 12) << "it went round without being rung for";
}

TEST(PrefixRestore, ReportsWhyTheStoreHadNoMore) {
  auto group = MakeFakeGroup(1, 4, 64);
  Harness harness(EndlessConfig(), *group, kHasher);
  std::shared_ptr<RecordingSink> sink;
  harness.Then([&] {
    SequenceRequest request = Request(Prompt(600, 1), 4);
    request.store_miss_reason = "digest_mismatch";
    sink = harness.Submit(std::move(request));
  });
  ASSERT_TRUE(harness.Run().ok());
  EXPECT_EQ(sink->started->miss_reason, "digest_mismatch");
}

}  // namespace
}  // namespace longshelf::engine
