#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace longshelf::engine {

// Forks and joins inside one call; owned by the engine thread, which works too. Work items are independent, so results
// never depend on n_threads.
class ThreadPool {
 public:
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int n_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // fn(item, thread) for every item in [0, n_items); thread < n_threads() names the scratch to use.
  void Run(int64_t n_items, const std::function<void(int64_t item, int thread)>& fn);

 private:
  void WorkerLoop(int thread);
  void TakeItems(int thread);

  // Guards the fork-join hand-over; a mailbox would copy the work for every thread.
  std::mutex mutex_;
  std::condition_variable start_;
  std::condition_variable done_;
  uint64_t round_ = 0;
  int n_busy_ = 0;
  bool stopping_ = false;
  const std::function<void(int64_t, int)>* fn_ = nullptr;
  int64_t n_items_ = 0;
  std::atomic<int64_t> next_{0};
  std::vector<std::thread> workers_;
};

}  // namespace longshelf::engine
