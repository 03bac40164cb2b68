// Every length at which something in a sequence's memory begins or ends, each way in which it can be resumed, whole
// workers and a real store: the logits are those of a worker that computed everything, to the bit.
//
// The longest take as long as all others together and are run only when they are asked for:
//
//   LONGSHELF_RESUME_ALL=1 worker_resume_matrix_test
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "real_worker.h"
#include "testing/fixtures.h"

namespace longshelf::worker {
namespace {

constexpr size_t kSuffix = 12;
constexpr size_t kAlways = 2049;  // and what is shorter

class ResumeMatrixTest : public ::testing::TestWithParam<std::tuple<const char*, size_t>> {
 protected:
  void SetUp() override {
    if (n_ > kAlways && std::getenv("LONGSHELF_RESUME_ALL") == nullptr)
      GTEST_SKIP() << "LONGSHELF_RESUME_ALL is not set";
  }

  // A worker that knows nothing.
  std::unique_ptr<RealWorker> Fresh(int n_shards = 1) {
    return std::make_unique<RealWorker>(weights_, store_.address(),
                                        [n_shards](ShardConfig& config) { config.n_shards = n_shards; });
  }

  // What a worker without a store says that computes all of it, in chunks of another length.
  Generated Computed(const std::vector<uint32_t>& prompt) const {
    RealWorker alone(weights_, "", [](ShardConfig& config) { config.step_token_budget = 100; });
    return alone.Generate({.prompt = prompt});
  }

  const size_t n_ = std::get<1>(GetParam());
  const std::shared_ptr<const engine::ModelWeights> weights_ = WeightsOf(std::get<0>(GetParam()));
  const std::vector<uint32_t> prompt_ = RandomTokens(weights_->config, n_, static_cast<uint32_t>(n_));
  const std::vector<uint32_t> longer_ = With(prompt_, RandomTokens(weights_->config, kSuffix, 77));
  RealStore store_{uint64_t{128} << 20};
};

TEST_P(ResumeMatrixTest, HoweverItIsResumedTheLogitsAreThoseOfAWorkerThatComputedAllOfIt) {
  Generated first;
  kvstore::Fingerprint fingerprint{};
  std::vector<kvstore::BlockKey> blocks;
  {
    const auto began = Fresh();
    first = began->Generate({.prompt = prompt_});
    ASSERT_GE(first.tokens.size(), 2U);
    const auto parked = began->Park(prompt_);
    ASSERT_TRUE(parked.ok()) << parked.status();
    fingerprint = began->fingerprint();
    for (size_t end = 256; end <= longer_.size(); end += 256) blocks.push_back(StoredKey(*began, longer_, end));
  }
  const Generated whole = Computed(longer_);
  {
    SCOPED_TRACE("parked just there");
    const Generated again = Fresh()->Generate({.prompt = prompt_, .committed = {first.tokens[0]}});
    EXPECT_EQ(again.started.n_cached_store(), n_);
    ExpectSame(again, first, 1);
  }
  for (const int n_shards : {1, 2}) {
    SCOPED_TRACE(::testing::Message() << "a checkpoint and more tokens, shards: " << n_shards);
    if (n_shards > 1 && n_ % 128 != 1) continue;
    const Generated again = Fresh(n_shards)->Generate({.prompt = longer_});
    EXPECT_EQ(again.started.n_cached_store(), n_);
    ExpectSame(again, whole);
  }
  SCOPED_TRACE("blocks alone");
  const size_t n_replay = static_cast<size_t>(weights_->config.n_layers * weights_->config.window);
  ASSERT_GT(store_.DropCheckpoints(fingerprint, blocks), 0);
  const Generated again = Fresh()->Generate({.prompt = longer_});
  if (const size_t n_in_blocks = n_ / 256 * 256; n_in_blocks > n_replay) {
    EXPECT_GE(again.started.n_cached_store(), n_in_blocks - n_replay);
  }
  EXPECT_LT(again.started.n_cached_store(), n_);
  EXPECT_EQ(again.started.n_cached_local(), 0);
  ExpectSame(again, whole);
}

std::string NameOf(const ::testing::TestParamInfo<ResumeMatrixTest::ParamType>& info) {
  return testing::TestNameOf(std::get<0>(info.param)) + "_" + std::to_string(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(All, ResumeMatrixTest,
                         ::testing::Combine(::testing::Values("micro-flash", "micro-pro"),
                                            ::testing::Values(1, 3, 4, 5, 7, 8, 127, 128, 129, 130, 131, 132, 133, 255,
                                                              256, 257, 383, 384, 385, 511, 512, 513, 1023, 1024, 1025,
                                                              2047, 2048, 2049, 4095, 4096, 4097)),
                         NameOf);

}  // namespace
}  // namespace longshelf::worker
