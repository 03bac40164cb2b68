#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace longshelf::worker {

// A few threads for work that blocks on the KV store. Tasks start in the order they were posted. The mutex guards the
// queue: unlike a mailbox it has several consumers that take one task each.
class TaskPool {
 public:
  TaskPool(int n_threads, size_t capacity);
  // Runs what is queued, then joins.
  ~TaskPool();
  TaskPool(const TaskPool&) = delete;
  TaskPool& operator=(const TaskPool&) = delete;

  // False when full or stopping; the task is then untouched.
  bool Post(std::function<void()>&& task);

 private:
  void Work();

  const size_t capacity_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<std::function<void()>> queue_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace longshelf::worker
