#include "router/prepare_pool.h"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <utility>

#include "router/heap.h"

namespace longshelf::router {
namespace asio = boost::asio;

namespace {

constexpr uint64_t kTrimEveryBytes = uint64_t{64} << 20;

}  // namespace

PreparePool::PreparePool(const PrepareQueue::Limits& limits, asio::io_context& loop) : loop_(loop), queue_(limits) {
  for (size_t i = 0; i < limits.n_threads; ++i) threads_.emplace_back([this] { Work(); });
}

PreparePool::~PreparePool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool PreparePool::Run(PrepareJob job) {
  // The guard keeps the loop running until the result is there.
  job.done = [guard = asio::make_work_guard(loop_), done = std::move(job.done)] { done(); };
  {
    const std::lock_guard lock(mutex_);
    if (!queue_.Push(std::move(job))) return false;
  }
  changed_.notify_one();
  return true;
}

void PreparePool::Work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    std::optional<PrepareJob> job;
    changed_.wait(lock, [&] { return (job = queue_.Pop()).has_value() || stopping_; });
    if (!job) return;
    lock.unlock();
    job->work();
    job->work = nullptr;  // with the body it held
    GiveBackMemory(job->n_bytes);
    asio::post(loop_, std::move(job->done));
    lock.lock();
    queue_.OnDone(job->n_bytes);
    // Another thread may have been kept from a large one until now.
    changed_.notify_one();
  }
}

void PreparePool::GiveBackMemory(uint64_t n_bytes) {
  if (n_bytes_since_trim_.fetch_add(n_bytes) + n_bytes < kTrimEveryBytes) return;
  n_bytes_since_trim_ = 0;
  TrimHeap();
}

}  // namespace longshelf::router
