#include "last_words.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "common/check.h"
#include "testing/fixtures.h"

namespace longshelf::worker {
namespace {

TEST(LastWords, AreThoseOfWhoeverFailedFirst) {
  EXPECT_EQ(ChooseLastWords({{0, "shard 2 (process 7) is gone"}, {2, "no memory"}}, ""), "shard 2: no memory");
  EXPECT_EQ(ChooseLastWords({{1, ""}, {0, "shard 2 (process 7) is gone"}}, "shard 2 ended"), "shard 2 ended");
  EXPECT_EQ(ChooseLastWords({{0, "shard 2 (process 7) is gone"}}, ""), "shard 2 (process 7) is gone");
  EXPECT_EQ(ChooseLastWords({}, ""), "it said nothing");
}

TEST(LastWords, OfAnotherShardGoBeforeWhatMpiSaysOfIt) {
  const auto dir = testing::MakeTempDir("words");
  EXPECT_EQ(FindLastWords(dir, 0, "MPI_Bcast: broken"), "MPI_Bcast: broken");
  engine::WriteRankError(dir, 0, "mine");
  EXPECT_EQ(FindLastWords(dir, 0, "MPI_Bcast: broken"), "MPI_Bcast: broken");
  engine::WriteRankError(dir, 1, "bad block");
  EXPECT_EQ(FindLastWords(dir, 0, "MPI_Bcast: broken"), "shard 1: bad block");
}

TEST(LastWords, OfAHostThatClosedItsLinkAreWaitedFor) {
  const auto dir = testing::MakeTempDir("words");
  const std::string gone = "host1 is gone: it closed its link";
  engine::WriteRankError(dir, 0, gone);
  EXPECT_EQ(AwaitLastWords(dir, 0, gone, absl::Milliseconds(50)), gone) << "not for ever";
  std::thread late([&] { engine::WriteRankError(dir, 2, "on host host1: no memory"); });
  EXPECT_EQ(AwaitLastWords(dir, 0, gone, absl::Seconds(60)), "shard 2: on host host1: no memory");
  late.join();
  // Of others nothing more is expected.
  EXPECT_EQ(AwaitLastWords(testing::MakeTempDir("words"), 0, "shard 1 is gone", absl::Hours(1)), "shard 1 is gone");
}

TEST(LastWords, AFailedCheckLeavesItsOwn) {
  const auto dir = testing::MakeTempDir("words");
  const pid_t child = fork();
  if (child == 0) {
    SetDeathNote(engine::RankErrorPath(dir, 1));
    LONGSHELF_CHECK(1 + 1 == 3);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
  EXPECT_TRUE(FindLastWords(dir, 0, "shard 1 is gone").ends_with(": 1 + 1 == 3")) << FindLastWords(dir, 0, "");
}

}  // namespace
}  // namespace longshelf::worker
