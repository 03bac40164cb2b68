#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "mpi_launch.h"
#include "testing/fixtures.h"

namespace longshelf {
namespace {

std::string ReadAll(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Everything the models of tests/fixtures and the demo model compute for five sequences, in native and fp32 numerics.
std::string Compute(int n_shards, const std::string& way, const std::string& placement, int n_microbatches) {
  const auto dir = testing::MakeTempDir("logits");
  const std::string output = (dir / "results").string();
  std::vector<std::string> line = {output, way, placement, std::to_string(n_microbatches)};
  if (n_shards > 1) {
    line = testing::MpirunLine(n_shards, dir, line);
  } else {
    line.insert(line.begin(), {LONGSHELF_TEST_SHARD, dir.string()});
  }
  testing::TestProcess group(line, dir / "output");
  const testing::LaunchResult result = group.Wait(280);
  EXPECT_EQ(result.exit_code, 0) << n_shards << " shards: " << result.output;
  return ReadAll(output);
}

TEST(
    ShardGroupLogits,
    AnyNumberOfShardsGivesTheBitsOfOneForEveryFixtureModelInBothNumericsHoweverRowsTravelWhereverExpertsLieAndInMicrobatches) {
  const std::string one = Compute(1, "", "even", 1);
  ASSERT_GT(one.size(), size_t{1} << 20);
  struct Setting {
    int n_shards;
    const char* way;
    const char* placement;
    int n_microbatches;
  };
  for (const Setting& s :
       {Setting{2, "chosen", "even", 1}, Setting{3, "chosen", "even", 2}, Setting{4, "chosen", "even", 2},
        Setting{8, "chosen", "even", 1}, Setting{3, "streamed", "even", 2}, Setting{3, "pushed", "even", 1},
        Setting{3, "pulled", "even", 2}, Setting{3, "messages", "even", 1}, Setting{3, "baseline", "even", 2},
        Setting{2, "streamed", "scattered", 1}, Setting{3, "pushed", "scattered", 2},
        Setting{4, "pulled", "scattered", 1}, Setting{8, "messages", "scattered", 2}, Setting{2, "pulled", "copied", 2},
        Setting{3, "messages", "copied", 2}, Setting{4, "baseline", "copied", 1},
        Setting{8, "streamed", "copied", 2}}) {
    // No EXPECT_EQ: a failure would print megabytes.
    EXPECT_TRUE(Compute(s.n_shards, s.way, s.placement, s.n_microbatches) == one)
        << s.n_shards << " shards, rows " << s.way << ", experts " << s.placement << ", microbatches "
        << s.n_microbatches;
  }
}

}  // namespace
}  // namespace longshelf
