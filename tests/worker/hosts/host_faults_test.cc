// A group over hosts dies as a unit, whatever of it dies, and the next one gives the same tokens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <fstream>

#include "cluster_of_hosts.h"
#include "worker_stream.h"

namespace longshelf::worker {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Steady = std::chrono::steady_clock;
using ::testing::AnyOf;
using testing::ClusterOfHosts;
using testing::Generate;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::NetHosts;
using testing::Outcome;
using testing::Stream;

std::string NameOf(pid_t pid) {
  std::string name;
  std::ifstream("/proc/" + std::to_string(pid) + "/comm") >> name;
  return name;
}

// The processes below `root` with that name, as /proc cuts it.
std::vector<engine::ProcessId> Find(pid_t root, const std::string& name) {
  std::vector<engine::ProcessId> all = testing::ProcessTree(root);
  std::erase_if(all, [&](const engine::ProcessId& id) { return NameOf(id.pid) != name; });
  return all;
}

struct Victim {
  const char* what;
  const char* process;  // as /proc names it
  int host;
  int signal;
  milliseconds limit;  // until the stream has ended
};

class HostFault : public ::testing::TestWithParam<Victim> {};
INSTANTIATE_TEST_SUITE_P(Each, HostFault,
                         ::testing::Values(Victim{"FarShardKilled", "longshelf-shard", 1, SIGKILL, milliseconds(2000)},
                                           Victim{"FarShardAborted", "longshelf-shard", 1, SIGABRT, milliseconds(2000)},
                                           Victim{"FarShardSegfault", "longshelf-shard", 1, SIGSEGV,
                                                  milliseconds(2000)},
                                           Victim{"FarShardStopped", "longshelf-shard", 1, SIGSTOP, milliseconds(6500)},
                                           Victim{"NearShardKilled", "longshelf-shard", 0, SIGKILL, milliseconds(2000)},
                                           Victim{"DaemonKilled", "orted", 1, SIGKILL, milliseconds(2000)},
                                           Victim{"AgentKilled", "longshelf-host", 1, SIGKILL, milliseconds(2000)},
                                           Victim{"ConnectorKilled", "longshelf-host", 0, SIGKILL, milliseconds(3500)},
                                           Victim{"MpirunKilled", "mpirun", 0, SIGKILL, milliseconds(2000)}),
                         [](const auto& instance) { return instance.param.what; });

TEST_P(HostFault, EndsTheGroupOnAllHostsAndTheNextOneGivesTheSameTokens) {
  const Victim& victim = GetParam();
  std::string why;
  auto hosts = NetHosts::Make(2, &why);
  if (hosts == nullptr) GTEST_SKIP() << why;
  ClusterOfHosts cluster(std::move(hosts), 1);
  ASSERT_TRUE(cluster.WaitServing(1)) << cluster.Logs();
  const Outcome expected = Generate(cluster.Address(1), testing::kHostToken);
  ASSERT_TRUE(expected.status.ok()) << expected.status.error_message() << cluster.Logs();

  Stream stream(cluster.Address(1), 20'000, 10, testing::kHostToken);
  ASSERT_TRUE(stream.WaitBegun()) << cluster.Logs();
  const std::vector<engine::ProcessId> group = cluster.Processes();
  const pid_t root = victim.host == 0 ? cluster.worker().pid() : cluster.agent(1).pid();
  const std::vector<engine::ProcessId> found = Find(root, victim.process);
  ASSERT_EQ(found.size(), 1U) << victim.process << cluster.Logs();
  const auto start = Steady::now();
  kill(found[0].pid, victim.signal);
  EXPECT_EQ(stream.Finish().status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_LE(Steady::now() - start, victim.limit) << cluster.Logs();
  EXPECT_TRUE(testing::TimeUntilGone(group, seconds(10)).has_value()) << cluster.Logs();

  if (std::string(victim.what) == "AgentKilled") cluster.StartAgent(1);
  ASSERT_TRUE(cluster.WaitServing(2)) << cluster.Logs();
  const Outcome again = Generate(cluster.Address(2), testing::kHostToken);
  EXPECT_EQ(again.tokens, expected.tokens) << cluster.Logs();
  cluster.worker().Signal(SIGTERM);
  EXPECT_EQ(cluster.worker().WaitExit(seconds(15)), 0) << cluster.Logs();
  cluster.agent(1).Signal(SIGTERM);
  EXPECT_EQ(cluster.agent(1).WaitExit(seconds(10)), 0) << cluster.Logs();
  EXPECT_THAT(cluster.Leftovers(), IsEmpty());
}

// Busy or idle.
class HostVanishes : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(IdleOrBusy, HostVanishes, ::testing::Bool());

TEST_P(HostVanishes, IsNoticedOnBothSidesAndTheGroupFormsAgainWhenItIsBack) {
  std::string why;
  auto hosts = NetHosts::Make(2, &why);
  if (hosts == nullptr) GTEST_SKIP() << why;
  ClusterOfHosts cluster(std::move(hosts), 1);
  ASSERT_TRUE(cluster.WaitServing(1)) << cluster.Logs();
  const Outcome expected = Generate(cluster.Address(1), testing::kHostToken);
  std::unique_ptr<Stream> stream;
  if (GetParam()) {
    stream = std::make_unique<Stream>(cluster.Address(1), 20'000, 10, testing::kHostToken);
    ASSERT_TRUE(stream->WaitBegun());
  }
  const std::vector<engine::ProcessId> far = Find(cluster.agent(1).pid(), "longshelf-shard");
  const std::vector<engine::ProcessId> near = Find(cluster.worker().pid(), "longshelf-shard");
  cluster.hosts().SetLink(1, false);
  EXPECT_TRUE(testing::TimeUntilGone(near, seconds(5)).has_value()) << cluster.Logs();
  EXPECT_TRUE(testing::TimeUntilGone(far, seconds(5)).has_value()) << cluster.Logs();
  if (stream != nullptr) {
    EXPECT_EQ(stream->Finish().status.error_code(), grpc::StatusCode::UNAVAILABLE);
  }
  cluster.hosts().SetLink(1, true);
  ASSERT_TRUE(cluster.WaitServing(2)) << cluster.Logs();
  EXPECT_THAT(cluster.worker().log(),
              AnyOf(HasSubstr("has been silent for 2s"), HasSubstr("keepalive watchdog timeout")));
  // The generation that serves may be a later one.
  Outcome again;
  for (int n = 2; n < 8 && again.tokens.empty(); ++n) {
    const std::string address = cluster.Address(2);
    if (!address.empty()) again = Generate(address, testing::kHostToken);
  }
  EXPECT_EQ(again.tokens, expected.tokens) << cluster.Logs();
}

}  // namespace
}  // namespace longshelf::worker
