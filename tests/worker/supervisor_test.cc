#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>

#include "supervised.h"
#include "testing/fixtures.h"

namespace longshelf::worker {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::SupervisedWorker;

std::vector<std::string> Flags(const char* how, int n_shards) {
  return {std::string("--model=") + how, "--shards=" + std::to_string(n_shards), "--restart-delay-min=50ms"};
}

// The processes of the group: all below the supervisor.
std::vector<engine::ProcessId> GroupOf(const SupervisedWorker& worker) {
  std::vector<engine::ProcessId> all = testing::ProcessTree(worker.pid());
  std::erase_if(all, [&](const engine::ProcessId& id) { return id.pid == worker.pid(); });
  return all;
}

class Shards : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(OneToThree, Shards, ::testing::Values(1, 2, 3));

TEST_P(Shards, KillingAnyProcessEndsTheGroupWithinTwoSecondsAndItIsBroughtBack) {
  const auto dir = testing::MakeTempDir("supervisor");
  SupervisedWorker worker(dir, LONGSHELF_TEST_FAKE_SHARD, Flags("serve", GetParam()));
  uint64_t generation = 0;
  // Once each process of the group: mpirun and every rank (or just the shard).
  const size_t n_processes = GetParam() == 1 ? 1 : static_cast<size_t>(GetParam()) + 1;
  for (size_t victim = 0; victim < n_processes; ++victim) {
    const auto view = worker.WaitServing(generation + 1, GetParam(), seconds(20));
    ASSERT_TRUE(view.has_value()) << worker.log();
    generation = view->generation;
    const std::vector<engine::ProcessId> group = GroupOf(worker);
    ASSERT_EQ(group.size(), n_processes);
    kill(group[victim].pid, SIGKILL);
    const auto gone = testing::TimeUntilGone(group, seconds(10));
    ASSERT_TRUE(gone.has_value()) << worker.log();
    EXPECT_LE(*gone, milliseconds(2000));
  }
  const auto view = worker.WaitServing(generation + 1, GetParam(), seconds(20));
  ASSERT_TRUE(view.has_value()) << worker.log();
  EXPECT_EQ(view->generation, n_processes + 1);
  worker.Signal(SIGTERM);
  EXPECT_EQ(worker.WaitExit(seconds(15)), 0) << worker.log();
  EXPECT_THAT(worker.Leftovers(), IsEmpty());
}

TEST_P(Shards, TermDrainsTheGroupExitsZeroAndLeavesNothing) {
  const auto dir = testing::MakeTempDir("supervisor");
  SupervisedWorker worker(dir, LONGSHELF_TEST_FAKE_SHARD, Flags("serve", GetParam()));
  ASSERT_TRUE(worker.WaitServing(1, GetParam(), seconds(20)).has_value()) << worker.log();
  const std::vector<engine::ProcessId> group = GroupOf(worker);
  worker.Signal(SIGTERM);
  EXPECT_EQ(worker.WaitExit(seconds(15)), 0) << worker.log();
  EXPECT_TRUE(testing::TimeUntilGone(group, seconds(0)).has_value());
  EXPECT_THAT(worker.Leftovers(), IsEmpty());
}

TEST_P(Shards, NothingOutlivesAKilledSupervisorAndTheNextOneCleansUp) {
  const auto dir = testing::MakeTempDir("supervisor");
  {
    SupervisedWorker killed(dir, LONGSHELF_TEST_FAKE_SHARD, Flags("serve", GetParam()));
    ASSERT_TRUE(killed.WaitServing(1, GetParam(), seconds(20)).has_value()) << killed.log();
    const std::vector<engine::ProcessId> group = GroupOf(killed);
    killed.Signal(SIGKILL);
    const auto gone = testing::TimeUntilGone(group, seconds(10));
    ASSERT_TRUE(gone.has_value());
    EXPECT_LE(*gone, milliseconds(2000));
    EXPECT_EQ(killed.WaitExit(seconds(5)), 128 + SIGKILL);
    EXPECT_THAT(killed.Leftovers(), Not(IsEmpty()));
  }
  SupervisedWorker next(dir, LONGSHELF_TEST_FAKE_SHARD, Flags("serve", GetParam()));
  ASSERT_TRUE(next.WaitServing(1, GetParam(), seconds(20)).has_value()) << next.log();
  next.Signal(SIGTERM);
  EXPECT_EQ(next.WaitExit(seconds(15)), 0) << next.log();
  EXPECT_THAT(next.Leftovers(), IsEmpty());
}

// A child that holds the supervisor's port keeps it taken after the supervisor is gone.
TEST(Supervisor, TheGroupInheritsNoSocket) {
  const auto dir = testing::MakeTempDir("supervisor");
  SupervisedWorker worker(dir, LONGSHELF_TEST_FAKE_SHARD, Flags("serve", 1));
  const auto view = worker.WaitServing(1, 1, seconds(20));
  ASSERT_TRUE(view.has_value()) << worker.log();
  const auto fds = std::filesystem::path("/proc") / std::to_string(view->ranks[0].id.pid) / "fd";
  for (const auto& fd : std::filesystem::directory_iterator(fds)) {
    EXPECT_THAT(std::filesystem::read_symlink(fd.path()).string(), Not(HasSubstr("socket:")));
  }
}

TEST(Supervisor, ASecondTermEndsAShardThatDoesNotDrain) {
  const auto dir = testing::MakeTempDir("supervisor");
  SupervisedWorker worker(dir, LONGSHELF_TEST_FAKE_SHARD, Flags("stubborn", 2));
  ASSERT_TRUE(worker.WaitServing(1, 2, seconds(20)).has_value()) << worker.log();
  worker.Signal(SIGTERM);
  EXPECT_EQ(worker.WaitExit(seconds(1)), std::nullopt);
  worker.Signal(SIGTERM);
  EXPECT_EQ(worker.WaitExit(seconds(5)), 1) << worker.log();
  EXPECT_THAT(worker.Leftovers(), IsEmpty());
}

TEST(Supervisor, TwoWorkersOfOneUserDoNotTouchEachOther) {
  const auto dir = testing::MakeTempDir("supervisor");
  SupervisedWorker one(dir, LONGSHELF_TEST_FAKE_SHARD, Flags("serve", 1));
  const auto view = one.WaitServing(1, 1, seconds(20));
  ASSERT_TRUE(view.has_value()) << one.log();
  SupervisedWorker two(dir, LONGSHELF_TEST_FAKE_SHARD, Flags("serve", 2));
  ASSERT_TRUE(two.WaitServing(1, 2, seconds(20)).has_value()) << two.log();
  two.Signal(SIGTERM);
  EXPECT_EQ(two.WaitExit(seconds(15)), 0) << two.log();
  EXPECT_TRUE(engine::IsAlive(view->ranks[0].id));
  one.Signal(SIGTERM);
  EXPECT_EQ(one.WaitExit(seconds(15)), 0) << one.log();
}

TEST(Supervisor, GivesUpOnAGroupThatNeverServesAndSaysWhy) {
  const auto dir = testing::MakeTempDir("supervisor");
  auto flags = Flags("broken", 2);
  flags.insert(flags.end(), {"--failed-starts-max=2"});
  SupervisedWorker worker(dir, LONGSHELF_TEST_FAKE_SHARD, flags);
  EXPECT_EQ(worker.WaitExit(seconds(30)), 1);
  EXPECT_THAT(worker.log(), HasSubstr("layers.3.attn.wq_a is missing"));
  EXPECT_THAT(worker.log(), HasSubstr("2 starts in a row never served"));
  EXPECT_THAT(worker.Leftovers(), IsEmpty());
}

TEST(Supervisor, AMissingShardProgramIsNamed) {
  const auto dir = testing::MakeTempDir("supervisor");
  auto flags = Flags("serve", 1);
  flags.insert(flags.end(), {"--failed-starts-max=1"});
  SupervisedWorker worker(dir, "/nonexistent/shard", flags);
  EXPECT_EQ(worker.WaitExit(seconds(30)), 1);
  EXPECT_THAT(worker.log(), HasSubstr("cannot run /nonexistent/shard"));
}

TEST(Supervisor, AWrongShardOptionIsRefusedBeforeAnythingStarts) {
  const auto dir = testing::MakeTempDir("supervisor");
  auto flags = Flags("serve", 1);
  flags.insert(flags.end(), {"--numerics=fp31"});
  SupervisedWorker worker(dir, LONGSHELF_TEST_FAKE_SHARD, flags);
  EXPECT_EQ(worker.WaitExit(seconds(30)), 64);
  EXPECT_THAT(worker.log(), HasSubstr("numerics"));
}

}  // namespace
}  // namespace longshelf::worker
