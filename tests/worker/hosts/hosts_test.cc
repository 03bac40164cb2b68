// One group over machines that are network namespaces: it forms, computes what one machine computes, and says what is
// wrong when it cannot form.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>

#include "cluster_of_hosts.h"
#include "longshelf/v1/host.grpc.pb.h"
#include "proto/internal_auth.h"
#include "testing/fixtures.h"
#include "worker_stream.h"

namespace longshelf::worker {
namespace {

using std::chrono::seconds;
using testing::ClusterOfHosts;
using testing::Generate;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::NetHosts;
using testing::Outcome;
using testing::SupervisedWorker;

// What one shard on this machine generates.
std::vector<uint32_t> Expected() {
  SupervisedWorker worker(testing::MakeTempDir("shards"), LONGSHELF_TEST_SHARD,
                          {"--model=" + testing::ModelPath("demo").string(), "--kv-memory=32MiB"});
  EXPECT_TRUE(worker.WaitServing(1, 1, seconds(60)).has_value()) << worker.log();
  return Generate(ServingAddress(worker, 1)).tokens;
}

// Makes hosts, or leaves the test with the reason that this machine gives.
#define MAKE_HOSTS_OR_SKIP(name, n)    \
  std::string why;                     \
  auto name = NetHosts::Make(n, &why); \
  if (name == nullptr) GTEST_SKIP() << why

TEST(Hosts, TwoHostsAndFourGiveTheTokensOfOneShardAndLeaveNothingBehind) {
  const std::vector<uint32_t> expected = Expected();
  ASSERT_FALSE(expected.empty());
  struct Shape {
    int n_hosts;
    int shards_per_host;
    const char* microbatches;
  };
  for (const Shape shape : {Shape{2, 1, "1"}, Shape{2, 2, "2"}, Shape{4, 1, "auto"}}) {
    MAKE_HOSTS_OR_SKIP(hosts, shape.n_hosts);
    ClusterOfHosts cluster(std::move(hosts), shape.shards_per_host,
                           {std::string("--microbatches=") + shape.microbatches, "--admin-listen=127.0.0.1:7301"});
    ASSERT_TRUE(cluster.WaitServing(1)) << cluster.Logs();
    const Outcome outcome = Generate(cluster.Address(1), testing::kHostToken);
    ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message() << cluster.Logs();
    EXPECT_EQ(outcome.tokens, expected) << shape.n_hosts << " hosts of " << shape.shards_per_host;
    if (shape.microbatches == std::string("2")) {
      const std::string counted =
          "curl -sf http://127.0.0.1:7301/metrics | grep -q '^longshelf_worker_expert_second_exchanges_total[^ ]* "
          "[1-9]'";
      EXPECT_EQ(cluster.hosts().RunOn(0, {"sh", "-c", counted}), 0) << "no step was split";
    }
    const std::vector<engine::ProcessId> group = cluster.Processes();
    cluster.worker().Signal(SIGTERM);
    EXPECT_EQ(cluster.worker().WaitExit(seconds(15)), 0) << cluster.Logs();
    EXPECT_TRUE(testing::TimeUntilGone(group, seconds(5)).has_value()) << cluster.Logs();
    for (int h = 1; h < shape.n_hosts; ++h) {
      cluster.agent(h).Signal(SIGTERM);
      EXPECT_EQ(cluster.agent(h).WaitExit(seconds(10)), 0) << cluster.Logs();
    }
    EXPECT_THAT(cluster.Leftovers(), IsEmpty());
  }
}

TEST(Hosts, ASlowAndLossyLinkChangesNothingAndKillsNobody) {
  MAKE_HOSTS_OR_SKIP(hosts, 2);
  // 100 Mbit/s with a queue of 20 ms, and one packet in 200 is lost.
  for (const int h : {0, 1}) {
    const std::string steps =
        "tc qdisc add dev eth0 root tbf rate 100mbit burst 64kb latency 20ms && nft add table inet loss && "
        "nft add chain inet loss out '{ type filter hook output priority 0; }' && "
        "nft add rule inet loss out oifname eth0 numgen random mod 200 == 0 drop";
    ASSERT_EQ(hosts->RunOn(h, {"sh", "-c", steps}), 0);
  }
  ClusterOfHosts cluster(std::move(hosts), 1, {"--microbatches=2"});
  ASSERT_TRUE(cluster.WaitServing(1)) << cluster.Logs();
  const Outcome outcome = Generate(cluster.Address(1), testing::kHostToken);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message() << cluster.Logs();
  EXPECT_EQ(outcome.tokens, Expected());
  EXPECT_THAT(cluster.worker().log(), Not(HasSubstr("generation 2")));
}

TEST(Hosts, OnlyTheNamedPortsAreListenedOn) {
  MAKE_HOSTS_OR_SKIP(hosts, 2);
  ClusterOfHosts cluster(std::move(hosts), 2, {"--mpi-ports=7500-7520"});
  ASSERT_TRUE(cluster.WaitServing(1)) << cluster.Logs();
  const std::string file = testing::MakeTempDir("ports") / "ports";
  for (const int h : {0, 1}) {
    ASSERT_EQ(cluster.hosts().RunOn(h, {"sh", "-c", "ss -Hltn > " + file}), 0);
    std::ifstream in(file);
    std::string state;
    std::string queue;
    std::string local;
    for (std::string peer; in >> state >> queue >> queue >> local >> peer;) {
      const int port = std::stoi(local.substr(local.rfind(':') + 1));
      const bool is_ours = port == 7300 || port == 7310 || (port >= 7500 && port <= 7520);
      EXPECT_TRUE(is_ours || local.starts_with("127.0.0.1:")) << local << " on host " << h;
    }
  }
}

TEST(Hosts, AHostWithoutAnAgentIsNamedAndTheGroupFormsOnceItIsThere) {
  MAKE_HOSTS_OR_SKIP(hosts, 2);
  ClusterOfHosts cluster(std::move(hosts), 1, {"--start-timeout=4s", "--failed-starts-max=1000"});
  cluster.agent(1).Signal(SIGKILL);
  const std::string missing = cluster.hosts().address(1) + ":7310";
  const auto deadline = std::chrono::steady_clock::now() + seconds(30);
  while (cluster.worker().log().find("no longshelf-host answers at " + missing) == std::string::npos) {
    ASSERT_LT(std::chrono::steady_clock::now(), deadline) << cluster.Logs();
    std::this_thread::yield();
  }
  cluster.StartAgent(1);
  EXPECT_TRUE(cluster.WaitServing(2)) << cluster.Logs();
}

// Exit code and log of a longshelf-worker that cannot start.
std::string LogOfRefused(const NetHosts& hosts, std::vector<std::string> flags) {
  const auto dir = testing::MakeTempDir("refused");
  flags.insert(flags.end(), {"--model=" + testing::ModelPath("demo").string(), "--failed-starts-max=1"});
  SupervisedWorker worker(dir, hosts.On(0, testing::WorkerCommand(LONGSHELF_TEST_SHARD, flags)));
  EXPECT_NE(worker.WaitExit(seconds(20)).value_or(0), 0);
  return worker.log();
}

TEST(Hosts, WhatDoesNotHoldOnThisMachineIsSaid) {
  MAKE_HOSTS_OR_SKIP(hosts, 2);
  const std::string here = hosts->address(0);
  const std::string there = hosts->address(1);
  EXPECT_THAT(LogOfRefused(*hosts, {"--hosts=" + there + "," + here}),
              AllOf(HasSubstr("--hosts begins with " + there), HasSubstr("eth0 " + here + "/24"),
                    HasSubstr("start longshelf-worker on the first host")));
  EXPECT_THAT(LogOfRefused(*hosts, {"--hosts=" + hosts->list(), "--mpi-network=10.1.0.0/16"}),
              AllOf(HasSubstr("no interface of this machine is in it"), HasSubstr("bridge0 172.17.0.1/16")));
  EXPECT_THAT(LogOfRefused(*hosts, {"--hosts=" + here + ",no-such-host.invalid"}),
              HasSubstr("no-such-host.invalid has no IPv4 address"));
  EXPECT_THAT(LogOfRefused(*hosts, {"--hosts=" + hosts->list(), "--mpi-ports=7320-7321"}),
              HasSubstr("give a range of at least 16"));
  EXPECT_THAT(LogOfRefused(*hosts, {"--hosts=" + hosts->list(), "--mpi-network=fd00::/64"}),
              HasSubstr("--mpi-network is \"fd00::/64\", and a group over hosts needs IPv4 between them"));
  const auto names = testing::MakeTempDir("names") / "hosts";
  std::ofstream(names) << "fd00::2 six.example\n";
  hosts->RunBehind(0, {"sh", "-c", "mount --bind " + names.string() + " /etc/hosts; exec \"$@\"", "sh"});
  EXPECT_THAT(LogOfRefused(*hosts, {"--hosts=" + here + ",six.example"}),
              HasSubstr("six.example has IPv6 addresses only, and a group over hosts needs IPv4"));
}

TEST(Hosts, TheAgentStartsNothingForStrangersAndNothingButTheDaemon) {
  MAKE_HOSTS_OR_SKIP(hosts, 2);
  ClusterOfHosts cluster(std::move(hosts), 1);
  ASSERT_TRUE(cluster.WaitServing(1)) << cluster.Logs();
  const auto stub =
      v1::Host::NewStub(grpc::CreateChannel(cluster.hosts().address(1) + ":7310", grpc::InsecureChannelCredentials()));
  v1::HostRunRequest request;
  request.set_n_shards(1);
  request.set_daemon_port_begin(7320);
  request.set_daemon_port_end(7340);
  const auto call = [&](const std::string& token) {
    grpc::ClientContext context;
    proto::AddToken(context, token);
    v1::HostRunReply reply;
    return stub->Run(&context, request, &reply);
  };
  EXPECT_EQ(call("").error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(call("another-token-altogether").error_code(), grpc::StatusCode::UNAUTHENTICATED);
  request.add_daemon_args("--prefix");
  EXPECT_EQ(call(testing::kHostToken).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.clear_daemon_args();
  request.add_environment("LD_PRELOAD=/tmp/x.so");
  EXPECT_THAT(call(testing::kHostToken).error_message(), HasSubstr("LD_PRELOAD"));
  // None of them disturbed the group.
  EXPECT_TRUE(Generate(cluster.Address(1), testing::kHostToken).status.ok()) << cluster.Logs();
}

TEST(Launch, AnOuterSlurmAllocationDoesNotBreakAGroupOnOneMachine) {
  const auto dir = testing::MakeTempDir("slurm");
  std::vector<std::string> command = {"env",
                                      "SLURM_JOBID=5",
                                      "SLURM_JOB_ID=5",
                                      "SLURM_NODELIST=n[1-2]",
                                      "SLURM_NNODES=2",
                                      "SLURM_TASKS_PER_NODE=2(x2)"};
  const std::vector<std::string> worker = testing::WorkerCommand(
      LONGSHELF_TEST_SHARD, {"--model=" + testing::ModelPath("demo").string(), "--shards=2", "--kv-memory=32MiB"});
  command.insert(command.end(), worker.begin(), worker.end());
  SupervisedWorker supervised(dir, command);
  ASSERT_TRUE(supervised.WaitServing(1, 2, seconds(30)).has_value()) << supervised.log();
  EXPECT_TRUE(Generate(ServingAddress(supervised, 1)).status.ok()) << supervised.log();
}

TEST(Launch, WhatAPmixServerHandsOverIsUsed) {
  const std::vector<std::string> worker = testing::WorkerCommand(
      LONGSHELF_TEST_SHARD,
      {"--model=" + testing::ModelPath("demo").string(), "--hosts=pmix", "--shards-per-host=2", "--kv-memory=32MiB"});
  std::vector<std::string> command = {"mpirun", "--allow-run-as-root", "-np", "1"};
  command.insert(command.end(), worker.begin(), worker.end());
  SupervisedWorker started(testing::MakeTempDir("pmix"), command);
  const std::string address = ServingAddress(started, 1);
  EXPECT_TRUE(Generate(address).status.ok()) << started.log();
  EXPECT_THAT(started.log(), HasSubstr("2 shard(s)"));
  started.Signal(SIGTERM);  // which mpirun passes on
  EXPECT_TRUE(started.WaitExit(seconds(15)).has_value()) << started.log();

  SupervisedWorker alone(testing::MakeTempDir("pmix"), worker);
  EXPECT_EQ(alone.WaitExit(seconds(30)), 1) << alone.log();
  EXPECT_THAT(alone.log(), HasSubstr("--hosts pmix: no PMIx server"));
}

}  // namespace
}  // namespace longshelf::worker
