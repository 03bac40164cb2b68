#include "engine/comm/mpi_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "engine/comm/run_dir.h"
#include "mpi_launch.h"
#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

struct GroupRun {
  testing::LaunchResult result;
  fs::path dir;
};

GroupRun RunGroup(int n, const std::string& scenario, int seconds) {
  const fs::path dir = testing::MakeTempDir("mpi");
  testing::TestProcess mpirun(testing::MpirunLine(n, dir, {scenario}), dir / "output");
  return {mpirun.Wait(seconds), dir};
}

// No rank outlived mpirun.
bool AllGone(const fs::path& dir) {
  for (const RankProcess& process : ReadRankPids(dir)) {
    if (IsAlive(process.id)) return false;
  }
  return true;
}

class UnderMpirun : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Shards, UnderMpirun, ::testing::Values(1, 2, 3, 4));

TEST_P(UnderMpirun, RandomRoutingsArriveInOrderAndSumToTheDirectSumBitForBit) {
  const GroupRun run = RunGroup(GetParam(), "transport", 100);
  EXPECT_EQ(run.result.exit_code, 0) << run.result.output;
}

TEST_P(UnderMpirun, MessagesThatGoStraightToTheirShardsGiveTheDirectSumBitForBit) {
  for (const char* way : {"shared-memory", "messages"}) {
    const GroupRun run = RunGroup(GetParam(), way, 100);
    EXPECT_EQ(run.result.exit_code, 0) << way << ": " << run.result.output;
  }
}

TEST_P(UnderMpirun, ValuesOfEverySizeAreBroadcastAndGathered) {
  const GroupRun run = RunGroup(GetParam(), "collectives", 60);
  EXPECT_EQ(run.result.exit_code, 0) << run.result.output;
  EXPECT_EQ(ReadRankPids(run.dir).size(), static_cast<size_t>(GetParam()));
}

TEST(MpiSession, MoreShardsThanProcessorsGiveThemAwayWhateverTheLauncherBelieves) {
  const fs::path dir = testing::MakeTempDir("mpi");
  const auto n = 4 * static_cast<int>(std::thread::hardware_concurrency());
  testing::TestProcess mpirun(testing::MpirunLine(n, dir, {"barrier"}, /*yields=*/false), dir / "output");
  const testing::LaunchResult result = mpirun.Wait(60);
  EXPECT_EQ(result.exit_code, 0) << result.output;
}

TEST(MpiSession, ShardsThatDifferRefuseToFormAGroup) {
  const GroupRun run = RunGroup(2, "hello", 30);
  EXPECT_NE(run.result.exit_code, 0);
  EXPECT_THAT(run.result.output, HasSubstr("kernel isa is \"avx512\" on shard 0 and \"avx2\" on shard 1"));
}

TEST(MpiSession, AnIdleShardUsesLessThanTwoPercentOfACore) {
  const GroupRun run = RunGroup(3, "idle", 30);
  EXPECT_EQ(run.result.exit_code, 0) << run.result.output;
}

// The shards end themselves at once; that mpirun takes another second is why the supervisor does not wait for it.
class Death : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Ways, Death, ::testing::Values("kill", "exit", "kill-idle", "kill-leader"));

TEST_P(Death, OfOneShardEndsTheWholeGroup) {
  const GroupRun run = RunGroup(3, GetParam(), 30);
  EXPECT_NE(run.result.exit_code, 0);
  EXPECT_FALSE(run.result.timed_out) << run.result.output;
  EXPECT_THAT(run.result.output, HasSubstr("is gone"));
  EXPECT_TRUE(AllGone(run.dir));
  EXPECT_FALSE(ReadRankErrors(run.dir).empty());
}

TEST(MpiSession, AStepWithoutProgressEndsTheGroupAndSaysSo) {
  const auto start = std::chrono::steady_clock::now();
  const GroupRun run = RunGroup(2, "hang", 30);
  EXPECT_NE(run.result.exit_code, 0);
  EXPECT_THAT(run.result.output, HasSubstr("step 1 made no progress for 1000 ms"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  EXPECT_TRUE(AllGone(run.dir));
}

// Two seconds for the long step, one for the deadline, and what mpirun needs; twenty such steps would be forty.
TEST(MpiSession, AStoppedShardIsNoticedByTheSilenceOfItsExchangesHoweverLongStepsAre) {
  const auto start = std::chrono::steady_clock::now();
  const GroupRun run = RunGroup(2, "stop-after-a-long-step", 30);
  EXPECT_FALSE(run.result.timed_out) << run.result.output;
  EXPECT_NE(run.result.exit_code, 0);
  EXPECT_THAT(run.result.output, HasSubstr("step 2 made no progress for 1000 ms"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(15));
  EXPECT_TRUE(AllGone(run.dir));
}

TEST(MpiSession, LeavingDoesNotWaitForAStuckShard) {
  const GroupRun run = RunGroup(2, "hang-at-end", 30);
  EXPECT_NE(run.result.exit_code, 0);
  EXPECT_THAT(run.result.output, HasSubstr("did not leave in time"));
  EXPECT_TRUE(AllGone(run.dir));
}

TEST(MpiSession, RefusesToStartOutsideMpirunAndSaysWhatToDo) {
  MpiSessionOptions options;
  options.run_dir = testing::MakeTempDir("mpi").string();
  options.n_shards = 2;
  const auto session = MpiSession::Start(options);
  EXPECT_EQ(session.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(session.status().message()), HasSubstr("longshelf-worker"));
}

}  // namespace
}  // namespace longshelf::engine
