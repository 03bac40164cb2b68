#include "router/prefix_index.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace longshelf::router {
namespace {

constexpr uint32_t kBlock = 256;

std::vector<uint32_t> Tokens(size_t n, uint32_t first = 5) {
  std::vector<uint32_t> tokens(n);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

PromptKeys Keys(const std::vector<uint32_t>& tokens, std::string_view salt = "salt") {
  return MakePromptKeys(BlockKey{1, 2, 3}, salt, kBlock, tokens);
}

// The checkpoint a worker would publish for the first `depth` of these tokens.
IndexedCheckpoint At(const std::vector<uint32_t>& tokens, uint32_t depth) {
  const PromptKeys keys = Keys(tokens);
  const size_t block = depth / kBlock;
  IndexedCheckpoint checkpoint;
  checkpoint.depth_tokens = depth;
  checkpoint.parent = keys.chain[block];
  checkpoint.key = keys.chain[block];
  if (depth % kBlock != 0) {
    checkpoint.key = kvstore::ChainNext(checkpoint.parent, std::span(tokens).subspan(block * kBlock, depth % kBlock));
  }
  return checkpoint;
}

TEST(PrefixIndex, FindsTheDeepestBlockBoundaryOfThePrompt) {
  const auto tokens = Tokens(1000);
  PrefixIndex index;
  index.Add(At(tokens, 256));
  index.Add(At(tokens, 768));
  EXPECT_EQ(index.UsablePrefix(Keys(tokens), tokens), 768u);
  index.Remove(At(tokens, 768).key);
  EXPECT_EQ(index.UsablePrefix(Keys(tokens), tokens), 256u);
}

TEST(PrefixIndex, FindsAPositionBetweenTwoBoundariesByHashingTheTail) {
  const auto tokens = Tokens(1000);
  PrefixIndex index;
  index.Add(At(tokens, 512));
  index.Add(At(tokens, 700));
  EXPECT_EQ(index.UsablePrefix(Keys(tokens), tokens), 700u);
  auto other = tokens;
  other[699] = 1;  // the same first two blocks, another tail
  EXPECT_EQ(index.UsablePrefix(Keys(other), other), 512u);
}

TEST(PrefixIndex, FindsAPositionInsideTheFirstBlock) {
  const auto tokens = Tokens(200);
  PrefixIndex index;
  index.Add(At(tokens, 100));
  EXPECT_EQ(index.UsablePrefix(Keys(tokens), tokens), 100u);
}

TEST(PrefixIndex, LeavesTheLastTokenToBeComputed) {
  const auto tokens = Tokens(512);
  PrefixIndex index;
  index.Add(At(tokens, 512));
  EXPECT_EQ(index.UsablePrefix(Keys(tokens), tokens), 0u);
  index.Add(At(tokens, 511));
  EXPECT_EQ(index.UsablePrefix(Keys(tokens), tokens), 511u);
}

TEST(PrefixIndex, SeesNothingOfAnotherTenant) {
  const auto tokens = Tokens(1000);
  PrefixIndex index;
  index.Add(At(tokens, 768));
  index.Add(At(tokens, 800));
  EXPECT_EQ(index.UsablePrefix(Keys(tokens, "other salt"), tokens), 0u);
}

TEST(PrefixIndex, ForgetsWhatIsLostAndStaysSmall) {
  const auto tokens = Tokens(1000);
  PrefixIndex index(/*max_entries=*/2);
  index.Add(At(tokens, 100));
  index.Add(At(tokens, 100));
  EXPECT_EQ(index.size(), 1u);
  index.Add(At(tokens, 256));
  index.Add(At(tokens, 512));  // one too many
  EXPECT_EQ(index.size(), 2u);
  EXPECT_EQ(index.UsablePrefix(Keys(tokens), tokens), 256u);
  index.Remove(At(tokens, 100).key);
  index.Remove(At(tokens, 100).key);
  index.Remove(At(tokens, 256).key);
  EXPECT_EQ(index.size(), 0u);
  EXPECT_EQ(index.UsablePrefix(Keys(tokens), tokens), 0u);
}

TEST(PrefixIndex, AWrongDepthUnderARightKeyIsNeverUsed) {
  const auto tokens = Tokens(1000);
  IndexedCheckpoint liar = At(tokens, 300);
  liar.depth_tokens = 900;
  PrefixIndex index;
  index.Add(liar);
  EXPECT_EQ(index.UsablePrefix(Keys(tokens), tokens), 0u);
}

// 400 chats that end somewhere in the same block: what a lookup costs are the lengths that there are, not the chats.
TEST(PrefixIndex, HashesATailOncePerLengthHoweverManyHaveIt) {
  PrefixIndex index;
  const std::vector<uint32_t> shared(256, 7);
  const PromptKeys keys = MakePromptKeys({}, "", 256, shared);
  for (uint32_t chat = 0; chat < 400; ++chat) {
    std::vector<uint32_t> tail(10 + chat % 20, 100 + chat);
    index.Add({kvstore::ChainNext(keys.chain[1], tail), keys.chain[1], 256 + static_cast<uint32_t>(tail.size())});
  }
  std::vector<uint32_t> prompt(600, 7);
  std::fill(prompt.begin() + 256, prompt.end(), 101);  // goes on as chat 1 did, which had eleven tokens more
  const PromptKeys own = MakePromptKeys({}, "", 256, prompt);
  EXPECT_EQ(index.UsablePrefix(own, prompt), 256u + 11);
  EXPECT_LE(index.n_tails_hashed(), 20u);
  // What is gone is not found, and costs nothing.
  const uint64_t version = index.version();
  for (uint32_t chat = 0; chat < 400; ++chat) {
    std::vector<uint32_t> tail(10 + chat % 20, 100 + chat);
    index.Remove(kvstore::ChainNext(keys.chain[1], tail));
  }
  EXPECT_NE(index.version(), version);
  const uint64_t n_hashed = index.n_tails_hashed();
  EXPECT_EQ(index.UsablePrefix(own, prompt), 0u);
  EXPECT_EQ(index.n_tails_hashed(), n_hashed);
}

}  // namespace
}  // namespace longshelf::router
