#include "launch_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace longshelf::worker {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsSupersetOf;
using ::testing::Not;

LaunchInput Input(int n_shards) {
  return {.n_shards = n_shards,
          .mpirun = "mpirun",
          .shard_binary = "/opt/longshelf-shard",
          .run_dir = "/run/r",
          .shm_dir = "/dev/shm/s",
          .tmp_dir = "/run/t",
          .generation = 4,
          .supervisor_pid = 77,
          .shard_flags = {"--model=/m"},
          .environment = {"PATH=/bin", "OMPI_COMM_WORLD_RANK=1", "PMIX_RANK=1", "OMPIX=stays"}};
}

TEST(LaunchLine, OneShardIsStartedWithoutMpirun) {
  const CommandLine line = MakeLaunchLine(Input(1));
  EXPECT_THAT(line.argv, ElementsAre("/opt/longshelf-shard", "--model=/m", "--shards=1", "--run-dir=/run/r",
                                     "--generation=4", "--supervisor-pid=77"));
}

TEST(LaunchLine, MoreShardsShareTheMachineAndLeaveEverythingInPrivateDirectories) {
  const CommandLine line = MakeLaunchLine(Input(3));
  EXPECT_EQ(line.argv[0], "mpirun");
  EXPECT_THAT(line.argv, IsSupersetOf({"--oversubscribe", "--bind-to", "none", "mpi_yield_when_idle", "self,vader",
                                       "/dev/shm/s", "/run/t", "-np", "3", "--shards=3"}));
  EXPECT_THAT(line.argv, Not(Contains("btl_vader_single_copy_mechanism")));
}

TEST(LaunchLine, TheEnvironmentOfAnOuterMpiJobIsTakenOut) {
  EXPECT_THAT(MakeLaunchLine(Input(2)).environment, ElementsAre("PATH=/bin", "OMPIX=stays"));
}

TEST(LaunchLine, RootIsConfirmedToMpirunOnlyForRoot) {
  LaunchInput input = Input(2);
  input.is_root = true;
  EXPECT_THAT(MakeLaunchLine(input).environment, Contains("OMPI_ALLOW_RUN_AS_ROOT=1"));
  input.n_shards = 1;
  EXPECT_THAT(MakeLaunchLine(input).environment, Not(Contains("OMPI_ALLOW_RUN_AS_ROOT=1")));
}

TEST(LaunchLine, WhereSiblingsCannotBeReadMpiIsToldSo) {
  LaunchInput input = Input(2);
  input.can_read_siblings = false;
  EXPECT_THAT(MakeLaunchLine(input).argv, Contains("btl_vader_single_copy_mechanism"));
}

}  // namespace
}  // namespace longshelf::worker
