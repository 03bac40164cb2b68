#include "disk/uring.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <liburing.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <string>
#include <vector>

#include "objects.h"

namespace longshelf::kvstore::disk {
namespace {

constexpr size_t kPiece = 4096;
constexpr size_t kPieces = 8;

class UringTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto uring = Uring::Create([this](io_uring* ring, unsigned n_done) { return submit_(ring, n_done); });
    if (!uring.ok()) GTEST_SKIP() << uring.status();
    uring_ = *std::move(uring);
    path_ = ::testing::TempDir() + "/uring_test";
    fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ASSERT_GE(fd_, 0);
    for (size_t i = 0; i < kPieces; ++i) pieces_.push_back(std::span(bytes_).subspan(i * kPiece, kPiece));
  }
  void TearDown() override {
    if (fd_ >= 0) close(fd_);
    std::filesystem::remove(path_);
  }
  std::span<const std::span<const std::byte>> From(size_t piece) const { return std::span(pieces_).subspan(piece); }
  bool HoldsAll() const {
    std::vector<std::byte> read(bytes_.size());
    return pread(fd_, read.data(), read.size(), 0) == static_cast<ssize_t>(read.size()) && read == bytes_;
  }

  Uring::Submit submit_ = io_uring_submit_and_wait;
  std::unique_ptr<Uring> uring_;
  const std::vector<std::byte> bytes_ = RandomBytes(1, kPieces* kPiece);
  std::vector<std::span<const std::byte>> pieces_;
  std::string path_;
  int fd_ = -1;
};

TEST_F(UringTest, WritesAllPieces) {
  EXPECT_EQ(uring_->Write(fd_, 0, From(0)), static_cast<int64_t>(bytes_.size()));
  EXPECT_TRUE(HoldsAll());
}

TEST_F(UringTest, SaysSoWhenTheKernelTakesNothingAndWritesTheNextTime) {
  for (const int answer : {-EAGAIN, -EBUSY, -ENOMEM, 0}) {
    submit_ = [=](io_uring*, unsigned) { return answer; };
    EXPECT_EQ(uring_->Write(fd_, 0, From(0)), answer == 0 ? -EAGAIN : answer);
    EXPECT_EQ(std::filesystem::file_size(path_), 0u);
  }
  submit_ = io_uring_submit_and_wait;
  // More than the queue would hold beside what was not taken.
  for (int i = 0; i < 4; ++i) EXPECT_EQ(uring_->Write(fd_, 0, From(0)), static_cast<int64_t>(bytes_.size()));
  EXPECT_TRUE(HoldsAll());
}

TEST_F(UringTest, GoesOnBehindWhatTheKernelTook) {
  submit_ = [](io_uring* ring, unsigned n_done) {
    // The kernel takes none behind one that it does not know.
    ring->sq.sqes[2].opcode = IORING_OP_LAST;
    const int n_taken = io_uring_submit_and_wait(ring, n_done);
    EXPECT_EQ(n_taken, 3);
    return n_taken;
  };
  EXPECT_EQ(uring_->Write(fd_, 0, From(0)), static_cast<int64_t>(2 * kPiece));
  submit_ = io_uring_submit_and_wait;
  EXPECT_EQ(uring_->Write(fd_, 2 * kPiece, From(2)), static_cast<int64_t>((kPieces - 2) * kPiece));
  EXPECT_TRUE(HoldsAll());
}

TEST_F(UringTest, IsAskedAgainAfterAnInterruption) {
  int n_interruptions = 3;
  submit_ = [&](io_uring* ring, unsigned n_done) {
    return n_interruptions-- > 0 ? -EINTR : io_uring_submit_and_wait(ring, n_done);
  };
  EXPECT_EQ(uring_->Write(fd_, 0, From(0)), static_cast<int64_t>(bytes_.size()));
  EXPECT_TRUE(HoldsAll());
}

}  // namespace
}  // namespace longshelf::kvstore::disk
