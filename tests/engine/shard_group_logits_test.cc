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
std::string Compute(int n_shards, const std::string& way, const std::string& placement = "even") {
  const auto dir = testing::MakeTempDir("logits");
  const std::string output = (dir / "results").string();
  std::vector<std::string> line = {LONGSHELF_TEST_SHARD, dir.string(), output, way, placement};
  if (n_shards > 1) line = testing::MpirunLine(n_shards, dir, {output, way, placement});
  testing::TestProcess group(line, dir / "output");
  const testing::LaunchResult result = group.Wait(280);
  EXPECT_EQ(result.exit_code, 0) << n_shards << " shards: " << result.output;
  return ReadAll(output);
}

TEST(ShardGroupLogits,
     AnyNumberOfShardsGivesTheBitsOfOneForEveryFixtureModelInBothNumericsHoweverRowsTravelAndWhereverExpertsLie) {
  const std::string one = Compute(1, "");
  ASSERT_GT(one.size(), size_t{1} << 20);
  // No EXPECT_EQ: a failure would print megabytes.
  for (const int n_shards : {2, 3, 4, 8}) {
    EXPECT_TRUE(Compute(n_shards, "chosen") == one) << n_shards << " shards differ from one";
  }
  for (const char* way : {"streamed", "pushed", "pulled", "messages", "baseline"}) {
    EXPECT_TRUE(Compute(3, way) == one) << way;
  }
  struct Setting {
    int n_shards;
    const char* way;
    const char* placement;
  };
  for (const Setting& s :
       {Setting{2, "streamed", "scattered"}, Setting{3, "pushed", "scattered"}, Setting{4, "pulled", "scattered"},
        Setting{8, "messages", "scattered"}, Setting{2, "pulled", "copied"}, Setting{3, "messages", "copied"},
        Setting{4, "baseline", "copied"}, Setting{8, "streamed", "copied"}}) {
    EXPECT_TRUE(Compute(s.n_shards, s.way, s.placement) == one)
        << s.n_shards << " shards, rows " << s.way << ", experts " << s.placement;
  }
}

}  // namespace
}  // namespace longshelf
