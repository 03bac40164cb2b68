#include "block_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace longshelf::engine {
namespace {

PrefixKey Key(uint32_t n) {
  PrefixKey key{};
  std::memcpy(key.data(), &n, sizeof n);
  key[31] = 1;
  return key;
}

// A full block with the key Key(n), of tokens that say `content`.
class Named {
 public:
  explicit Named(uint32_t n) : Named(n, n) {}
  Named(uint32_t n, uint32_t content) : key_(Key(n)), tokens_(kBlockTokens, content) {}
  BlockName name() const { return {key_, {TokenDigest{7}, tokens_}}; }

 private:
  const PrefixKey key_;
  const std::vector<uint32_t> tokens_;
};

uint32_t Take(BlockPool& pool, std::vector<PrefixKey>* evicted = nullptr) {
  std::vector<PrefixKey> ignored;
  pool.Promise(1);
  return pool.Allocate(evicted != nullptr ? *evicted : ignored);
}

// A chain of full blocks, held once.
std::vector<uint32_t> Chain(BlockPool& pool, uint32_t first_key, uint32_t n) {
  std::vector<uint32_t> blocks;
  for (uint32_t i = 0; i < n; ++i) {
    const auto parent = i == 0 ? std::nullopt : std::optional(blocks.back());
    blocks.push_back(pool.Publish(Take(pool), Named(first_key + i).name(), parent));
  }
  return blocks;
}

void ReleaseAll(BlockPool& pool, const std::vector<uint32_t>& blocks) {
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) pool.Release(*block);
}

TEST(BlockPool, GivesEveryBlockOnceAndTakesItBack) {
  BlockPool pool(5);
  std::vector<uint32_t> blocks;
  for (int i = 0; i < 5; ++i) blocks.push_back(Take(pool));
  std::sort(blocks.begin(), blocks.end());
  EXPECT_EQ(blocks, (std::vector<uint32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(pool.n_available(), 0U);
  ReleaseAll(pool, blocks);
  EXPECT_EQ(pool.n_available(), 5U);
  pool.CheckInvariants();
}

TEST(BlockPool, EvictsChildrenBeforeParentsAndOldChainsFirst) {
  BlockPool pool(6);
  const auto old_chain = Chain(pool, 100, 3);
  const auto new_chain = Chain(pool, 200, 3);
  ReleaseAll(pool, old_chain);
  ReleaseAll(pool, new_chain);
  pool.CheckInvariants();
  std::vector<PrefixKey> evicted;
  for (int i = 0; i < 6; ++i) Take(pool, &evicted);
  EXPECT_EQ(evicted, (std::vector<PrefixKey>{Key(102), Key(101), Key(100), Key(202), Key(201), Key(200)}));
  pool.CheckInvariants();
}

TEST(BlockPool, NeverEvictsWhatIsHeld) {
  BlockPool pool(4);
  const auto chain = Chain(pool, 100, 3);
  pool.Hold(chain[0]);  // somebody shares the first block only
  ReleaseAll(pool, chain);
  EXPECT_EQ(pool.n_available(), 3U);
  std::vector<PrefixKey> evicted;
  for (int i = 0; i < 3; ++i) Take(pool, &evicted);
  EXPECT_EQ(evicted, (std::vector<PrefixKey>{Key(102), Key(101)}));
  EXPECT_TRUE(pool.Find(Key(100)).has_value());
  pool.CheckInvariants();
}

TEST(BlockPool, ATwinIsReplacedByTheBlockThatIsThere) {
  BlockPool pool(4);
  const auto chain = Chain(pool, 100, 1);
  const uint32_t mine = Take(pool);
  EXPECT_EQ(pool.Publish(mine, Named(100).name(), std::nullopt), chain[0]);
  EXPECT_EQ(pool.n_available(), 3U);
  pool.Release(chain[0]);
  EXPECT_TRUE(pool.is_held(chain[0]));
  pool.Release(chain[0]);
  EXPECT_EQ(pool.n_available(), 4U);
  pool.CheckInvariants();
}

TEST(BlockPool, OtherTokensUnderOneKeyAreNotFoundAndChildrenKeepTheirOwnParent) {
  BlockPool pool(4);
  const uint32_t first = pool.Publish(Take(pool), Named(100).name(), std::nullopt);
  const Named same_key(100, 5);
  EXPECT_EQ(pool.Find(Key(100)), first);
  EXPECT_EQ(pool.Find(Named(100).name()), first);
  EXPECT_FALSE(pool.Find(same_key.name()).has_value());
  EXPECT_DEATH(pool.Publish(Take(pool), same_key.name(), std::nullopt), "");
  const std::vector<uint32_t> tokens(kBlockTokens, 100);
  EXPECT_FALSE(pool.Find(BlockName{Key(100), {TokenDigest{8}, tokens}}).has_value()) << "another prefix before it";

  const uint32_t other = pool.Publish(Take(pool), Named(200).name(), std::nullopt);
  const uint32_t child = pool.Publish(Take(pool), Named(101).name(), other);
  ReleaseAll(pool, {other, child});
  pool.CheckInvariants();
  std::vector<PrefixKey> evicted;
  for (int i = 0; i < 3; ++i) Take(pool, &evicted);
  EXPECT_EQ(evicted, (std::vector<PrefixKey>{Key(101), Key(200)}));
  pool.Release(first);
  Take(pool, &evicted);
  EXPECT_EQ(evicted.back(), Key(100));
  EXPECT_FALSE(pool.Find(Key(100)).has_value()) << "the key is free for other tokens";
}

TEST(BlockPool, KeepsItsBooksUnderRandomUse) {
  std::mt19937_64 random(7);
  BlockPool pool(40);
  struct Holder {
    uint32_t path = 0;  // which tree path its blocks follow
    std::vector<uint32_t> blocks;
    std::optional<uint32_t> parent;
  };
  std::vector<Holder> holders;
  for (int step = 0; step < 20000; ++step) {
    const auto pick = random() % 10;
    if (pick < 2) {
      holders.push_back({static_cast<uint32_t>(random() % 6), {}, {}});
    } else if (pick < 4 && !holders.empty()) {
      const size_t i = random() % holders.size();
      ReleaseAll(pool, holders[i].blocks);
      holders.erase(holders.begin() + static_cast<std::ptrdiff_t>(i));
    } else if (!holders.empty()) {
      Holder& holder = holders[random() % holders.size()];
      // Paths share their first blocks and part later.
      const auto depth = static_cast<uint32_t>(holder.blocks.size());
      const Named block(1 + depth * 10 + (depth < 2 ? 0 : depth < 4 ? holder.path % 2 : holder.path));
      if (const auto found = pool.Find(block.name()); found.has_value()) {
        pool.Hold(*found);
        holder.blocks.push_back(*found);
      } else if (pool.n_available() > 0) {
        holder.blocks.push_back(pool.Publish(Take(pool), block.name(), holder.parent));
      } else {
        continue;
      }
      holder.parent = holder.blocks.back();
    }
    if (step % 50 == 0) pool.CheckInvariants();
  }
  for (const Holder& holder : holders) ReleaseAll(pool, holder.blocks);
  EXPECT_EQ(pool.n_available(), 40U);
  pool.CheckInvariants();
}

}  // namespace
}  // namespace longshelf::engine
