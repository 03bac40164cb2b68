#include "engine/verify/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <sstream>
#include <vector>

#include "engine/model/checkpoint.h"
#include "engine/model/model.h"
#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

using ::testing::HasSubstr;

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

// A copy of a vectors file with some bytes of one tensor changed.
std::filesystem::path CopyWith(const std::filesystem::path& from, const std::string& tensor, size_t begin,
                               const std::vector<uint8_t>& bytes) {
  const auto file = SafetensorsFile::Open(from);
  EXPECT_TRUE(file.ok()) << file.status();
  std::map<std::string, std::vector<uint8_t>> data;
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, view] : (*file)->tensors()) {
    std::vector<uint8_t>& copy = data[name];
    copy.assign(view.bytes.begin(), view.bytes.end());
    if (name == tensor) std::memcpy(copy.data() + begin, bytes.data(), bytes.size());
    tensors.push_back({name, view.dtype, view.shape, copy});
  }
  const std::filesystem::path to = testing::MakeTempDir("verify") / from.filename();
  const auto& metadata = (*file)->metadata();
  EXPECT_TRUE(WriteSafetensors(to, tensors, {metadata.begin(), metadata.end()}).ok());
  return to;
}

class Given : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(Given, VectorsPassInTheirNumerics) { EXPECT_TRUE(Passes(Options(GetParam().first, GetParam().second))); }

INSTANTIATE_TEST_SUITE_P(
    Verify, Given,
    ::testing::Values(std::pair("micro-flash", "micro-flash.m0.3"), std::pair("micro-flash", "micro-flash.m0.129"),
                      std::pair("micro-flash", "micro-flash.m1.taps"), std::pair("micro-pro", "micro-pro.m0.3"),
                      std::pair("micro-pro", "micro-pro.m0.129"), std::pair("micro-odd", "micro-odd.m0.3"),
                      std::pair("micro-odd", "micro-odd.m0.129"), std::pair("micro-odd", "micro-odd.m1.taps"),
                      std::pair("micro-flash", "micro-flash.m1.3"), std::pair("micro-pro", "micro-pro.m1.3"),
                      std::pair("micro-odd", "micro-odd.m1.3"), std::pair("demo", "demo.m1.3"),
                      std::pair("demo", "demo.m0.3"), std::pair("demo", "demo.m1.200"), std::pair("demo", "kernels")));

TEST(Verify, HoldsEveryKernelOfThisMachineToTheSameTaps) {
  ASSERT_FALSE(AvailableKernels().empty());
  for (const std::string& isa : AvailableKernels()) {
    SCOPED_TRACE(isa);
    VerifyOptions options = Options("micro-odd", "micro-odd.m1.taps");
    options.kernel_isa = isa;
    EXPECT_TRUE(Passes(options));
  }
}

TEST(Verify, FailsOnOneWrongRow) {
  for (const char* vectors : {"micro-flash.m0.3", "micro-flash.m1.3"}) {
    SCOPED_TRACE(vectors);
    VerifyOptions options = Options("micro-flash", vectors);
    const std::vector<uint8_t> wrong = {0, 0, 0x20, 0x41};  // 10.0
    options.vectors = CopyWith(options.vectors, "logits", 512 * 4 + 40, wrong);
    std::ostringstream out;
    const auto passed = Verify(options, out);
    ASSERT_TRUE(passed.ok()) << passed.status();
    EXPECT_FALSE(*passed) << out.str();
    EXPECT_THAT(out.str(), HasSubstr("FAIL"));
  }
}

TEST(Verify, FailsOnACheckpointWithOneFlippedScale) {
  VerifyOptions options = Options("micro-flash", "micro-flash.m0.129");
  const std::filesystem::path dir = testing::MakeTempDir("flipped");
  std::filesystem::copy(options.model_dir, dir, std::filesystem::copy_options::recursive);
  for (const auto& entry : std::filesystem::directory_iterator(options.model_dir)) {
    if (entry.path().extension() != ".safetensors") continue;
    const auto file = SafetensorsFile::Open(entry.path());
    ASSERT_TRUE(file.ok());
    const TensorView* scale = (*file)->Find("layers.2.attn.wkv.scale");
    if (scale == nullptr) continue;
    const auto flipped = static_cast<uint8_t>(scale->bytes[0] ^ 1U);
    std::filesystem::copy_file(CopyWith(entry.path(), "layers.2.attn.wkv.scale", 0, {flipped}),
                               dir / entry.path().filename(), std::filesystem::copy_options::overwrite_existing);
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
  // The dump is a vectors file itself, and one the engine agrees with entirely.
  options.vectors = *options.dump;
  options.dump.reset();
  EXPECT_TRUE(Passes(options));
}

}  // namespace
}  // namespace longshelf::engine
