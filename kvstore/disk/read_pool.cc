#include "read_pool.h"

#include <utility>

namespace longshelf::kvstore::disk {

ReadPool::ReadPool(size_t n_threads, size_t n_queued_max) : n_queued_max_(n_queued_max) {
  try {
    for (size_t i = 0; i < n_threads; ++i) threads_.emplace_back([this] { Run(); });
  } catch (...) {  // the system gives no more threads; those there must end before they are destroyed
    Stop();
    throw;
  }
}

ReadPool::~ReadPool() { Stop(); }

void ReadPool::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  arrived_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool ReadPool::Post(std::function<void()> read) {
  {
    std::lock_guard lock(mutex_);
    if (queue_.size() >= n_queued_max_) return false;
    queue_.push_back(std::move(read));
  }
  arrived_.notify_one();
  return true;
}

void ReadPool::Run() {
  while (true) {
    std::function<void()> read;
    {
      std::unique_lock lock(mutex_);
      arrived_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      read = std::move(queue_.front());
      queue_.pop_front();
    }
    read();
  }
}

}  // namespace longshelf::kvstore::disk
