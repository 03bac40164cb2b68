#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace longshelf::kvstore::disk {

// Threads that may wait for the device. What is queued when the pool is destroyed is still run.
class ReadPool {
 public:
  ReadPool(size_t n_threads, size_t n_queued_max);
  ~ReadPool();

  // False, and `read` is not run, when the queue is full.
  bool Post(std::function<void()> read);

 private:
  void Stop();
  void Run();

  const size_t n_queued_max_;
  // Guards the queue. Not a Mailbox: several threads take from it.
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<std::function<void()>> queue_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace longshelf::kvstore::disk
