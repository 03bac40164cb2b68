// Shards that each read a part of a checkpoint agree on one digest, and read nothing of each other's experts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "comm/thread_group.h"
#include "engine/comm/expert_transport.h"
#include "engine/group_digests.h"
#include "engine/model/weights.h"
#include "safetensors_bytes.h"
#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kModel[] = "micro-flash";
constexpr int64_t kExperts = 8;

fs::path CopyOfModel() {
  const fs::path dir = testing::MakeTempDir("weights") / "model";
  fs::copy(testing::ModelPath(kModel), dir, fs::copy_options::recursive);
  return dir;
}

// Overwrites the first byte of a tensor of every file that has it.
void SetFirstByte(const fs::path& dir, const std::string& tensor, char value) {
  int n_found = 0;
  for (const auto& entry : fs::directory_iterator(dir)) {
    if (entry.path().extension() != ".safetensors") continue;
    const std::map<std::string, TensorBytes> tensors = ReadTensorBytes(entry.path());
    const auto found = tensors.find(tensor);
    if (found == tensors.end()) continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(found->second.begin);
    file.put(value);
    ++n_found;
  }
  ASSERT_EQ(n_found, 1) << tensor;
}

struct Loaded {
  absl::Status status;
  Digest digest{};
};

// Each shard of a group loads its part from its directory.
std::vector<Loaded> LoadParts(const std::vector<fs::path>& dirs, WeightsMemory memory = WeightsMemory::kMapped) {
  std::vector<Loaded> out(dirs.size());
  testing::ThreadGroup group(static_cast<int>(dirs.size()));
  group.Run([&](Communicator& communicator) {
    const int rank = communicator.rank();
    GroupDigests digests(communicator);
    LoadOptions options;
    options.memory = memory;
    options.part = WeightsPart{FirstExpertOf(rank, kExperts, communicator.size()),
                               FirstExpertOf(rank + 1, kExperts, communicator.size()), &digests};
    const auto at = static_cast<size_t>(rank);
    const auto weights = LoadModelWeights(dirs[at], nullptr, options);
    out[at].status = weights.status();
    if (weights.ok()) out[at].digest = (*weights)->digest;
  });
  return out;
}

TEST(WeightsPart, HoweverManyShardsReadThemTheDigestIsThatOfTheWhole) {
  const auto whole = LoadModelWeights(testing::ModelPath(kModel), nullptr);
  ASSERT_TRUE(whole.ok()) << whole.status();
  ASSERT_EQ((*whole)->config.n_routed_experts, kExperts);
  for (const WeightsMemory memory : {WeightsMemory::kMapped, WeightsMemory::kHuge}) {
    for (const size_t n : {1U, 2U, 3U, 4U}) {
      for (const Loaded& part : LoadParts(std::vector<fs::path>(n, testing::ModelPath(kModel)), memory)) {
        ASSERT_TRUE(part.status.ok()) << part.status;
        EXPECT_EQ(part.digest, (*whole)->digest) << n << " shards";
      }
    }
  }
}

// Reading a NaN is an error, so whoever does not see it has not read it.
TEST(WeightsPart, AShardDoesNotReadTheExpertsOfOthers) {
  const fs::path bad = CopyOfModel();
  SetFirstByte(bad, "layers.1.ffn.experts.7.w1.scale", '\xFF');
  const fs::path good = testing::ModelPath(kModel);
  for (const Loaded& part : LoadParts({bad, good})) EXPECT_TRUE(part.status.ok()) << part.status;
  // Its owner does.
  const auto whole = LoadModelWeights(bad, nullptr);
  EXPECT_THAT(std::string(whole.status().message()), AllOf(HasSubstr("experts.7.w1.scale"), HasSubstr("NaN")));
}

TEST(WeightsPart, OtherBytesOfWhatAllHoldAreRefusedByEveryShardNamingTheTensor) {
  const fs::path other = CopyOfModel();
  SetFirstByte(other, "layers.1.ffn.shared_experts.w1.weight", '\x01');
  const fs::path good = testing::ModelPath(kModel);
  for (const Loaded& part : LoadParts({good, good, other})) {
    EXPECT_EQ(part.status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(part.status.message()),
                AllOf(HasSubstr("shards 0 and 2"), HasSubstr("layers.1.ffn.shared_experts.w1.weight")));
  }
}

TEST(WeightsPart, AnotherConfigIsRefused) {
  const fs::path other = CopyOfModel();
  std::ifstream in(other / "config.json");
  nlohmann::json config = nlohmann::json::parse(in);
  config["routed_scaling_factor"] = 1.25;
  std::ofstream(other / "config.json") << config;
  for (const Loaded& part : LoadParts({testing::ModelPath(kModel), other})) {
    EXPECT_EQ(part.status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(part.status.message()), HasSubstr("checkpoints differ"));
  }
}

}  // namespace
}  // namespace longshelf::engine
