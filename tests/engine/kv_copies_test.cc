// What shards keep beside their arenas, and how it gets to where it is needed.

#include <gtest/gtest.h>

#include <map>
#include <utility>
#include <vector>

#include "engine_harness.h"
#include "engine_requests.h"
#include "fake_model.h"

namespace longshelf::engine {
namespace {

const FakeHasher kHasher;

size_t CopiesOf(const std::map<PrefixKey, CachedCheckpoint>& checkpoints) {
  size_t n = 0;
  for (const auto& [key, checkpoint] : checkpoints) n += checkpoint.n_tokens % kBlockTokens == 0 ? 1 : 2;
  return n;
}

TEST(Copies, ACheckpointGoesFromTheShardThatMadeItToTheOneThatNeedsIt) {
  const auto prompt = Prompt(100, 1);
  const auto longer = Join(prompt, Prompt(30, 2));
  auto group = MakeFakeGroup(/*n_shards=*/2, /*n_slots=*/1, /*n_blocks=*/64);
  Harness harness(EndlessConfig(), *group, kHasher);
  std::shared_ptr<RecordingSink> other;
  std::shared_ptr<RecordingSink> next;
  harness.Then([&] { harness.Submit(Request(prompt, 1)); });  // on shard 0
  harness.Then([&] {
    other = harness.Submit(Request(Prompt(700, 3), 30));  // takes shard 0's only slot
    next = harness.Submit(Request(longer, 5));
  });
  ASSERT_TRUE(harness.Run().ok());
  EXPECT_EQ(other->tokens(), ContinueWithoutEnd(Prompt(700, 3), 30));
  EXPECT_EQ(next->tokens(), ContinueWithoutEnd(longer, 5));
  EXPECT_EQ(next->started->n_cached_local, 100U);
  std::vector<std::pair<uint16_t, uint16_t>> moves;
  for (const StepPlan& plan : group->plans) {
    for (const StepPlan::MoveCopy& move : plan.move_copies) moves.emplace_back(move.from, move.to);
  }
  EXPECT_EQ(moves, (std::vector<std::pair<uint16_t, uint16_t>>{{0, 1}, {0, 1}})) << "its tail and its state";
  harness.copies().DropUnheld();
  EXPECT_EQ(group->copies(0).size() + group->copies(1).size(), CopiesOf(harness.known)) << "what was moved has gone";
}

TEST(Copies, ShardsKeepCopiesOfCheckpointsAndOfNothingElse) {
  EngineConfig config = EndlessConfig();
  config.export_cache_objects = true;
  config.checkpoint_memory_bytes = 40'000;  // a few
  auto group = MakeFakeGroup(/*n_shards=*/3, /*n_slots=*/16, /*n_blocks=*/40);
  Harness harness(config, *group, kHasher);
  for (uint64_t i = 0; i < 40; ++i) {
    const auto prompt = Join(Prompt(30 + 40 * (i % 7), i % 3), Prompt(10 + 53 * (i % 11), i));
    harness.Then([&harness, prompt, i] { harness.Submit(Request(prompt, 1 + 20 * static_cast<uint32_t>(i % 4))); });
  }
  ASSERT_TRUE(harness.Run().ok());
  EXPECT_GT(harness.objects.size(), 100U);
  harness.copies().DropUnheld();
  size_t n_copies = 0;
  uint64_t n_bytes = 0;
  for (uint16_t shard = 0; shard < 3; ++shard) {
    n_copies += group->copies(shard).size();
    n_bytes += group->copies(shard).n_bytes();
  }
  EXPECT_EQ(n_copies, CopiesOf(harness.known));
  EXPECT_GT(n_copies, 0U);
  EXPECT_LE(n_bytes, config.checkpoint_memory_bytes);
}

}  // namespace
}  // namespace longshelf::engine
