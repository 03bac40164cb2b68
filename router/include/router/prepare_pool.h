#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "router/prepare_queue.h"

namespace longshelf::router {

// The threads that prepare requests; what each does next is PrepareQueue's business.
class PreparePool {
 public:
  // `loop` must outlive this.
  PreparePool(const PrepareQueue::Limits& limits, boost::asio::io_context& loop);
  // Waits for what runs. Until all that was taken is done, `loop` has something to do.
  ~PreparePool();
  PreparePool(const PreparePool&) = delete;
  PreparePool& operator=(const PreparePool&) = delete;

  // Runs job.work on a thread and then job.done on the loop. False: there is enough to do already.
  bool Run(PrepareJob job);

 private:
  void Work();
  void GiveBackMemory(uint64_t n_bytes);

  boost::asio::io_context& loop_;
  // Guards what follows: the loop adds what the threads take, and a message to the loop would cost every job a turn of
  // it before the next one begins.
  std::mutex mutex_;
  std::condition_variable changed_;
  PrepareQueue queue_;
  bool stopping_ = false;
  std::atomic<uint64_t> n_bytes_since_trim_{0};
  std::vector<std::thread> threads_;
};

}  // namespace longshelf::router
