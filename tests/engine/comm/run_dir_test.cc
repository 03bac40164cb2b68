#include "engine/comm/run_dir.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

TEST(RunDir, AProcessIsFoundByPidAndStartTime) {
  const auto self = FindProcess(getpid());
  ASSERT_TRUE(self.has_value());
  EXPECT_TRUE(IsAlive(*self));
  ProcessId recycled = *self;
  ++recycled.start_ticks;
  EXPECT_FALSE(IsAlive(recycled));
}

TEST(RunDir, RankPidsComeBackInRankOrderAndForeignFilesAreSkipped) {
  const auto dir = testing::MakeTempDir("run");
  ASSERT_TRUE(WriteRankPid(dir, 2, getpid()).ok());
  ASSERT_TRUE(WriteRankPid(dir, 0, getpid()).ok());
  std::ofstream(dir / "rank-7.pid") << "half";
  std::ofstream(dir / "rank-x.pid") << "1 2";
  std::ofstream(dir / "rank-99999.pid") << getpid() << " 2\n";
  const auto pids = ReadRankPids(dir);
  ASSERT_EQ(pids.size(), 2U);
  EXPECT_EQ(pids[0].rank, 0);
  EXPECT_EQ(pids[1].rank, 2);
  EXPECT_TRUE(IsAlive(pids[1].id));
}

TEST(RunDir, ErrorsAndReadinessAreFiles) {
  const auto dir = testing::MakeTempDir("run");
  EXPECT_FALSE(IsReady(dir));
  ASSERT_TRUE(WriteReady(dir).ok());
  EXPECT_TRUE(IsReady(dir));
  WriteRankError(dir, 1, "the tensor is missing");
  const auto errors = ReadRankErrors(dir);
  ASSERT_EQ(errors.size(), 1U);
  EXPECT_EQ(errors[0].rank, 1);
  EXPECT_EQ(errors[0].reason, "the tensor is missing");
}

}  // namespace
}  // namespace longshelf::engine
