#include "last_words.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "common/check.h"
#include "testing/fixtures.h"

namespace longshelf::worker {
namespace {

TEST(LastWords, AreThoseOfWhoeverFailedFirst) {
  EXPECT_EQ(ChooseLastWords({{0, "shard 2 (process 7) is gone"}, {2, "no memory"}}, ""), "shard 2: no memory");
  EXPECT_EQ(ChooseLastWords({{1, ""}, {0, "shard 2 (process 7) is gone"}}, "shard 2 ended"), "shard 2 ended");
  EXPECT_EQ(ChooseLastWords({{0, "shard 2 (process 7) is gone"}}, ""), "shard 2 (process 7) is gone");
  EXPECT_EQ(ChooseLastWords({}, ""), "it said nothing");
  // As shard 0 sees another machine, which has said more elsewhere.
  const std::string gone = "host1 is gone: it closed its link";
  EXPECT_EQ(ChooseLastWords({{0, gone}, {1, "on host host1: no memory"}}, gone), "shard 1: on host host1: no memory");
  EXPECT_EQ(ChooseLastWords({{0, "host1 is gone: shard 1: no memory"}}, ""),
            "shard 0: host1 is gone: shard 1: no memory");
}

TEST(LastWords, OfAnotherShardGoBeforeWhatMpiSaysOfIt) {
  const auto dir = testing::MakeTempDir("words");
  EXPECT_EQ(FindLastWords(dir, 0, "MPI_Bcast: broken"), "MPI_Bcast: broken");
  engine::WriteRankError(dir, 0, "mine");
  EXPECT_EQ(FindLastWords(dir, 0, "MPI_Bcast: broken"), "MPI_Bcast: broken");
  engine::WriteRankError(dir, 1, "bad block");
  EXPECT_EQ(FindLastWords(dir, 0, "MPI_Bcast: broken"), "shard 1: bad block");
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
