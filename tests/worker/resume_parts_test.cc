// Any part of what is stored replaced by zeros in the store's memory, under the digest that it had: refused, and
// computed again. That each part would change the logits is shown in tests/engine/model/missing_part_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <span>
#include <string>
#include <vector>

#include "kv_parts.h"
#include "real_worker.h"
#include "testing/fixtures.h"

namespace longshelf::worker {
namespace {

using kvstore::ObjectKey;
using kvstore::ObjectKind;
using ::testing::HasSubstr;

constexpr size_t kTokens = 256 + 90;  // inside a group of every ratio

class ResumePartsTest : public ::testing::TestWithParam<const char*> {
 protected:
  // Flips every bit that is set; false when none was.
  bool Zero(const ObjectKey& key, const engine::KvPart& part) {
    auto reader = store_.store().Get(key, fingerprint_);
    if (!reader.ok()) return false;
    std::vector<std::byte> payload(reader->head().payload_bytes);
    if (!reader->Read(payload).ok()) return false;
    bool was_set = false;
    for (const auto& [offset, n] : part.ranges) {
      for (size_t bit = 8 * offset; bit < 8 * (offset + n); ++bit) {
        if ((payload[bit / 8] >> (bit % 8) & std::byte{1}) == std::byte{0}) continue;
        was_set = store_.store().FlipBitForTest(key, bit) || was_set;
      }
    }
    return was_set;
  }

  // With the part gone, and all others as they were.
  void ExpectRefused(const ObjectKey& key, const engine::KvPart& part) {
    SCOPED_TRACE(part.name);
    ASSERT_TRUE(parker_.Park(parked_).ok());
    ASSERT_TRUE(Zero(key, part));
    RealWorker fresh(weights_, store_.address());
    const Generated again = fresh.Generate({.prompt = prompt_});
    // An earlier one may have left a state at the end of the block.
    EXPECT_LE(again.started.n_cached_store(), key.kind == ObjectKind::kBlock ? 0U : 256U);
    EXPECT_EQ(again.started.miss_reason(), "digest_mismatch");
    EXPECT_THAT(fresh.metrics(), HasSubstr("longshelf_worker_restore_failures_total{reason=\"digest_mismatch\"} 1\n"));
    ExpectSame(again, whole_);
  }

  const std::shared_ptr<const engine::ModelWeights> weights_ = WeightsOf(GetParam());
  const engine::KvLayout layout_{weights_->config, engine::Numerics::kNative};
  RealStore store_{uint64_t{64} << 20};
  RealWorker parker_{weights_, store_.address()};
  const kvstore::Fingerprint fingerprint_ = parker_.fingerprint();
  const std::vector<uint32_t> parked_ = RandomTokens(weights_->config, kTokens, 5);
  const std::vector<uint32_t> prompt_ = With(parked_, RandomTokens(weights_->config, 7, 6));
  Generated whole_;
};

TEST_P(ResumePartsTest, ZerosInThePlaceOfAnyPartAreRefusedAndComputedAgain) {
  {
    RealWorker alone(weights_, "");
    whole_ = alone.Generate({.prompt = prompt_});
  }
  parker_.Generate({.prompt = parked_, .max_tokens = 1});
  const ObjectKey block{StoredKey(parker_, parked_, 256), ObjectKind::kBlock};
  const ObjectKey state{StoredKey(parker_, parked_, kTokens), ObjectKind::kCheckpoint};
  const std::vector<engine::KvPart> in_block = engine::PartsOfBlock(layout_);
  ASSERT_EQ(in_block.size(), layout_.components().size());
  for (const engine::KvPart& part : in_block) ASSERT_NO_FATAL_FAILURE(ExpectRefused(block, part));
  for (const engine::KvPart& part : engine::PartsOfState(layout_, weights_->config, kTokens)) {
    ASSERT_NO_FATAL_FAILURE(ExpectRefused(state, part));
  }
}

// Flipped, and gone: the restore goes as far as it can, and the rest is computed.
TEST_P(ResumePartsTest, WhicheverBlockFailsTheAnswerIsThatOfAWorkerThatComputedAllOfIt) {
  constexpr size_t kBlocks = 5;
  const auto parked = RandomTokens(weights_->config, 256 * kBlocks + 90, 8);
  const auto prompt = With(parked, RandomTokens(weights_->config, 7, 9));
  RealWorker alone(weights_, "");
  const Generated whole = alone.Generate({.prompt = prompt});
  parker_.Generate({.prompt = parked, .max_tokens = 1});
  for (const bool is_gone : {false, true}) {
    for (size_t i = 0; i < kBlocks; ++i) {
      SCOPED_TRACE(::testing::Message() << "block " << i << (is_gone ? " gone" : " flipped"));
      ASSERT_TRUE(parker_.Park(parked).ok());
      const ObjectKey key{StoredKey(parker_, prompt, 256 * (i + 1)), ObjectKind::kBlock};
      if (is_gone) {
        ASSERT_EQ(store_.store().Drop(std::span(&key, 1)).n_dropped, 1U);
      } else {
        ASSERT_TRUE(store_.store().FlipBitForTest(key, 999));
      }
      RealWorker fresh(weights_, store_.address());
      const Generated again = fresh.Generate({.prompt = prompt});
      EXPECT_LE(again.started.n_cached_store(), 256 * i) << "not behind the hole";
      ExpectSame(again, whole);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ResumePartsTest, ::testing::Values("micro-flash", "micro-pro"),
                         [](const auto& parameter) { return testing::TestNameOf(parameter.param); });

}  // namespace
}  // namespace longshelf::worker
