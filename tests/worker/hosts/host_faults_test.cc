// A group over hosts dies as a unit, whatever of it dies, and the next one gives the same tokens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "cluster_of_hosts.h"
#include "inject_fault.h"
#include "worker_stream.h"

namespace longshelf::worker {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Steady = std::chrono::steady_clock;
using ::testing::AnyOf;
using testing::ClusterOfHosts;
using testing::Fault;
using testing::Generate;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::NetHosts;
using testing::Outcome;
using testing::SignalOf;
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

// Memory of a control group of its own, or nothing where the kernel does not let us.
class SmallMemory {
 public:
  explicit SmallMemory(pid_t pid) {
    std::error_code error;
    if (!fs::is_directory("/sys/fs/cgroup/memory", error) || !fs::create_directory(dir_, error)) return;
    std::ofstream(dir_ / "memory.limit_in_bytes") << (16 << 20);
    std::ofstream(dir_ / "cgroup.procs") << pid << std::flush;
    std::ifstream in(dir_ / "cgroup.procs");
    pid_t inside = 0;
    holds_ = static_cast<bool>(in >> inside) && inside == pid;
  }
  ~SmallMemory() {
    std::error_code ignored;
    fs::remove(dir_, ignored);
  }
  SmallMemory(const SmallMemory&) = delete;
  SmallMemory& operator=(const SmallMemory&) = delete;
  bool holds() const { return holds_; }

 private:
  const fs::path dir_ = "/sys/fs/cgroup/memory/longshelf-test-" + std::to_string(getpid());
  bool holds_ = false;
};

struct Victim {
  const char* what;
  const char* process;  // as /proc names it
  int host;
  int signal;
  milliseconds limit;  // until the stream has ended
};

constexpr milliseconds kDeath(1500);
// Half a second of it is for machines that are busy with other tests.
constexpr milliseconds kSilence(2000 + 1500);
// Outside of a step the engine is looked at once in a second.
constexpr milliseconds kStepDeadline(5000 + 1500);

class HostFault : public ::testing::TestWithParam<Victim> {};
INSTANTIATE_TEST_SUITE_P(
    Each, HostFault,
    ::testing::Values(Victim{"FarShardKilled", "longshelf-shard", 1, SIGKILL, kDeath},
                      Victim{"FarShardAborted", "longshelf-shard", 1, SIGABRT, kDeath},
                      Victim{"FarShardSegfault", "longshelf-shard", 1, SIGSEGV, kDeath},
                      Victim{"FarShardExits", "longshelf-shard", 1, SignalOf(Fault::kExit), kDeath},
                      Victim{"FarShardThrows", "longshelf-shard", 1, SignalOf(Fault::kThrow), kDeath},
                      Victim{"FarShardOutOfMemory", "longshelf-shard", 1, SignalOf(Fault::kEatMemory), kDeath},
                      Victim{"FarShardLoops", "longshelf-shard", 1, SignalOf(Fault::kLoop), kStepDeadline},
                      Victim{"FarShardStopped", "longshelf-shard", 1, SIGSTOP, kSilence},
                      Victim{"NearShardKilled", "longshelf-shard", 0, SIGKILL, kDeath},
                      Victim{"NearShardExits", "longshelf-shard", 0, SignalOf(Fault::kExit), kDeath},
                      Victim{"NearShardLoops", "longshelf-shard", 0, SignalOf(Fault::kLoop), kStepDeadline},
                      Victim{"DaemonKilled", "orted", 1, SIGKILL, kDeath},
                      Victim{"AgentKilled", "longshelf-host", 1, SIGKILL, kDeath},
                      Victim{"ConnectorKilled", "longshelf-host", 0, SIGKILL, kDeath},
                      Victim{"MpirunKilled", "mpirun", 0, SIGKILL, kDeath}),
    [](const auto& instance) { return instance.param.what; });

TEST_P(HostFault, EndsTheGroupOnAllHostsAndTheNextOneGivesTheSameTokens) {
  const Victim& victim = GetParam();
  std::string why;
  auto hosts = NetHosts::Make(2, &why);
  if (hosts == nullptr) GTEST_SKIP() << why;
  for (const int h : {0, 1}) hosts->RunBehind(h, {"env", std::string("LD_PRELOAD=") + LONGSHELF_TEST_INJECT_FAULT});
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
  std::unique_ptr<SmallMemory> memory;
  if (victim.signal == SignalOf(Fault::kEatMemory)) {
    memory = std::make_unique<SmallMemory>(found[0].pid);
    if (!memory->holds()) GTEST_SKIP() << "this machine does not let us make memory control groups";
  }
  const auto start = Steady::now();
  // To its first thread: the engine's.
  syscall(SYS_tgkill, found[0].pid, found[0].pid, victim.signal);
  const grpc::Status told = stream.Finish().status;
  EXPECT_EQ(told.error_code(), grpc::StatusCode::UNAVAILABLE);
  const auto until_told = std::chrono::duration_cast<milliseconds>(Steady::now() - start);
  EXPECT_LE(until_told, victim.limit) << cluster.Logs();
  EXPECT_TRUE(testing::TimeUntilGone(group, seconds(10)).has_value()) << cluster.Logs();
  const auto until_gone = std::chrono::duration_cast<milliseconds>(Steady::now() - start);
  std::cout << victim.what << ": the client knew after " << until_told.count() << " ms, all had ended after "
            << until_gone.count() << " ms\n";

  if (victim.signal == SignalOf(Fault::kThrow)) {
    EXPECT_THAT(cluster.Logs(), HasSubstr("injected by a test"));
    EXPECT_THAT(told.error_message(), HasSubstr("injected by a test")) << "the words of a shard elsewhere";
  }

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

TEST(HostFaults, AnEngineThatLoopsOutsideOfAStepEndsTheGroup) {
  std::string why;
  auto hosts = NetHosts::Make(2, &why);
  if (hosts == nullptr) GTEST_SKIP() << why;
  hosts->RunBehind(0, {"env", std::string("LD_PRELOAD=") + LONGSHELF_TEST_INJECT_FAULT});
  ClusterOfHosts cluster(std::move(hosts), 1);
  ASSERT_TRUE(cluster.WaitServing(1)) << cluster.Logs();
  const std::vector<engine::ProcessId> group = cluster.Processes();
  const std::vector<engine::ProcessId> leader = Find(cluster.worker().pid(), "longshelf-shard");
  ASSERT_EQ(leader.size(), 1U);
  const auto start = Steady::now();
  syscall(SYS_tgkill, leader[0].pid, leader[0].pid, SignalOf(Fault::kLoop));
  EXPECT_TRUE(testing::TimeUntilGone(group, seconds(20)).has_value()) << cluster.Logs();
  EXPECT_LE(Steady::now() - start, kStepDeadline) << cluster.Logs();
  EXPECT_THAT(cluster.Logs(), HasSubstr("the engine has not turned for 5s, outside of a step"));
  EXPECT_TRUE(cluster.WaitServing(2)) << cluster.Logs();
}

struct Silence {
  const char* what;
  bool busy;
  bool one_way;  // only what the first host sends is lost
};

class HostVanishes : public ::testing::TestWithParam<Silence> {};
INSTANTIATE_TEST_SUITE_P(Each, HostVanishes,
                         ::testing::Values(Silence{"Idle", false, false}, Silence{"Busy", true, false},
                                           Silence{"OneWay", true, true}),
                         [](const auto& instance) { return instance.param.what; });

TEST_P(HostVanishes, IsNoticedOnBothSidesAndTheGroupFormsAgainWhenItIsBack) {
  std::string why;
  auto hosts = NetHosts::Make(2, &why);
  if (hosts == nullptr) GTEST_SKIP() << why;
  ClusterOfHosts cluster(std::move(hosts), 1);
  ASSERT_TRUE(cluster.WaitServing(1)) << cluster.Logs();
  const Outcome expected = Generate(cluster.Address(1), testing::kHostToken);
  std::unique_ptr<Stream> stream;
  if (GetParam().busy) {
    stream = std::make_unique<Stream>(cluster.Address(1), 20'000, 10, testing::kHostToken);
    ASSERT_TRUE(stream->WaitBegun());
  }
  const std::vector<engine::ProcessId> far = Find(cluster.agent(1).pid(), "longshelf-shard");
  const std::vector<engine::ProcessId> near = Find(cluster.worker().pid(), "longshelf-shard");
  if (GetParam().one_way) {
    const std::string steps =
        "nft add table inet silence && nft add chain inet silence out '{ type filter hook output priority 0; }' && "
        "nft add rule inet silence out ip daddr " +
        cluster.hosts().address(1) + " drop";
    ASSERT_EQ(cluster.hosts().RunOn(0, {"sh", "-c", steps}), 0);
  } else {
    cluster.hosts().SetLink(1, false);
  }
  const auto start = Steady::now();
  if (stream != nullptr) {
    EXPECT_EQ(stream->Finish().status.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_LE(Steady::now() - start, kSilence) << cluster.Logs();
  }
  std::vector<engine::ProcessId> both = near;
  both.insert(both.end(), far.begin(), far.end());
  EXPECT_TRUE(testing::TimeUntilGone(both, seconds(5)).has_value()) << cluster.Logs();
  const auto until_gone = std::chrono::duration_cast<milliseconds>(Steady::now() - start);
  EXPECT_LE(until_gone, kSilence) << cluster.Logs();
  std::cout << GetParam().what << ": all shards had ended after " << until_gone.count() << " ms\n";
  if (GetParam().one_way) {
    ASSERT_EQ(cluster.hosts().RunOn(0, {"nft", "delete", "table", "inet", "silence"}), 0);
  } else {
    cluster.hosts().SetLink(1, true);
  }
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
