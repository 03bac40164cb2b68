#include "expert_prefetch.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace longshelf::engine {
namespace {

// Two ranges (codes and scales) of three matrices for every expert of a layer, and room to fall behind.
constexpr size_t kQueueRanges = 4096;
// Calls without any read after which everything counts as resident: some tens of decode steps.
constexpr int64_t kQuietLooks = 1024;
constexpr int64_t kCallsPerLook = 4;

// What this process had read from storage so far, by any of its threads, ahead or on demand: a number that stands still
// as long as every page is there. Blocks count reads that were issued; major faults also those of file systems that do
// not account for blocks.
int64_t CountReads() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_inblock + usage.ru_majflt;
}

}  // namespace

// A mutex instead of a mailbox: nothing may be allocated in a step, and of too many requests the oldest are dropped.
struct ExpertPrefetch::Queue {
  std::mutex mutex;  // guards all below
  std::condition_variable arrived;
  std::array<Range, kQueueRanges> ranges;
  size_t n_put = 0;
  size_t n_taken = 0;
  bool closed = false;
};

ExpertPrefetch::ExpertPrefetch(bool from_files) : n_read_(CountReads()), n_quiet_(kQuietLooks) {
  if (!from_files) return;
  queue_ = std::make_unique<Queue>();
  thread_ = std::thread([queue = queue_.get()] { Serve(*queue); });
}

ExpertPrefetch::~ExpertPrefetch() {
  if (queue_ == nullptr) return;
  {
    const std::lock_guard lock(queue_->mutex);
    queue_->closed = true;
  }
  queue_->arrived.notify_one();
  thread_.join();
}

bool ExpertPrefetch::IsDue() {
  if (queue_ == nullptr) return false;
  if (n_quiet_ >= kQuietLooks && ++n_calls_ % kCallsPerLook != 0) return false;
  const int64_t n_read = CountReads();
  n_quiet_ = n_read == n_read_ ? n_quiet_ + 1 : 0;
  n_read_ = n_read;
  return n_quiet_ < kQuietLooks;
}

void ExpertPrefetch::Ask(const ExpertWeights& expert) {
  for (const Matrix* matrix : {&expert.w1, &expert.w3, &expert.w2}) {
    AskRange(matrix->data, MatrixBytes(*matrix));
    AskRange(matrix->scale, ScaleBytes(*matrix));
  }
}

void ExpertPrefetch::AskRange(const uint8_t* data, size_t n_bytes) {
  if (n_bytes == 0) return;
  {
    const std::lock_guard lock(queue_->mutex);
    queue_->ranges[queue_->n_put++ % kQueueRanges] = {data, n_bytes};
    queue_->n_taken = std::max(queue_->n_taken, queue_->n_put - std::min(queue_->n_put, kQueueRanges));
  }
  queue_->arrived.notify_one();
}

void ExpertPrefetch::Serve(Queue& queue) {
  const auto page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  std::unique_lock lock(queue.mutex);
  while (true) {
    queue.arrived.wait(lock, [&queue] { return queue.closed || queue.n_taken < queue.n_put; });
    if (queue.closed) return;
    const Range range = queue.ranges[queue.n_taken++ % kQueueRanges];
    lock.unlock();
    const uintptr_t begin = reinterpret_cast<uintptr_t>(range.data) / page_bytes * page_bytes;
    const uintptr_t end = reinterpret_cast<uintptr_t>(range.data) + range.n_bytes;
    // A hint: when it fails, the pages are read when they are touched.
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED);
    lock.lock();
  }
}

}  // namespace longshelf::engine
