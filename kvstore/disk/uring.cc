#include "uring.h"

#include <liburing.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace longshelf::kvstore::disk {
namespace {

constexpr unsigned kDepth = 16;

}  // namespace

absl::StatusOr<std::unique_ptr<Uring>> Uring::Create(Submit submit) {
  auto ring = std::make_unique<io_uring>();
  if (const int error = io_uring_queue_init(kDepth, ring.get(), 0); error < 0) {
    return absl::UnavailableError(absl::StrCat("io_uring: ", std::generic_category().message(-error)));
  }
  if (submit == nullptr) submit = io_uring_submit_and_wait;
  return std::unique_ptr<Uring>(new Uring(std::move(ring), std::move(submit)));
}

Uring::Uring(std::unique_ptr<io_uring> ring, Submit submit) : ring_(std::move(ring)), submit_(std::move(submit)) {}

Uring::~Uring() {
  if (usable_) io_uring_queue_exit(ring_.get());
}

void Uring::Renew() {
  io_uring_queue_exit(ring_.get());
  usable_ = io_uring_queue_init(kDepth, ring_.get(), 0) == 0;
}

int64_t Uring::Write(int fd, uint64_t offset, std::span<const std::span<const std::byte>> pieces) {
  std::lock_guard lock(mutex_);
  if (!usable_) return -EAGAIN;
  pieces = pieces.first(std::min<size_t>(pieces.size(), kDepth));
  for (size_t i = 0; i < pieces.size(); ++i) {
    io_uring_sqe* entry = io_uring_get_sqe(ring_.get());
    LONGSHELF_CHECK(entry != nullptr);  // the queue is as deep, and empty between calls
    io_uring_prep_write(entry, fd, pieces[i].data(), static_cast<unsigned>(pieces[i].size()), offset);
    io_uring_sqe_set_data64(entry, i);
    offset += pieces[i].size();
  }
  int taken = 0;
  do {
    taken = submit_(ring_.get(), static_cast<unsigned>(pieces.size()));
  } while (taken == -EINTR);
  // What the kernel took, the first so many, must be waited for, whatever happens: it reads our memory until then. Of
  // the rest it will say nothing.
  const size_t n_taken = static_cast<size_t>(std::max(taken, 0));
  std::array<int32_t, kDepth> results{};
  for (size_t n_done = 0; n_done < n_taken;) {
    io_uring_cqe* done = nullptr;
    const int error = io_uring_wait_cqe(ring_.get(), &done);
    if (error == -EINTR || error == -EAGAIN) continue;
    LONGSHELF_CHECK(error == 0);
    results[io_uring_cqe_get_data64(done)] = done->res;
    io_uring_cqe_seen(ring_.get(), done);
    ++n_done;
  }
  if (n_taken < pieces.size()) Renew();
  if (n_taken == 0) return taken < 0 ? taken : -EAGAIN;
  pieces = pieces.first(n_taken);
  int64_t n_bytes = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (results[i] < 0) return n_bytes > 0 ? n_bytes : results[i];
    n_bytes += results[i];
    if (static_cast<size_t>(results[i]) < pieces[i].size()) break;
  }
  return n_bytes;
}

}  // namespace longshelf::kvstore::disk
