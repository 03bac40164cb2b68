#include "engine/verify/verify.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <vector>

#include "changed_vectors.h"
#include "engine/model/checkpoint.h"
#include "engine/model/model.h"
#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

VerifyOptions Options(const std::string& model, const std::string& vectors) {
  VerifyOptions options;
  options.model_dir = testing::ModelPath(model);
  options.vectors = testing::FixturePath("vectors/" + vectors + ".safetensors");
  options.n_threads = 2;
  return options;
}

bool Passes(const VerifyOptions& options) {
  std::ostringstream out;
  const auto passed = Verify(options, out);
  EXPECT_TRUE(passed.ok()) << passed.status();
  if (passed.ok() && !*passed) std::printf("%s", out.str().c_str());
  return passed.ok() && *passed;
}

// Every vectors file of the repository but the long one, which is a test of its own.
std::vector<std::string> GivenFiles() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(testing::FixturePath("vectors"))) {
    const std::string name = entry.path().stem().string();
    if (!name.ends_with(".70000")) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

class Given : public ::testing::TestWithParam<std::string> {};

TEST_P(Given, VectorsPassInTheirNumerics) {
  const std::string model = GetParam() == "kernels" ? "demo" : GetParam().substr(0, GetParam().find('.'));
  EXPECT_TRUE(Passes(Options(model, GetParam())));
}

INSTANTIATE_TEST_SUITE_P(Verify, Given, ::testing::ValuesIn(GivenFiles()), [](const auto& given) {
  std::string name = given.param;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == '-' || c == '.'; }, '_');
  return name;
});

TEST(Verify, HoldsEveryKernelOfThisMachineToTheSameTaps) {
  ASSERT_FALSE(AvailableKernels().empty());
  for (const std::string& isa : AvailableKernels()) {
    SCOPED_TRACE(isa);
    VerifyOptions options = Options("micro-odd", "micro-odd.m1.taps");
    options.kernels = isa;
    EXPECT_TRUE(Passes(options));
  }
}

TEST(Verify, FailsOnACheckpointWithOneFlippedScale) {
  VerifyOptions options = Options("micro-flash", "micro-flash.m0.129");
  const std::string scale = "layers.2.attn.wkv.scale";
  const std::filesystem::path dir = testing::MakeTempDir("flipped");
  std::filesystem::copy(options.model_dir, dir, std::filesystem::copy_options::recursive);
  for (const auto& entry : std::filesystem::directory_iterator(options.model_dir)) {
    if (entry.path().extension() != ".safetensors") continue;
    const auto file = SafetensorsFile::Open(entry.path());
    ASSERT_TRUE(file.ok());
    if ((*file)->Find(scale) == nullptr) continue;
    ChangedVectors changed(entry.path());
    changed.Change<uint8_t>(scale, [](std::span<uint8_t> v) { v[0] ^= 1U; });
    std::filesystem::copy_file(changed.Write(), dir / entry.path().filename(),
                               std::filesystem::copy_options::overwrite_existing);
  }
  options.model_dir = dir;
  std::ostringstream out;
  const auto passed = Verify(options, out);
  ASSERT_TRUE(passed.ok()) << passed.status();
  EXPECT_FALSE(*passed) << out.str();
}

TEST(Verify, RefusesVectorsOfAnotherModel) {
  for (const auto& [model, vectors] :
       {std::pair("micro-odd", "micro-flash.m0.129"), std::pair("micro-flash", "micro-odd.m1.taps"),
        std::pair("micro-pro", "micro-flash.m1.taps")}) {
    std::ostringstream out;
    const auto passed = Verify(Options(model, vectors), out);
    EXPECT_EQ(passed.status().code(), absl::StatusCode::kInvalidArgument) << model << " with " << vectors;
  }
}

TEST(Verify, DumpsWhatItComputedInTheFormOfTheVectorsFile) {
  VerifyOptions options = Options("micro-flash", "micro-flash.m1.taps");
  options.dump = testing::MakeTempDir("dump") / "taps.safetensors";
  EXPECT_TRUE(Passes(options));
  const auto given = SafetensorsFile::Open(options.vectors);
  const auto dumped = SafetensorsFile::Open(*options.dump);
  ASSERT_TRUE(given.ok() && dumped.ok()) << dumped.status();
  for (const auto& [name, view] : (*given)->tensors()) {
    if (!name.starts_with("x.") && !name.starts_with("cache.") && name != "logits" && name != "tokens") continue;
    const TensorView* ours = (*dumped)->Find(name);
    ASSERT_NE(ours, nullptr) << name;
    EXPECT_EQ(ours->shape, view.shape) << name;
    EXPECT_EQ(ours->dtype, view.dtype) << name;
  }
  // Other kernels on another number of threads give the same file.
  options.dump = testing::MakeTempDir("dump") / "again.safetensors";
  options.n_threads = 1;
  const std::vector<std::string> kernels = AvailableKernels();
  options.kernels = kernels[kernels.size() > 2 ? kernels.size() - 2 : 0];
  EXPECT_TRUE(Passes(options));
  const auto again = SafetensorsFile::Open(*options.dump);
  ASSERT_TRUE(again.ok()) << again.status();
  for (const auto& [name, view] : (*dumped)->tensors()) {
    EXPECT_TRUE(std::ranges::equal((*again)->Find(name)->bytes, view.bytes)) << name;
  }
}

}  // namespace
}  // namespace longshelf::engine
