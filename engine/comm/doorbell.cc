#include "engine/comm/doorbell.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status.h"
#include "engine/comm/run_dir.h"

namespace longshelf::engine {

struct Doorbell::Page {
  uint64_t magic;
  uint64_t generation;
  alignas(64) std::atomic<uint32_t> n_rings;  // wraps; compared by difference
  alignas(64) std::atomic<uint32_t> n_sleepers;
};
static_assert(std::atomic<uint32_t>::is_always_lock_free && sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));

namespace {

constexpr uint64_t kMagic = 0x4C4C45424C534C4CULL;
constexpr size_t kPageBytes = 4096;
// Back-to-back steps meet the follower awake; sched_yield keeps the spin harmless on an oversubscribed machine.
constexpr std::chrono::microseconds kSpin(200);

long Futex(std::atomic<uint32_t>* word, int op, uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), op, value, timeout, nullptr, 0);
}

absl::Status SystemError(const std::string& what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", strerror(errno)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Doorbell>> Doorbell::Map(int fd) {
  void* address = mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED) return SystemError("doorbell: cannot map the page");
  return std::unique_ptr<Doorbell>(new Doorbell(static_cast<Page*>(address)));
}

absl::StatusOr<std::unique_ptr<Doorbell>> Doorbell::Create(const std::string& run_dir, uint64_t generation) {
  static_assert(sizeof(Page) <= kPageBytes);
  const std::string path = DoorbellPath(run_dir);
  unlink(path.c_str());
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return SystemError(absl::StrCat("doorbell: cannot create ", path));
  if (ftruncate(fd, kPageBytes) != 0) {
    const absl::Status status = SystemError("doorbell: cannot size the page");
    close(fd);
    return status;
  }
  auto doorbell = Map(fd);
  close(fd);
  if (!doorbell.ok()) return doorbell.status();
  Page* page = (*doorbell)->page_;
  page->generation = generation;
  page->magic = kMagic;
  return doorbell;
}

absl::StatusOr<std::unique_ptr<Doorbell>> Doorbell::Open(const std::string& run_dir, uint64_t generation) {
  const std::string path = DoorbellPath(run_dir);
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return SystemError(absl::StrCat("doorbell: cannot open ", path));
  struct stat info {};
  if (fstat(fd, &info) != 0 || info.st_size < static_cast<off_t>(kPageBytes)) {
    close(fd);
    return absl::FailedPreconditionError(absl::StrCat("doorbell: ", path, " is too short"));
  }
  auto doorbell = Map(fd);
  close(fd);
  if (!doorbell.ok()) return doorbell.status();
  const Page* page = (*doorbell)->page_;
  if (page->magic != kMagic || page->generation != generation) {
    return absl::FailedPreconditionError(
        absl::StrCat("doorbell: ", path, " belongs to generation ", page->generation, ", this shard to ", generation));
  }
  return doorbell;
}

Doorbell::~Doorbell() { munmap(page_, kPageBytes); }

void Doorbell::Ring() {
  page_->n_rings.fetch_add(1, std::memory_order_seq_cst);
  if (page_->n_sleepers.load(std::memory_order_seq_cst) != 0) {
    Futex(&page_->n_rings, FUTEX_WAKE, INT32_MAX, nullptr);
  }
}

bool Doorbell::Wait(absl::Duration timeout) {
  const auto rung = [this] { return page_->n_rings.load(std::memory_order_seq_cst) != answered_; };
  const auto spin_until = std::chrono::steady_clock::now() + kSpin;
  while (!rung() && std::chrono::steady_clock::now() < spin_until) sched_yield();
  if (!rung()) {
    page_->n_sleepers.fetch_add(1, std::memory_order_seq_cst);
    const timespec wait = absl::ToTimespec(timeout);
    if (!rung()) Futex(&page_->n_rings, FUTEX_WAIT, answered_, &wait);
    page_->n_sleepers.fetch_sub(1, std::memory_order_seq_cst);
  }
  if (!rung()) return false;
  ++answered_;
  return true;
}

}  // namespace longshelf::engine
