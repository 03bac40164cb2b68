#include "common/memory.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstring>
#include <memory>
#include <vector>

namespace longshelf {
namespace {

int64_t PageFaults() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

// Many at a time, as objects on their way are.
void UseBuffers() {
  constexpr size_t kBytes = 4 << 20;
  std::vector<std::unique_ptr<char[]>> buffers;
  for (int i = 0; i < 20; ++i) {
    buffers.push_back(std::make_unique_for_overwrite<char[]>(kBytes));
    std::memset(buffers.back().get(), i, kBytes);
  }
}

TEST(KeepFreedMemory, BuffersAreHandedOutAgainWithoutTheKernel) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer's allocator does as it likes";
#endif
  KeepFreedMemory();
  UseBuffers();
  const int64_t before = PageFaults();
  UseBuffers();
  EXPECT_LT(PageFaults() - before, 1000) << "of twenty thousand";
}

}  // namespace
}  // namespace longshelf
