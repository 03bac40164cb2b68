#pragma once

#include <deque>
#include <functional>
#include <mutex>

namespace longshelf::kvstore {

// Runs callbacks one at a time and in the order of their posts, on the threads that post, never inside one another: a
// callback may cause the next. Safe from any thread.
class SerialCallbacks {
 public:
  // Runs nothing, so it may be called under the lock that decides the order.
  void Post(std::function<void()> callback);
  // Runs what is posted, or leaves it to the thread that is at it already. REQUIRES: no lock that a callback takes.
  void Run();

 private:
  std::mutex mutex_;  // guards what is below; not held while a callback runs
  std::deque<std::function<void()>> posted_;
  bool running_ = false;
};

}  // namespace longshelf::kvstore
