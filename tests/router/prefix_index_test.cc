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

}  // namespace
}  // namespace longshelf::router
