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
          .generation = 4,
          .hosts = {},
          .daemon_port = 7320,
          .shard_port_begin = 7340,
          .shard_port_end = 7398,
          .shard_flags = {"--model=/m"},
          .environment = {"PATH=/bin", "OMPI_COMM_WORLD_RANK=1", "PMIX_RANK=1", "SLURM_JOBID=5",
                          "SLURM_NODELIST=n[1-2]", "SLURM_CONF=/s.conf", "OMPIX=stays"}};
}

TEST(LaunchLine, OneShardIsStartedWithoutMpirun) {
  const CommandLine line = MakeLaunchLine(Input(1));
  EXPECT_THAT(line.argv, ElementsAre("/opt/longshelf-shard", "--model=/m", "--shards=1", "--generation=4"));
}

TEST(LaunchLine, MoreShardsOfOneMachineUseSharedMemoryAndOnePort) {
  const CommandLine line = MakeLaunchLine(Input(3));
  EXPECT_EQ(line.argv[0], "mpirun");
  EXPECT_THAT(line.argv, IsSupersetOf({"--oversubscribe", "--bind-to", "none", "mpi_yield_when_idle", "self,vader",
                                       "oob_tcp_dynamic_ipv4_ports", "oob_tcp_dynamic_ipv6_ports", "7320", "-np", "3",
                                       "--shards=3"}));
  EXPECT_THAT(line.argv, Not(Contains("--host")));
  EXPECT_THAT(line.argv, Not(Contains("btl_vader_single_copy_mechanism")));
}

TEST(LaunchLine, SeveralHostsAreReachedThroughTheAgentAndTheNamedNetworkAndPortsOnly) {
  LaunchInput input = Input(4);
  input.hosts = {.names = {"10.0.0.1", "10.0.0.2"},
                 .shards_per_host = 2,
                 .network = "10.0.0.0/24",
                 .launch_agent = "/opt/longshelf-host connect /run/r/launch-request",
                 .link_listen = "10.0.0.1:7399",
                 .store_link_listen = "10.0.0.1:7398"};
  const CommandLine line = MakeLaunchLine(input);
  EXPECT_THAT(line.argv,
              IsSupersetOf({"10.0.0.1:2,10.0.0.2:2", "slot", "--leave-session-attached", "self,vader,tcp",
                            "btl_tcp_if_include", "oob_tcp_if_include", "10.0.0.0/24", "btl_tcp_port_min_v4", "7340",
                            "btl_tcp_port_range_v4", "58", "/opt/longshelf-host connect /run/r/launch-request",
                            "--link-listen=10.0.0.1:7399", "--store-link-listen=10.0.0.1:7398"}));
}

TEST(LaunchLine, TheEnvironmentOfAnOuterJobIsTakenOut) {
  EXPECT_THAT(MakeLaunchLine(Input(2)).environment, ElementsAre("PATH=/bin", "SLURM_CONF=/s.conf", "OMPIX=stays"));
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
