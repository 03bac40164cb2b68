#include "thread_pool.h"

namespace longshelf::engine {

ThreadPool::ThreadPool(int n_threads) {
  for (int i = 1; i < n_threads; ++i) workers_.emplace_back([this, i] { WorkerLoop(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  start_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(int64_t n_items, const std::function<void(int64_t, int)>& fn) {
  if (workers_.empty() || n_items <= 1) {
    for (int64_t i = 0; i < n_items; ++i) fn(i, 0);
    return;
  }
  {
    std::lock_guard lock(mutex_);
    fn_ = &fn;
    n_items_ = n_items;
    next_.store(0, std::memory_order_relaxed);
    n_busy_ = static_cast<int>(workers_.size());
    ++round_;
  }
  start_.notify_all();
  TakeItems(0);
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return n_busy_ == 0; });
}

void ThreadPool::WorkerLoop(int thread) {
  uint64_t seen = 0;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      start_.wait(lock, [&] { return stopping_ || round_ != seen; });
      if (stopping_) return;
      seen = round_;
    }
    TakeItems(thread);
    {
      std::lock_guard lock(mutex_);
      --n_busy_;
    }
    done_.notify_one();
  }
}

void ThreadPool::TakeItems(int thread) {
  for (int64_t i = next_.fetch_add(1, std::memory_order_relaxed); i < n_items_;
       i = next_.fetch_add(1, std::memory_order_relaxed)) {
    (*fn_)(i, thread);
  }
}

}  // namespace longshelf::engine
