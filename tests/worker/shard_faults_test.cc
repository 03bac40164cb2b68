// longshelf-worker with the real longshelf-shard and the demo model: same tokens on any number of shards, and what
// clients see when a process of the group dies while a step runs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "probe.h"
#include "supervised.h"
#include "testing/fixtures.h"
#include "worker_stream.h"

namespace longshelf::worker {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Steady = std::chrono::steady_clock;
using testing::Generate;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Outcome;
using testing::ServingAddress;
using testing::Stream;
using testing::SupervisedWorker;

constexpr seconds kStart(60);

std::vector<std::string> Flags(int n_shards) {
  return {"--model=" + testing::ModelPath("demo").string(),
          "--shards=" + std::to_string(n_shards),
          "--listen=127.0.0.1:0",
          "--kv-memory=32MiB",
          "--restart-delay-min=50ms",
          "--step-deadline=3s",
          "--drain-timeout=1s"};
}

std::vector<engine::ProcessId> GroupOf(const SupervisedWorker& worker) {
  std::vector<engine::ProcessId> all = testing::ProcessTree(worker.pid());
  std::erase_if(all, [&](const engine::ProcessId& id) { return id.pid == worker.pid(); });
  return all;
}

// Inode of the memory without a name that a process maps as its weights, or nothing.
std::string SharedWeightsOf(pid_t pid) {
  std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("longshelf-weights (deleted)") == std::string::npos) continue;
    std::istringstream fields(line);
    std::string field;
    for (int i = 0; i < 5; ++i) fields >> field;
    return field;
  }
  return "";
}

TEST(RealShards, OneTwoAndThreeShardsGenerateTheSameTokens) {
  std::vector<uint32_t> expected;
  for (const int n_shards : {1, 2, 3}) {
    const auto dir = testing::MakeTempDir("shards");
    SupervisedWorker worker(dir, LONGSHELF_TEST_SHARD, Flags(n_shards));
    ASSERT_TRUE(worker.WaitServing(1, n_shards, kStart).has_value()) << worker.log();
    const Outcome outcome = Generate(ServingAddress(worker, 1));
    ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message() << worker.log();
    ASSERT_TRUE(outcome.finished);
    ASSERT_FALSE(outcome.tokens.empty());
    if (n_shards == 1) expected = outcome.tokens;
    EXPECT_EQ(outcome.tokens, expected) << n_shards << " shards";
    worker.Signal(SIGTERM);
    EXPECT_EQ(worker.WaitExit(seconds(15)), 0) << worker.log();
    EXPECT_THAT(worker.Leftovers(), IsEmpty());
  }
}

TEST(RealShards, ShareOneCopyOfTheirWeightsInHugePagesAndGenerateTheSameTokens) {
  std::vector<uint32_t> expected;
  for (const char* weights : {"mapped", "huge"}) {
    const auto dir = testing::MakeTempDir("shards");
    std::vector<std::string> flags = Flags(2);
    flags.push_back(std::string("--weights=") + weights);
    SupervisedWorker worker(dir, LONGSHELF_TEST_SHARD, flags);
    const auto view = worker.WaitServing(1, 2, kStart);
    ASSERT_TRUE(view.has_value()) << worker.log();
    const Outcome outcome = Generate(ServingAddress(worker, 1));
    ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message() << worker.log();
    if (expected.empty()) expected = outcome.tokens;
    EXPECT_EQ(outcome.tokens, expected) << weights;
    std::vector<std::string> memories;
    for (const engine::RankProcess& rank : view->ranks) memories.push_back(SharedWeightsOf(rank.id.pid));
    EXPECT_EQ(memories[0], memories[1]);
    EXPECT_EQ(memories[0].empty(), std::string(weights) == "mapped") << memories[0];
    const std::vector<engine::ProcessId> group = GroupOf(worker);
    worker.Signal(SIGKILL);
    EXPECT_TRUE(testing::TimeUntilGone(group, seconds(10)).has_value());
  }
}

// victim: index into the process tree below the supervisor: mpirun, rank 0, rank 1.
class Fault : public ::testing::TestWithParam<size_t> {};
INSTANTIATE_TEST_SUITE_P(MpirunLeaderFollower, Fault, ::testing::Values(0, 1, 2));

TEST_P(Fault, AKillInTheMiddleOfAStepEndsTheStreamAndTheGroupAndTheNextOneGivesTheSameTokens) {
  const auto dir = testing::MakeTempDir("shards");
  SupervisedWorker worker(dir, LONGSHELF_TEST_SHARD, Flags(2));
  ASSERT_TRUE(worker.WaitServing(1, 2, kStart).has_value()) << worker.log();
  const std::string address = ServingAddress(worker, 1);
  const Outcome expected = Generate(address);
  ASSERT_TRUE(expected.status.ok()) << expected.status.error_message();

  Stream stream(address, 20'000, 10);
  ASSERT_TRUE(stream.WaitBegun());
  const std::vector<engine::ProcessId> group = GroupOf(worker);
  ASSERT_EQ(group.size(), 3U);
  const auto start = Steady::now();
  kill(group[GetParam()].pid, SIGKILL);
  const Outcome cut = stream.Finish();
  EXPECT_EQ(cut.status.error_code(), grpc::StatusCode::UNAVAILABLE) << cut.status.error_message();
  const auto gone = testing::TimeUntilGone(group, seconds(10));
  ASSERT_TRUE(gone.has_value()) << worker.log();
  EXPECT_LE(Steady::now() - start, milliseconds(2000));

  ASSERT_TRUE(worker.WaitServing(2, 2, kStart).has_value()) << worker.log();
  const Outcome again = Generate(ServingAddress(worker, 2));
  ASSERT_TRUE(again.status.ok()) << again.status.error_message() << worker.log();
  EXPECT_EQ(again.tokens, expected.tokens);
  worker.Signal(SIGTERM);
  EXPECT_EQ(worker.WaitExit(seconds(15)), 0) << worker.log();
  EXPECT_THAT(worker.Leftovers(), IsEmpty());
}

TEST(RealShards, AStoppedShardIsNoticedByTheStepDeadlineAndReplaced) {
  const auto dir = testing::MakeTempDir("shards");
  SupervisedWorker worker(dir, LONGSHELF_TEST_SHARD, Flags(2));
  const auto view = worker.WaitServing(1, 2, kStart);
  ASSERT_TRUE(view.has_value()) << worker.log();
  Stream stream(ServingAddress(worker, 1), 20'000, 10);
  ASSERT_TRUE(stream.WaitBegun());
  const std::vector<engine::ProcessId> group = GroupOf(worker);
  kill(view->ranks[1].id.pid, SIGSTOP);
  EXPECT_EQ(stream.Finish().status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(testing::TimeUntilGone(group, seconds(10)).has_value()) << worker.log();
  EXPECT_TRUE(worker.WaitServing(2, 2, kStart).has_value()) << worker.log();
  EXPECT_THAT(worker.log(), HasSubstr("made no progress"));
}

// The words are left as a shard leaves them (last_words_test.cc has a failed check do it), and then it is gone.
TEST(RealShards, TheWordsOfAShardThatFailsReachTheStreamTheSupervisorAndTheLog) {
  const auto dir = testing::MakeTempDir("shards");
  std::vector<std::string> flags = Flags(2);
  std::erase(flags, "--restart-delay-min=50ms");
  flags.push_back("--restart-delay-min=20s");
  SupervisedWorker worker(dir, LONGSHELF_TEST_SHARD, flags);
  const auto view = worker.WaitServing(1, 2, kStart);
  ASSERT_TRUE(view.has_value()) << worker.log();
  EXPECT_EQ(testing::Probe(worker, "/livez").status, 200);
  EXPECT_EQ(testing::Probe(worker, "/readyz").status, 200);
  const std::vector<engine::ProcessId> group = GroupOf(worker);
  Stream stream(ServingAddress(worker, 1), 20'000, 10);
  ASSERT_TRUE(stream.WaitBegun());
  engine::WriteRankError(view->run_dir, 1, "INTERNAL: tensor 4 of /m/v4: checksum differs");
  kill(view->ranks[1].id.pid, SIGKILL);
  const Outcome cut = stream.Finish();
  EXPECT_EQ(cut.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(cut.status.error_message(), "group_failed: shard 1: INTERNAL: tensor 4 of ... checksum differs");
  ASSERT_TRUE(testing::TimeUntilGone(group, seconds(10)).has_value()) << worker.log();
  const testing::ProbeAnswer ready = testing::AwaitProbe(worker, "/readyz", "shard 1:");
  EXPECT_EQ(ready.status, 503);
  EXPECT_THAT(ready.body, HasSubstr("shard 1: INTERNAL: tensor 4 of ... checksum differs"));
  EXPECT_EQ(testing::Probe(worker, "/livez").status, 200) << "it waits for the next start: that is its work";
  EXPECT_THAT(worker.log(), HasSubstr("generation 1: shard 1: INTERNAL: tensor 4 of /m/v4: checksum differs"));
}

TEST(RealShards, TermUnderLoadExitsZeroWithinFifteenSeconds) {
  const auto dir = testing::MakeTempDir("shards");
  SupervisedWorker worker(dir, LONGSHELF_TEST_SHARD, Flags(2));
  ASSERT_TRUE(worker.WaitServing(1, 2, kStart).has_value()) << worker.log();
  Stream stream(ServingAddress(worker, 1), 30'000, 10);
  ASSERT_TRUE(stream.WaitBegun());
  worker.Signal(SIGTERM);
  std::thread reading([&stream] { stream.Finish(); });
  EXPECT_EQ(worker.WaitExit(seconds(15)), 0) << worker.log();
  reading.join();
  EXPECT_THAT(worker.Leftovers(), IsEmpty());
}

}  // namespace
}  // namespace longshelf::worker
