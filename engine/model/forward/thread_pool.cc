#include "thread_pool.h"

#include <immintrin.h>

#include "select.h"

namespace longshelf::engine {
namespace {

// Some tens of microseconds: longer than the serial parts of a step, shorter than anybody would notice.
constexpr int kSpins = 4000;

}  // namespace

ThreadPool::ThreadPool(int n_threads)
    : n_spins_(n_threads <= static_cast<int>(std::thread::hardware_concurrency()) ? kSpins : 0),
      stretches_(static_cast<size_t>(n_threads)) {
  try {
    for (int i = 1; i < n_threads; ++i) workers_.emplace_back([this, i] { WorkerLoop(i); });
  } catch (...) {  // the system gives no more threads; those there must end before they are destroyed
    Stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { Stop(); }

void ThreadPool::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    round_.fetch_add(1);
  }
  start_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(int64_t n_items, Work fn) {
  if (!between_) return Fork(n_items, fn, nullptr);
  const absl::FunctionRef<void()> between(between_);
  Fork(n_items, fn, &between);
}

void ThreadPool::Run(int64_t n_items, Work fn, absl::FunctionRef<void()> between) {
  const auto both = [&] {
    between();
    if (between_) between_();
  };
  const absl::FunctionRef<void()> all(both);
  Fork(n_items, fn, &all);
}

void ThreadPool::Fork(int64_t n_items, const Work& fn, Between between) {
  if (workers_.empty() || n_items <= 1) {
    for (int64_t i = 0; i < n_items; ++i) {
      fn(i, 0);
      if (between != nullptr) (*between)();
    }
    return;
  }
  work_ = &fn;
  for (size_t t = 0; t < stretches_.size(); ++t) {
    const auto edge = [&](size_t at) { return n_items * static_cast<int64_t>(at) / n_threads(); };
    stretches_[t].next.store(edge(t), std::memory_order_relaxed);
    stretches_[t].end = edge(t + 1);
  }
  n_busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  round_.fetch_add(1);
  if (n_sleeping_.load() > 0) {
    { std::lock_guard lock(mutex_); }
    start_.notify_all();
  }
  TakeItems(0, fn, between);
  for (int i = 0; i < n_spins_; ++i) {
    if (n_busy_.load(std::memory_order_acquire) == 0) return;
    if (between != nullptr) (*between)();
    _mm_pause();
  }
  std::unique_lock lock(mutex_);
  joiner_sleeps_ = true;
  done_.wait(lock, [this] { return n_busy_.load() == 0; });
  joiner_sleeps_ = false;
}

int64_t ThreadPool::AwaitRound(int64_t seen) {
  for (int i = 0; i < n_spins_; ++i) {
    if (round_.load(std::memory_order_acquire) != seen) break;
    _mm_pause();
  }
  if (round_.load(std::memory_order_acquire) == seen) {
    std::unique_lock lock(mutex_);
    n_sleeping_.fetch_add(1);
    start_.wait(lock, [&] { return round_.load() != seen; });
    n_sleeping_.fetch_sub(1);
  }
  return stopping_ ? -1 : round_.load(std::memory_order_acquire);
}

void ThreadPool::WorkerLoop(int thread) {
  const FlushDenormals flush;
  int64_t seen = 0;
  while ((seen = AwaitRound(seen)) >= 0) {
    TakeItems(thread, *work_, nullptr);
    if (n_busy_.fetch_sub(1) == 1 && joiner_sleeps_.load()) {
      { std::lock_guard lock(mutex_); }
      done_.notify_one();
    }
  }
}

void ThreadPool::TakeItems(int thread, const Work& fn, Between between) {
  for (size_t k = 0; k < stretches_.size(); ++k) {
    Stretch& stretch = stretches_[(static_cast<size_t>(thread) + k) % stretches_.size()];
    for (int64_t i = stretch.next.fetch_add(1, std::memory_order_relaxed); i < stretch.end;
         i = stretch.next.fetch_add(1, std::memory_order_relaxed)) {
      fn(i, thread);
      if (between != nullptr) (*between)();
    }
  }
}

}  // namespace longshelf::engine
