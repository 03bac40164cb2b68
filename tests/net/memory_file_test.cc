#include "memory_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <thread>

#include "test_authority.h"

namespace longshelf::net {
namespace {

time_t ChangedAt(const std::string& path) {
  struct stat status = {};
  EXPECT_EQ(stat(path.c_str(), &status), 0);
  return status.st_mtim.tv_sec;
}

TEST(MemoryFile, HasOnePathAndANewTimeForEachContent) {
  MemoryFile file = *MemoryFile::Create("first");
  const std::string path = file.path();
  const time_t first = ChangedAt(path);
  EXPECT_EQ(ContentOf(path), "first");
  ASSERT_TRUE(file.Replace("second and longer").ok());
  EXPECT_EQ(file.path(), path);
  EXPECT_EQ(ContentOf(path), "second and longer");
  EXPECT_GT(ChangedAt(path), first);
}

TEST(MemoryFile, ReadersSeeAWholeContentWhileItIsReplaced) {
  const std::string a(100'000, 'a'), b(100'000, 'b');
  MemoryFile file = *MemoryFile::Create(a);
  std::atomic<bool> done = false;
  std::thread reader([&] {
    while (!done) {
      const std::string content = ContentOf(file.path());
      EXPECT_TRUE(content == a || content == b);
    }
  });
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(file.Replace(i % 2 == 0 ? b : a).ok());
  done = true;
  reader.join();
}

}  // namespace
}  // namespace longshelf::net
