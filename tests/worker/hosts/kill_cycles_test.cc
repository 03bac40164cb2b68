// Again and again something of a group is killed: nothing may be left or grow. More of it:
//   KILL_CYCLES=100 build/release/tests/host_faults_test --gtest_filter='KillCycles.*'
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "cluster_of_hosts.h"
#include "testing/fixtures.h"
#include "worker_stream.h"

namespace longshelf::worker {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;
using testing::ClusterOfHosts;
using testing::Generate;
using ::testing::IsEmpty;
using testing::NetHosts;
using testing::SupervisedWorker;

constexpr int kCycles = 20;
// Of several hosts a cycle takes longer.
constexpr int kCyclesOverHosts = 8;

int Cycles(int usual) {
  const char* wanted = std::getenv("KILL_CYCLES");
  return wanted == nullptr ? usual : std::atoi(wanted) * usual / kCycles;
}

size_t FilesOf(pid_t pid) {
  size_t n = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) ++n;
  return n;
}

size_t EntriesBelow(const fs::path& dir) {
  size_t n = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) ++n;
  return n;
}

// A program's places for things that it forgets, its own: other tests use those of this machine.
std::vector<std::string> InPlacesOfItsOwn(const fs::path& temporary) {
  fs::create_directory(temporary);
  return {"env", "TMPDIR=" + temporary.string(), "sh", "-c", "mount -t tmpfs none /dev/shm && exec \"$@\"", "sh"};
}

// How much it has there.
size_t Forgotten(pid_t pid, const fs::path& temporary) {
  return EntriesBelow(temporary) + EntriesBelow(fs::path("/proc") / std::to_string(pid) / "root" / "dev" / "shm");
}

std::vector<engine::ProcessId> Group(const SupervisedWorker& worker) {
  std::vector<engine::ProcessId> all = testing::ProcessTree(worker.pid());
  std::erase_if(all, [&](const engine::ProcessId& id) { return id.pid == worker.pid(); });
  return all;
}

// Of the generation that serves; a killed one may not have said where it served.
std::vector<uint32_t> AskTheLast(const SupervisedWorker& worker) {
  const auto deadline = std::chrono::steady_clock::now() + seconds(10);
  std::vector<uint32_t> tokens;
  while (tokens.empty() && std::chrono::steady_clock::now() < deadline) {
    const std::string log = worker.log();
    const std::string before = " on port ";
    const size_t begin = log.rfind(before) + before.size();
    tokens = Generate("127.0.0.1:" + log.substr(begin, log.find(':', begin) - begin)).tokens;
  }
  return tokens;
}

TEST(KillCycles, OfAGroupOnOneMachineLeaveNothing) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can mount";
  const auto dir = testing::MakeTempDir("cycles");
  std::vector<std::string> command = InPlacesOfItsOwn(dir / "tmp");
  command.insert(command.begin(), {"unshare", "--mount"});
  const std::vector<std::string> program = testing::WorkerCommand(
      LONGSHELF_TEST_SHARD, {"--model=" + testing::ModelPath("demo").string(), "--shards=2", "--kv-memory=32MiB",
                             "--restart-delay-min=10ms", "--restart-delay-max=10ms"});
  command.insert(command.end(), program.begin(), program.end());
  SupervisedWorker worker(dir, command);
  auto view = worker.WaitServing(1, 2, seconds(60));
  ASSERT_TRUE(view.has_value()) << worker.log();
  const std::vector<uint32_t> expected = Generate(testing::ServingAddress(worker, 1)).tokens;
  const size_t n_files = FilesOf(worker.pid());
  const size_t n_entries = EntriesBelow(dir);
  const int n_cycles = Cycles(kCycles);
  for (int cycle = 0; cycle < n_cycles; ++cycle) {
    // mpirun and both shards in turns.
    const std::vector<engine::ProcessId> group = Group(worker);
    ASSERT_EQ(group.size(), 3U) << worker.log();
    kill(group[static_cast<size_t>(cycle) % group.size()].pid, SIGKILL);
    ASSERT_TRUE(testing::TimeUntilGone(group, seconds(10)).has_value()) << worker.log();
    view = worker.WaitServing(view->generation + 1, 2, seconds(60));
    ASSERT_TRUE(view.has_value()) << worker.log();
  }
  EXPECT_EQ(AskTheLast(worker), expected) << worker.log();
  EXPECT_EQ(FilesOf(worker.pid()), n_files);
  EXPECT_EQ(EntriesBelow(dir), n_entries);
  EXPECT_EQ(Forgotten(worker.pid(), dir / "tmp"), 0U);
  worker.Signal(SIGTERM);
  EXPECT_EQ(worker.WaitExit(seconds(15)), 0) << worker.log();
  EXPECT_THAT(worker.Leftovers(), IsEmpty());
}

TEST(KillCycles, OfAGroupOverHostsLeaveNothingOnAnyOfThem) {
  std::string why;
  auto hosts = NetHosts::Make(2, &why);
  if (hosts == nullptr) GTEST_SKIP() << why;
  const auto dir = testing::MakeTempDir("cycles");
  for (const int h : {0, 1}) hosts->RunBehind(h, InPlacesOfItsOwn(dir / std::to_string(h)));
  ClusterOfHosts cluster(std::move(hosts), 1, {"--restart-delay-max=50ms"});
  ASSERT_TRUE(cluster.WaitServing(1)) << cluster.Logs();
  const std::vector<uint32_t> expected = Generate(cluster.Address(1), testing::kHostToken).tokens;
  const size_t n_files = FilesOf(cluster.worker().pid());
  const size_t n_files_of_agent = FilesOf(cluster.agent(1).pid());
  const int n_cycles = Cycles(kCyclesOverHosts);
  for (int cycle = 0; cycle < n_cycles; ++cycle) {
    // mpirun, what it runs in place of ssh, both shards, and the daemon in turns.
    const std::vector<engine::ProcessId> group = cluster.Processes();
    ASSERT_EQ(group.size(), 5U) << cluster.Logs();
    kill(group[static_cast<size_t>(cycle) % group.size()].pid, SIGKILL);
    ASSERT_TRUE(testing::TimeUntilGone(group, seconds(10)).has_value()) << cluster.Logs();
    ASSERT_TRUE(cluster.WaitServing(static_cast<uint64_t>(cycle) + 2)) << cluster.Logs();
  }
  EXPECT_EQ(Generate(cluster.hosts().address(0) + ":7300", testing::kHostToken).tokens, expected) << cluster.Logs();
  EXPECT_EQ(FilesOf(cluster.worker().pid()), n_files);
  EXPECT_EQ(FilesOf(cluster.agent(1).pid()), n_files_of_agent);
  EXPECT_EQ(Forgotten(cluster.worker().pid(), dir / "0"), 0U);
  EXPECT_EQ(Forgotten(cluster.agent(1).pid(), dir / "1"), 0U);
  cluster.worker().Signal(SIGTERM);
  EXPECT_EQ(cluster.worker().WaitExit(seconds(15)), 0) << cluster.Logs();
  cluster.agent(1).Signal(SIGTERM);
  EXPECT_EQ(cluster.agent(1).WaitExit(seconds(10)), 0) << cluster.Logs();
  EXPECT_THAT(cluster.Leftovers(), IsEmpty());
}

}  // namespace
}  // namespace longshelf::worker
