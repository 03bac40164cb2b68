#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"

namespace longshelf::engine {

// Forks and joins inside one call; owned by the engine thread, which works too. Work items are independent, so results
// never depend on n_threads. Each thread begins with a stretch of neighbouring items, as these read neighbouring
// memory, and helps the others when it is done. Between two calls that follow closely the threads spin, then they
// sleep; with more threads than processors they sleep at once.
class ThreadPool {
 public:
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int n_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Called on the engine thread after each item of its own and while it waits for the others: for what must not wait
  // until the work is done.
  void SetBetween(std::function<void()> between) { between_ = std::move(between); }

  // fn(item, thread) for every item in [0, n_items); thread < n_threads() names the scratch to use.
  void Run(int64_t n_items, absl::FunctionRef<void(int64_t item, int thread)> fn);
  // With something that comes before what SetBetween gave.
  void Run(int64_t n_items, absl::FunctionRef<void(int64_t item, int thread)> fn, absl::FunctionRef<void()> between);

 private:
  using Work = absl::FunctionRef<void(int64_t, int)>;
  using Between = const absl::FunctionRef<void()>*;  // null: nothing
  void Fork(int64_t n_items, const Work& fn, Between between);
  void Stop();
  void WorkerLoop(int thread);
  void TakeItems(int thread, const Work& fn, Between between);
  // Returns the round that began after `seen`, or -1 when the pool ends.
  int64_t AwaitRound(int64_t seen);

  const int n_spins_;
  std::function<void()> between_;
  // The items of one thread: [next, end) are left.
  struct alignas(64) Stretch {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  // Written by the engine thread before round_ moves on.
  const Work* work_ = nullptr;
  std::vector<Stretch> stretches_;
  alignas(64) std::atomic<int64_t> round_{0};
  alignas(64) std::atomic<int> n_busy_{0};
  alignas(64) std::atomic<int> n_sleeping_{0};
  std::atomic<bool> joiner_sleeps_{false};
  std::atomic<bool> stopping_{false};
  // Guards only going to sleep and waking up; a mailbox would copy the work for every thread.
  std::mutex mutex_;
  std::condition_variable start_;
  std::condition_variable done_;
  std::vector<std::thread> workers_;
};

}  // namespace longshelf::engine
