#include "process/available_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "fake_root.h"

namespace longshelf {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;

class AvailableMemoryTest : public testing::FakeRootTest {
 protected:
  AvailableMemoryTest() { Put("proc/meminfo", "MemAvailable:    1048576 kB\n"); }

  void PutV2(const std::string& group, const std::string& limit, uint64_t current) {
    Put("sys/fs/cgroup" + group + "/memory.max", limit + "\n");
    Put("sys/fs/cgroup" + group + "/memory.current", std::to_string(current) + "\n");
  }
  AvailableMemory Find() const { return FindAvailableMemory(root_); }
};

TEST_F(AvailableMemoryTest, IsTheMachinesWhereNoGroupSaysLess) {
  EXPECT_EQ(Find().bytes, 1024 * kMiB);
  EXPECT_EQ(Find().bound_by, "this machine");
  MountV2("/", "/a");
  PutV2("/a", "max", 5 * kMiB);
  EXPECT_EQ(Find().bytes, 1024 * kMiB);
}

TEST_F(AvailableMemoryTest, IsWhatItsOwnGroupOfVersion2Leaves) {
  MountV2("/", "/system.slice/worker.service");
  PutV2("/system.slice/worker.service", std::to_string(200 * kMiB), 30 * kMiB);
  EXPECT_EQ(Find().bytes, 170 * kMiB);
  EXPECT_THAT(Find().bound_by, HasSubstr("/sys/fs/cgroup/system.slice/worker.service (limit 209715200 bytes)"));
}

TEST_F(AvailableMemoryTest, IsWhatAGroupAboveLeavesWhenThatIsLess) {
  MountV2("/", "/pod/container/inner");
  PutV2("/pod/container/inner", std::to_string(300 * kMiB), 0);
  PutV2("/pod", std::to_string(100 * kMiB), 90 * kMiB);
  EXPECT_EQ(Find().bytes, 10 * kMiB);
  PutV2("/pod", std::to_string(100 * kMiB), 190 * kMiB);
  EXPECT_EQ(Find().bytes, 0U);
}

TEST_F(AvailableMemoryTest, CountsTheThrottleOfVersion2AsALimit) {
  MountV2("/", "/a");
  PutV2("/a", "max", 10 * kMiB);
  Put("sys/fs/cgroup/a/memory.high", std::to_string(50 * kMiB) + "\n");
  EXPECT_EQ(Find().bytes, 40 * kMiB);
}

TEST_F(AvailableMemoryTest, DoesNotCountFilePagesAsUsed) {
  MountV2("/", "/a");
  PutV2("/a", std::to_string(100 * kMiB), 100 * kMiB);
  Put("sys/fs/cgroup/a/memory.stat",
      "anon 1048576\nfile 73400320\nactive_file 31457280\ninactive_file 41943040\nunevictable 0\n");
  EXPECT_EQ(Find().bytes, 70 * kMiB);
}

TEST_F(AvailableMemoryTest, FindsItsGroupWhereAContainerMountsOnlyPartOfTheTree) {
  MountV2("/docker/abc", "/docker/abc/inner");
  PutV2("/inner", std::to_string(80 * kMiB), 0);
  EXPECT_EQ(Find().bytes, 80 * kMiB);
  // Without a namespace for groups, the path is one that the container cannot see.
  MountV2("/", "/../../elsewhere");
  PutV2("", std::to_string(60 * kMiB), 0);
  EXPECT_EQ(Find().bytes, 60 * kMiB);
}

TEST_F(AvailableMemoryTest, ReadsVersion1) {
  Put("proc/self/cgroup", "5:devices:/\n4:hugetlb,memory:/jobs/1 a\n0::/\n");
  Put("proc/self/mountinfo",
      "35 31 0:32 / /mnt/my\\040groups rw - cgroup cgroup rw,hugetlb,memory\n"
      "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  Put("mnt/my groups/jobs/1 a/memory.limit_in_bytes", std::to_string(200 * kMiB));
  Put("mnt/my groups/jobs/1 a/memory.usage_in_bytes", std::to_string(120 * kMiB));
  Put("mnt/my groups/jobs/1 a/memory.stat", "inactive_file 1048576\ntotal_inactive_file 20971520\n");
  Put("mnt/my groups/jobs/memory.limit_in_bytes", "9223372036854771712");
  EXPECT_EQ(Find().bytes, 100 * kMiB);
}

TEST_F(AvailableMemoryTest, PassesOverWhatIsNotThere) {
  Put("proc/meminfo", "nonsense\n");
  Put("proc/self/cgroup", "::\nx\n0::/a\n");
  Put("proc/self/mountinfo", "\n1 2 3\n29 22 0:26 / /sys/fs/cgroup rw - cgroup2\n1 2 0:1 / /x rw - cgroup2 a b\n");
  EXPECT_EQ(Find().bytes, uint64_t{1} << 62);
}

// The real kernel, where this user may make groups.
TEST(AvailableMemoryOfAGroup, IsSeenByAProcessInIt) {
  fs::path group;
  for (const char* base : {"/sys/fs/cgroup/memory", "/sys/fs/cgroup"}) {
    const fs::path path = fs::path(base) / ("longshelf-test-" + std::to_string(getpid()));
    std::error_code error;
    if (!fs::create_directory(path, error)) continue;
    if (fs::exists(path / "memory.limit_in_bytes") || fs::exists(path / "memory.max")) {
      group = path;
      break;
    }
    fs::remove(path, error);
  }
  if (group.empty()) GTEST_SKIP() << "this user may not make control groups with a memory controller here";
  const bool is_v2 = fs::exists(group / "memory.max");
  const fs::path inner = group / "inner";
  std::ofstream(group / (is_v2 ? "memory.max" : "memory.limit_in_bytes")) << 200 * kMiB;
  fs::create_directory(inner);
  EXPECT_EXIT(
      {
        std::ofstream(inner / "cgroup.procs") << getpid() << std::flush;
        const AvailableMemory found = FindAvailableMemory();
        _exit(found.bytes <= 200 * kMiB && found.bytes > 100 * kMiB && found.bound_by.find(group) != std::string::npos);
      },
      ::testing::ExitedWithCode(1), "");
  std::error_code ignored;
  fs::remove(inner, ignored);
  fs::remove(group, ignored);
}

}  // namespace
}  // namespace longshelf
