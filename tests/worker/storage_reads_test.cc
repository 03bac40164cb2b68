#include "storage_reads.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "common/metrics.h"
#include "engine/comm/run_dir.h"
#include "testing/fixtures.h"

namespace longshelf::worker {
namespace {

constexpr size_t kFileBytes = 1 << 20;

// A file of the given size, none of it in the page cache; empty where files live in memory.
std::filesystem::path MakeColdFile() {
  std::filesystem::path path = testing::MakeTempDir("reads") / "weights";
  std::ofstream(path, std::ios::binary) << std::string(kFileBytes, 'w');
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  EXPECT_EQ(fsync(fd), 0);
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  void* data = mmap(nullptr, kFileBytes, PROT_READ, MAP_SHARED, fd, 0);
  unsigned char resident[kFileBytes / 4096] = {};
  EXPECT_EQ(mincore(data, kFileBytes, resident), 0);
  munmap(data, kFileBytes);
  close(fd);
  return (resident[0] & 1U) != 0 ? std::filesystem::path() : path;
}

// Touches every page of it through a mapping, as the model does. Returns the sum, so that nothing is left out.
size_t Touch(const std::filesystem::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  void* data = mmap(nullptr, kFileBytes, PROT_READ, MAP_SHARED, fd, 0);
  size_t sum = 0;
  for (size_t i = 0; i < kFileBytes; i += 4096) sum += static_cast<const volatile unsigned char*>(data)[i];
  munmap(data, kFileBytes);
  close(fd);
  return sum;
}
constexpr size_t kSum = kFileBytes / 4096 * 'w';

double ReadBytes(const Metrics& metrics) {
  const std::string text = metrics.Serialize();
  const std::string name = "\nlongshelf_worker_storage_read_bytes_total ";
  const size_t at = text.find(name);
  return at == std::string::npos ? -1 : std::strtod(text.c_str() + at + name.size(), nullptr);
}

TEST(StorageReads, CountWhatAMappedFileBringsFromStorageAndNothingWhenItIsInMemory) {
  const std::filesystem::path path = MakeColdFile();
  if (path.empty()) GTEST_SKIP() << "the temporary directory keeps its files in memory";
  Metrics metrics("test");
  StorageReads reads(metrics, "");
  reads.Update();
  const double before = ReadBytes(metrics);
  ASSERT_GE(before, 0);
  ASSERT_EQ(Touch(path), kSum);
  reads.Update();
  const double cold = ReadBytes(metrics);
  EXPECT_GE(cold, before + kFileBytes);
  EXPECT_LT(cold, before + 3 * kFileBytes);
  ASSERT_EQ(Touch(path), kSum);
  reads.Update();
  EXPECT_EQ(ReadBytes(metrics), cold);
}

TEST(StorageReads, AreSummedOverTheProcessesOfTheGroup) {
  const std::filesystem::path path = MakeColdFile();
  if (path.empty()) GTEST_SKIP() << "the temporary directory keeps its files in memory";
  const std::filesystem::path run_dir = testing::MakeTempDir("run");
  Metrics metrics("test");
  StorageReads reads(metrics, run_dir);
  ASSERT_TRUE(engine::WriteRankPid(run_dir, 0, getpid()).ok());
  reads.Update();
  const double before = ReadBytes(metrics);
  int done[2];
  int end[2];
  ASSERT_EQ(pipe(done), 0);
  ASSERT_EQ(pipe(end), 0);
  const pid_t child = fork();
  if (child == 0) {
    char byte = Touch(path) == kSum ? 'y' : 'n';
    if (write(done[1], &byte, 1) != 1 || read(end[0], &byte, 1) != 1) _exit(1);
    _exit(0);
  }
  char byte = 0;
  ASSERT_EQ(read(done[0], &byte, 1), 1);
  EXPECT_EQ(byte, 'y');
  ASSERT_TRUE(engine::WriteRankPid(run_dir, 1, child).ok());
  reads.Update();
  const double with_child = ReadBytes(metrics);
  EXPECT_GE(with_child, before + kFileBytes);
  ASSERT_EQ(write(end[1], &byte, 1), 1);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  // A counter never falls, whoever has ended.
  reads.Update();
  EXPECT_GE(ReadBytes(metrics), with_child);
  for (const int fd : {done[0], done[1], end[0], end[1]}) close(fd);
}

}  // namespace
}  // namespace longshelf::worker
