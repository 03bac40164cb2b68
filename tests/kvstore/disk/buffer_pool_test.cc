#include "disk/buffer_pool.h"

#include <gtest/gtest.h>

#include <utility>

namespace longshelf::kvstore::disk {
namespace {

TEST(BufferPool, UsesABufferAgainForARecordOfItsSize) {
  BufferPool pool(1 << 20);
  AlignedBuffer first = pool.Take(10000);
  EXPECT_EQ(first.size(), PaddedBytes(10000));
  const std::byte* const bytes = first.span().data();
  pool.Give(std::move(first));
  EXPECT_EQ(pool.n_bytes(), PaddedBytes(10000));
  AlignedBuffer other = pool.Take(20000);
  EXPECT_EQ(other.size(), PaddedBytes(20000));
  EXPECT_NE(other.span().data(), bytes);
  EXPECT_EQ(pool.Take(10001).span().data(), bytes) << "the same number of sectors";
  EXPECT_EQ(pool.n_bytes(), 0u);
}

TEST(BufferPool, KeepsNoMoreThanItMay) {
  BufferPool pool(3 * kSectorBytes);
  pool.Give(AlignedBuffer(4 * kSectorBytes));
  EXPECT_EQ(pool.n_bytes(), 0u);
  AlignedBuffer old(2 * kSectorBytes);
  pool.Give(std::move(old));
  pool.Give(AlignedBuffer(kSectorBytes));
  pool.Give(AlignedBuffer(kSectorBytes));
  EXPECT_EQ(pool.n_bytes(), 2 * kSectorBytes) << "the oldest goes";
}

TEST(BufferPool, TakesNothingOfWhatIsEmpty) {
  BufferPool pool(1 << 20);
  pool.Give(AlignedBuffer());
  AlignedBuffer buffer(kSectorBytes);
  const AlignedBuffer kept = std::move(buffer);
  pool.Give(std::move(buffer));  // NOLINT(bugprone-use-after-move): what a caller may do by mistake
  EXPECT_EQ(pool.n_bytes(), 0u);
}

}  // namespace
}  // namespace longshelf::kvstore::disk
