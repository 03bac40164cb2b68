// Machines that do not let a group do everything: it starts, is right, and says once what is slower.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "cluster_of_hosts.h"
#include "testing/fixtures.h"
#include "worker_stream.h"

namespace longshelf::worker {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;
using testing::ClusterOfHosts;
using testing::Generate;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::NetHosts;
using testing::Outcome;
using testing::SupervisedWorker;

std::vector<std::string> Flags() {
  return {"--model=" + testing::ModelPath("demo").string(), "--shards=2", "--kv-memory=32MiB", "--drain-timeout=1s"};
}

// Two shards of this machine, behind these words.
std::unique_ptr<SupervisedWorker> WorkerBehind(const fs::path& dir, std::vector<std::string> words) {
  const std::vector<std::string> worker = testing::WorkerCommand(LONGSHELF_TEST_SHARD, Flags());
  words.insert(words.end(), worker.begin(), worker.end());
  return std::make_unique<SupervisedWorker>(dir, words);
}

// What two shards of this machine generate when nothing is denied.
std::vector<uint32_t> Expected() {
  const auto worker = WorkerBehind(testing::MakeTempDir("plain"), {});
  EXPECT_TRUE(worker->WaitServing(1, 2, seconds(60)).has_value()) << worker->log();
  return Generate(testing::ServingAddress(*worker, 1)).tokens;
}

size_t Count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

constexpr char kDenied[] = "process_vm_readv is not allowed here";

TEST(Traps, WhereProcessesMayNotReadEachOtherAGroupIsRightAndSaysSoOnce) {
  const auto worker = WorkerBehind(testing::MakeTempDir("denied"), {LONGSHELF_TEST_DENY_PROCESS_VM});
  ASSERT_TRUE(worker->WaitServing(1, 2, seconds(60)).has_value()) << worker->log();
  EXPECT_EQ(Generate(testing::ServingAddress(*worker, 1)).tokens, Expected()) << worker->log();
  EXPECT_EQ(Count(worker->log(), kDenied), 1U) << worker->log();
}

class TrapOnOneHost : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(NearAndFar, TrapOnOneHost, ::testing::Values(0, 1));

TEST_P(TrapOnOneHost, ReadingEachOthersMemoryIsDeniedThereOnly) {
  std::string why;
  auto hosts = NetHosts::Make(2, &why);
  if (hosts == nullptr) GTEST_SKIP() << why;
  hosts->RunBehind(GetParam(), {LONGSHELF_TEST_DENY_PROCESS_VM});
  ClusterOfHosts cluster(std::move(hosts), 2, {"--expert-transport=baseline"});
  ASSERT_TRUE(cluster.WaitServing(1)) << cluster.Logs();
  const Outcome outcome = Generate(cluster.Address(1), testing::kHostToken);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message() << cluster.Logs();
  EXPECT_EQ(outcome.tokens, Expected()) << cluster.Logs();
  const SupervisedWorker& there = GetParam() == 0 ? cluster.worker() : cluster.agent(1);
  EXPECT_EQ(Count(there.log(), kDenied), 1U) << cluster.Logs();
  EXPECT_EQ(Count(cluster.Logs(), kDenied), 1U) << cluster.Logs();
}

TEST_P(TrapOnOneHost, HasHardlyAnySharedMemory) {
  std::string why;
  auto hosts = NetHosts::Make(2, &why);
  if (hosts == nullptr) GTEST_SKIP() << why;
  // The directory that --shm-dir, the last of its arguments, names.
  hosts->RunBehind(
      GetParam(),
      {"sh", "-c", "for last; do :; done; mount -t tmpfs -o size=4m none ${last#--shm-dir=} && exec \"$@\"", "sh"});
  ClusterOfHosts cluster(std::move(hosts), 2);
  ASSERT_TRUE(cluster.WaitServing(1)) << cluster.Logs();
  const Outcome outcome = Generate(cluster.Address(1), testing::kHostToken);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message() << cluster.Logs();
  EXPECT_EQ(outcome.tokens, Expected()) << cluster.Logs();
  const SupervisedWorker& there = GetParam() == 0 ? cluster.worker() : cluster.agent(1);
  EXPECT_THAT(there.log(), HasSubstr("MPI's shared segments go to disk")) << cluster.Logs();
}

TEST(Traps, AHostWithoutTheCheckpointIsNamedWithWhatItMisses) {
  std::string why;
  auto hosts = NetHosts::Make(2, &why);
  if (hosts == nullptr) GTEST_SKIP() << why;
  hosts->RunBehind(1, {"env", "LONGSHELF_MODEL=/nonexistent/model"});
  ClusterOfHosts cluster(std::move(hosts), 1, {"--failed-starts-max=1"});
  EXPECT_EQ(cluster.worker().WaitExit(seconds(20)), 1) << cluster.Logs();
  EXPECT_THAT(cluster.worker().log(), HasSubstr("shard 1 ends: NOT_FOUND: /nonexistent/model")) << cluster.Logs();
}

TEST(Traps, AUserWithoutRightsRunsAGroup) {
  if (geteuid() != 0) GTEST_SKIP() << "this is that user";
  constexpr uid_t kNobody = 65534;
  const auto dir = testing::MakeTempDir("nobody");
  fs::create_directories(dir / "shm");
  for (const fs::path& path : {dir, dir / "shm"}) ASSERT_EQ(chown(path.c_str(), kNobody, kNobody), 0);
  const auto worker =
      WorkerBehind(dir, {"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"});
  if (worker->WaitExit(seconds(1)) == 127) GTEST_SKIP() << "the programs are where others may not read";
  ASSERT_TRUE(worker->WaitServing(1, 2, seconds(60)).has_value()) << worker->log();
  EXPECT_EQ(Generate(testing::ServingAddress(*worker, 1)).tokens, Expected()) << worker->log();
  worker->Signal(SIGTERM);
  EXPECT_EQ(worker->WaitExit(seconds(15)), 0) << worker->log();
  EXPECT_THAT(worker->Leftovers(), IsEmpty());
}

TEST(Traps, ShardsOfOneMachineListenOnLoopbackOnlyAndMayUseAllProcessors) {
  std::string why;
  auto hosts = NetHosts::Make(1, &why);
  if (hosts == nullptr) GTEST_SKIP() << why;
  const auto dir = testing::MakeTempDir("alone");
  SupervisedWorker worker(dir, hosts->On(0, testing::WorkerCommand(LONGSHELF_TEST_SHARD, Flags())));
  const auto view = worker.WaitServing(1, 2, seconds(60));
  ASSERT_TRUE(view.has_value()) << worker.log();
  ASSERT_EQ(hosts->RunOn(0, {"sh", "-c", "ss -Hltnp > " + (dir / "ports").string()}), 0);
  std::ifstream in(dir / "ports");
  int n_listening = 0;
  for (std::string line; std::getline(in, line); ++n_listening) {
    EXPECT_TRUE(line.find("127.0.0.1") != std::string::npos || line.find("\"mpirun\"") != std::string::npos) << line;
  }
  EXPECT_GE(n_listening, 3);
  cpu_set_t all;
  ASSERT_EQ(sched_getaffinity(0, sizeof(all), &all), 0);
  for (const engine::RankProcess& rank : view->ranks) {
    for (const auto& task : fs::directory_iterator("/proc/" + std::to_string(rank.id.pid) + "/task")) {
      cpu_set_t own;
      const pid_t thread = std::stoi(task.path().filename().string());
      if (sched_getaffinity(thread, sizeof(own), &own) == 0) {
        EXPECT_TRUE(CPU_EQUAL(&own, &all)) << "shard " << rank.rank << ", thread " << thread;
      }
    }
  }
}

}  // namespace
}  // namespace longshelf::worker
