// Every rule is broken once in a file that otherwise passes, and must fail alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "changed_vectors.h"
#include "engine/model/model.h"
#include "engine/verify/verify.h"
#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::filesystem::path Given(const std::string& name) {
  return testing::FixturePath("vectors/" + name + ".safetensors");
}

std::string Output(const std::string& model, const ChangedVectors& changed) {
  VerifyOptions options;
  options.model_dir = testing::ModelPath(model);
  options.vectors = changed.Write();
  options.n_threads = 2;
  // The judge is what is tested; one set of kernels is enough.
  options.kernels = AvailableKernels().front();
  std::ostringstream out;
  const auto passed = Verify(options, out);
  EXPECT_TRUE(passed.ok()) << passed.status();
  return out.str();
}

// Names of the checks that failed.
std::vector<std::string> Failures(const std::string& model, const ChangedVectors& changed) {
  std::istringstream lines(Output(model, changed));
  std::vector<std::string> failed;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("FAIL  ") && line.find("checks passed") == std::string::npos) {
      failed.push_back(line.substr(6, line.find("  ", 6) - 6));
    }
  }
  return failed;
}

// Rows [begin, end) of a tensor of so many columns.
struct Rows {
  size_t begin;
  size_t end;
  size_t cols;
};

ChangedVectors& Scale(ChangedVectors& changed, const std::string& tensor, const Rows& rows, float factor) {
  return changed.Change<float>(tensor, [&](std::span<float> v) {
    for (size_t i = rows.begin * rows.cols; i < rows.end * rows.cols; ++i) v[i] *= factor;
  });
}

// The last bit of one value per `stride` in each row.
ChangedVectors& FlipLastBits(ChangedVectors& changed, const std::string& tensor, const Rows& rows, size_t stride) {
  return changed.Change<uint16_t>(tensor, [&](std::span<uint16_t> v) {
    for (size_t r = rows.begin; r < rows.end; ++r) {
      for (size_t c = 0; c < rows.cols; c += stride) v[r * rows.cols + c] ^= 1U;
    }
  });
}

std::vector<std::string> FailuresWithOneFlip(const std::string& tensor, const Rows& rows) {
  ChangedVectors changed(Given("micro-odd.m1.taps"));
  return Failures("micro-odd", FlipLastBits(changed, tensor, rows, rows.cols));
}

TEST(Corruption, OfFp32Logits) {
  const auto failures = [](const Rows& rows, float factor) {
    ChangedVectors changed(Given("micro-flash.m0.129"));
    return Failures("micro-flash", Scale(changed, "logits", rows, factor));
  };
  EXPECT_THAT(failures({0, 129, 512}, 1.0001F), ElementsAre("logits median rel"));
  EXPECT_THAT(failures({7, 8, 512}, 1.01F), IsEmpty()) << "one row of 129";
  EXPECT_THAT(failures({7, 9, 512}, 1.01F), ElementsAre("logits rows with rel <= 2e-3"));
  // One row with another largest value is more than 0.5 % of 129, and less than 1 %.
  EXPECT_THAT(failures({7, 8, 512}, -1.0F), ElementsAre("logits top-1 equal"));
  ChangedVectors changed(Given("micro-flash.m0.129"));
  EXPECT_THAT(Failures("micro-flash", Scale(changed, "mtp_logits", {7, 9, 512}, 1.01F)),
              ElementsAre("mtp_logits rows with rel <= 2e-3"));
}

TEST(Corruption, OfARowOfAShortNativeFile) {
  for (const auto& [tensor, row, name] :
       {std::tuple("logits", 1, "logits row 1 rel"), std::tuple("mtp_logits", 0, "mtp_logits row 0 rel")}) {
    ChangedVectors changed(Given("micro-flash.m1.3"));
    const auto begin = static_cast<size_t>(row);
    EXPECT_THAT(Failures("micro-flash", Scale(changed, tensor, {begin, begin + 1, 512}, 1.0011F)), ElementsAre(name));
  }
  // Row 2's figure is 3e-2: what is too much for row 1 is within its noise.
  ChangedVectors changed(Given("micro-flash.m1.3"));
  EXPECT_THAT(Failures("micro-flash", Scale(changed, "logits", {2, 3, 512}, 1.08F)), IsEmpty());
  EXPECT_THAT(Failures("micro-flash", Scale(changed, "logits", {2, 3, 512}, 1.08F)), ElementsAre("logits row 2 rel"));
}

// In one list of figures, after those of the main model's rows.
TEST(Corruption, RowsOfTheMtpLayerAreJudgedByTheirOwnFloors) {
  const auto failures = [](const std::string& tensor, size_t row) {
    ChangedVectors changed(Given("micro-flash.m1.3"));
    changed.SetMetadata("floor_rel_rows", "0 0 1.5e-2 1e-2 0");
    return Failures("micro-flash", Scale(changed, tensor, {row, row + 1, 512}, 1.02F));
  };
  EXPECT_THAT(failures("mtp_logits", 0), IsEmpty());
  EXPECT_THAT(failures("mtp_logits", 1), ElementsAre("mtp_logits row 1 rel"));
  EXPECT_THAT(failures("logits", 0), ElementsAre("logits row 0 rel"));
  EXPECT_THAT(failures("logits", 2), IsEmpty());
}

TEST(Corruption, OfALongNativeFile) {
  ChangedVectors few(Given("micro-odd.m1.129"));
  EXPECT_THAT(Failures("micro-odd", Scale(few, "logits", {0, 10, 640}, -1.0F)), ElementsAre("logits mean KL"));
  // A constant on every logit leaves the distribution alone.
  ChangedVectors shifted(Given("micro-odd.m1.129"));
  shifted.Change<float>("logits", [](std::span<float> v) {
    for (float& x : v) x += 1.0F;
  });
  EXPECT_THAT(Failures("micro-odd", shifted), ElementsAre("logits median rel"));
}

TEST(Corruption, OfTheEmbedding) {
  EXPECT_THAT(FailuresWithOneFlip("x.0", {200, 201, 4 * 384}), ElementsAre("x.0 (embedding)"));
}

// Late rows: no position below 128 sees them.
TEST(Corruption, OfMoreCacheRowsThanMayDiffer) {
  EXPECT_THAT(FailuresWithOneFlip("cache.3.window", {20, 23, 192}), IsEmpty());
  EXPECT_THAT(FailuresWithOneFlip("cache.3.window", {20, 24, 192}), ElementsAre("cache.3.window"));
  EXPECT_THAT(FailuresWithOneFlip("cache.3.rows", {200, 208, 192}), IsEmpty());
  EXPECT_THAT(FailuresWithOneFlip("cache.3.rows", {200, 209, 192}), ElementsAre("cache.3.rows"));
  EXPECT_THAT(FailuresWithOneFlip("cache.1.entries", {50, 64, 192}), ElementsAre("cache.1.entries"));
  EXPECT_THAT(FailuresWithOneFlip("cache.1.index_keys", {60, 67, 128}), ElementsAre("cache.1.index_keys"));
}

TEST(Corruption, OfOneCacheRowByMuch) {
  for (const std::string tensor : {"cache.0.window", "cache.0.rows", "cache.0.entries", "cache.0.index_keys"}) {
    ChangedVectors changed(Given("micro-odd.m1.taps"));
    const auto cols = static_cast<size_t>(changed.ShapeOf(tensor)[1]);
    const auto last = static_cast<size_t>(changed.ShapeOf(tensor)[0]) - 1;
    changed.Change<uint16_t>(tensor, [&](std::span<uint16_t> v) { v[last * cols] = 0x4320; });  // 160
    EXPECT_THAT(Failures("micro-odd", changed), ElementsAre(tensor));
  }
}

TEST(Corruption, OfPositionsWhereNothingDiffersYet) {
  ChangedVectors changed(Given("micro-odd.m1.taps"));
  // About 1e-3 away: far inside what all positions may be.
  FlipLastBits(changed, "x.4", {40, 70, 4 * 384}, 8);
  EXPECT_THAT(Failures("micro-odd", changed), ElementsAre("layer 3 alone, clean"));
}

TEST(Corruption, OfARowThatEveryPositionSees) {
  ChangedVectors changed(Given("micro-odd.m1.taps"));
  for (const char* tensor : {"cache.0.rows", "cache.1.rows"}) FlipLastBits(changed, tensor, {0, 1, 192}, 192);
  EXPECT_THAT(Failures("micro-odd", changed), IsEmpty()) << "two of four layers are left to judge";
  FlipLastBits(changed, "cache.2.rows", {0, 1, 192}, 192);
  EXPECT_THAT(Failures("micro-odd", changed), ElementsAre("layers with enough positions where nothing differs yet"));
}

// The last layer's output is also what the head alone reads.
TEST(Corruption, OfTheTailOfALayer) {
  ChangedVectors changed(Given("micro-odd.m1.taps"));
  changed.Change<uint16_t>("x.4", [](std::span<uint16_t> v) {
    for (size_t i = size_t{200} * 4 * 384; i < size_t{210} * 4 * 384; ++i) v[i] ^= 0x10U;  // an eighth of the value
  });
  EXPECT_THAT(Failures("micro-odd", changed), ElementsAre("layer 3 alone", "head alone"));
}

TEST(Corruption, OfTheIndexersChoice) {
  const auto failures = [](size_t n_positions) {
    ChangedVectors changed(Given("micro-odd.m1.taps"));
    changed.Change<int32_t>("layers.1.attn.indexer", [&](std::span<int32_t> v) {
      // Position 100 sees 25 entries and chooses 20: one that it did not choose instead of the first.
      for (size_t p = 100; p < 100 + n_positions; ++p) {
        const std::span<int32_t> row = v.subspan(p * 20, 20);
        for (int32_t entry = 268; std::ranges::find(row, row[0]) == row.begin() && entry < 293; ++entry) {
          if (std::ranges::find(row, entry) == row.end()) row[0] = entry;
        }
      }
    });
    return Failures("micro-odd", changed);
  };
  EXPECT_THAT(failures(3), IsEmpty());
  EXPECT_THAT(failures(4), ElementsAre("layers.1.attn.indexer"));
}

TEST(Corruption, OfTheHead) {
  ChangedVectors few(Given("micro-odd.m1.taps"));
  EXPECT_THAT(Failures("micro-odd", Scale(few, "logits", {0, 1, 640}, 1.02F)), ElementsAre("head alone"));
  ChangedVectors many(Given("micro-odd.m1.taps"));
  EXPECT_THAT(Failures("micro-odd", Scale(many, "logits", {0, 60, 640}, 1.0001F)), ElementsAre("head alone"));
}

TEST(Corruption, OfCodesScalesAndQuantisedValues) {
  for (const std::string tensor : {"e4m3.code", "e2m1.code", "q8.128.code", "q8.64.code", "q8.128.scale"}) {
    ChangedVectors changed(Given("kernels"));
    changed.Change<uint8_t>(tensor, [](std::span<uint8_t> v) { v[v.size() / 2] ^= 1U; });
    EXPECT_THAT(Failures("demo", changed), ElementsAre(tensor));
  }
  for (const std::string tensor : {"q8.128.value", "q8.64.value", "q4.value"}) {
    ChangedVectors changed(Given("kernels"));
    changed.Change<uint16_t>(tensor, [](std::span<uint16_t> v) { v[v.size() / 2] ^= 1U; });
    EXPECT_THAT(Failures("demo", changed), ElementsAre(tensor));
  }
}

TEST(Corruption, OfRotationsAtOnePosition) {
  for (const std::string tensor :
       {"rope.sliding.cos", "rope.sliding.sin", "rope.compressed.cos", "rope.compressed.sin"}) {
    ChangedVectors changed(Given("kernels"));
    changed.Change<float>(tensor, [](std::span<float> v) { v.back() += 2e-7F; });
    EXPECT_THAT(Failures("demo", changed), ElementsAre(tensor));
  }
}

TEST(Corruption, OfProducts) {
  for (const std::string tensor : {"gemm.y8", "gemm.y4", "attn.out", "hadamard.out"}) {
    ChangedVectors changed(Given("kernels"));
    // Three steps away: ours may itself be one step from the file.
    changed.Change<uint16_t>(tensor, [](std::span<uint16_t> v) { v[v.size() / 2] += 3; });
    EXPECT_THAT(Failures("demo", changed), ElementsAre(tensor));
  }
}

TEST(Corruption, OfATensorThatNobodyJudgesIsSaidToBeUnjudged) {
  ChangedVectors changed(Given("micro-odd.m1.3"));
  const std::string before = Output("micro-odd", changed);
  EXPECT_THAT(before, HasSubstr("PASS  3 of 3 checks passed\n"));
  EXPECT_THAT(before, ::testing::Not(HasSubstr("NOT JUDGED")));
  const std::vector<std::string> of_draft = {"draft.base_logits", "draft.x.0", "cache.mtp.0.window", "main_hidden",
                                             "main_x"};
  for (const std::string& name : of_draft) changed.Add(name, 8);
  const std::string after = Output("micro-odd", changed.Add("another", 8));
  for (const std::string& name : of_draft) {
    EXPECT_THAT(after, HasSubstr("NOT JUDGED  " + name + "  belongs to a draft module; this model has none\n"));
    EXPECT_THAT(after, ::testing::Not(HasSubstr("PASS  " + name)));
  }
  EXPECT_THAT(after, HasSubstr("NOT JUDGED  another  there is no rule for it\n"));
  EXPECT_THAT(after, HasSubstr("PASS  3 of 3 checks passed, 6 tensors not judged\n"));
}

}  // namespace
}  // namespace longshelf::engine
