#include "engine/verify/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
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

// What fails when a tensor of a taps file is not what it was: exactly the checks named.
void ExpectFailures(const std::string& tensor, size_t begin, const std::vector<uint8_t>& bytes,
                    const std::vector<std::string>& expected) {
  SCOPED_TRACE(tensor);
  VerifyOptions options = Options("micro-odd", "micro-odd.m1.taps");
  options.vectors = CopyWith(options.vectors, tensor, begin, bytes);
  std::ostringstream out;
  const auto passed = Verify(options, out);
  ASSERT_TRUE(passed.ok()) << passed.status();
  EXPECT_FALSE(*passed);
  std::istringstream lines(out.str());
  std::vector<std::string> failed;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("FAIL  ") && line.find("checks passed") == std::string::npos) failed.push_back(line);
  }
  ASSERT_EQ(failed.size(), expected.size()) << out.str();
  for (size_t i = 0; i < failed.size(); ++i) EXPECT_THAT(failed[i], HasSubstr(expected[i]));
}

TEST(Verify, FailsOnJustTheTensorOfATapsFileThatIsWrong) {
  const std::vector<uint8_t> large = {0x20, 0x43};  // BF16 160
  ExpectFailures("cache.0.window", 64, large, {"cache.0.window"});
  ExpectFailures("cache.0.entries", 64, large, {"cache.0.entries"});
  ExpectFailures("cache.0.index_keys", 64, large, {"cache.0.index_keys"});
  ExpectFailures("cache.2.rows", 64, large, {"cache.2.rows"});
  // The last layer's output is also what the head alone reads.
  ExpectFailures("x.4", 64, large, {"layer 3 alone", "head alone"});
  ExpectFailures("logits", 64, {0, 0, 0x20, 0x43}, {"head alone"});
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
