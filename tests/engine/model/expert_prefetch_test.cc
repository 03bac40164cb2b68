#include "expert_prefetch.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kFileBytes = 8 << 20;

// A mapped file whose pages can be dropped.
class DroppableFile {
 public:
  DroppableFile() {
    const std::filesystem::path path = testing::MakeTempDir("prefetch") / "weights";
    std::ofstream(path, std::ios::binary) << std::string(kFileBytes, 'w');
    fd_ = open(path.c_str(), O_RDWR | O_CLOEXEC);
    EXPECT_EQ(fsync(fd_), 0);
    void* data = mmap(nullptr, kFileBytes, PROT_READ, MAP_SHARED, fd_, 0);
    EXPECT_NE(data, MAP_FAILED);
    data_ = static_cast<const uint8_t*>(data);
    // Only what is asked for is read, nothing around it.
    madvise(data, kFileBytes, MADV_RANDOM);
  }
  ~DroppableFile() {
    munmap(const_cast<uint8_t*>(data_), kFileBytes);
    close(fd_);
  }
  DroppableFile(const DroppableFile&) = delete;
  DroppableFile& operator=(const DroppableFile&) = delete;

  const uint8_t* data() const { return data_; }
  // False where files live in memory.
  bool Drop() {
    madvise(const_cast<uint8_t*>(data_), kFileBytes, MADV_DONTNEED);
    posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
    return CountResident(0, kFileBytes) == 0;
  }
  size_t CountResident(size_t begin, size_t end) const {
    std::vector<unsigned char> pages((end - begin) / kPage);
    EXPECT_EQ(mincore(const_cast<uint8_t*>(data_) + begin, end - begin, pages.data()), 0);
    size_t n = 0;
    for (const unsigned char page : pages) n += page & 1U;
    return n;
  }
  // Waits for reads that the kernel does in the background.
  bool AwaitResident(size_t begin, size_t end) const {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (CountResident(begin, end) < (end - begin) / kPage) {
      if (std::chrono::steady_clock::now() > limit) return false;
      std::this_thread::yield();
    }
    return true;
  }

 private:
  int fd_ = -1;
  const uint8_t* data_ = nullptr;
};

// FP4 matrices of 1 MiB with scales of 64 KiB, one after the other, from `at` on.
ExpertWeights ExpertAt(const uint8_t* at) {
  ExpertWeights expert;
  for (Matrix* matrix : {&expert.w1, &expert.w2, &expert.w3}) {
    *matrix = {Matrix::Format::kFp4, 1024, 2048, at, at + (1 << 20), 64};
    at += (1 << 20) + (64 << 10);
  }
  return expert;
}
constexpr size_t kExpertBytes = 3 * ((1 << 20) + (64 << 10));

bool BecomesDue(ExpertPrefetch& prefetch) {
  for (int i = 0; i < 8; ++i) {
    if (prefetch.IsDue()) return true;
  }
  return false;
}

TEST(ExpertPrefetch, IsNeverDueWhileNothingIsReadFromStorage) {
  ExpertPrefetch prefetch(/*from_files=*/true);
  for (int i = 0; i < 10'000; ++i) ASSERT_FALSE(prefetch.IsDue()) << i;
}

TEST(ExpertPrefetch, BringsAChosenExpertAndNothingElseOnceSomethingWasRead) {
  DroppableFile file;
  if (!file.Drop()) GTEST_SKIP() << "the temporary directory keeps its files in memory";
  ExpertPrefetch prefetch(/*from_files=*/true);
  ExpertPrefetch of_memory(/*from_files=*/false);
  const volatile uint8_t first = file.data()[0];
  EXPECT_EQ(first, 'w');
  ASSERT_TRUE(BecomesDue(prefetch));
  EXPECT_FALSE(BecomesDue(of_memory));
  constexpr size_t kAt = 2 << 20;
  ASSERT_EQ(file.CountResident(kAt, kFileBytes), 0U);
  prefetch.Ask(ExpertAt(file.data() + kAt));
  EXPECT_TRUE(file.AwaitResident(kAt, kAt + kExpertBytes));
  EXPECT_EQ(file.CountResident(kAt + kExpertBytes, kFileBytes), 0U);
  // It ends by itself when the reads do.
  int n_calls = 0;
  while (prefetch.IsDue()) ASSERT_LT(++n_calls, 10'000);
}

TEST(ExpertPrefetch, OfTooManyRequestsServesTheLast) {
  DroppableFile file;
  if (!file.Drop()) GTEST_SKIP() << "the temporary directory keeps its files in memory";
  ExpertPrefetch prefetch(/*from_files=*/true);
  const ExpertWeights first = ExpertAt(file.data());
  for (int i = 0; i < 5000; ++i) prefetch.Ask(first);
  constexpr size_t kAt = 4 << 20;
  prefetch.Ask(ExpertAt(file.data() + kAt));
  EXPECT_TRUE(file.AwaitResident(kAt, kAt + kExpertBytes));
}

TEST(MatrixBytes, AreThoseOfEveryStoredFormat) {
  const uint8_t scale = 0;
  const auto matrix = [&](Matrix::Format format, int64_t scale_cols) {
    return Matrix{format, 200, 320, &scale, scale_cols > 0 ? &scale : nullptr, scale_cols};
  };
  EXPECT_EQ(MatrixBytes(matrix(Matrix::Format::kFp4, 10)), 32'000U);
  EXPECT_EQ(ScaleBytes(matrix(Matrix::Format::kFp4, 10)), 2'000U);
  EXPECT_EQ(MatrixBytes(matrix(Matrix::Format::kFp8, 3)), 64'000U);
  EXPECT_EQ(ScaleBytes(matrix(Matrix::Format::kFp8, 3)), 6U);
  EXPECT_EQ(MatrixBytes(matrix(Matrix::Format::kBf16, 0)), 128'000U);
  EXPECT_EQ(MatrixBytes(matrix(Matrix::Format::kF32, 0)), 256'000U);
  EXPECT_EQ(ScaleBytes(matrix(Matrix::Format::kF32, 0)), 0U);
}

}  // namespace
}  // namespace longshelf::engine
