#include "serial_callbacks.h"

#include <utility>

namespace longshelf::kvstore {

void SerialCallbacks::Post(std::function<void()> callback) {
  std::lock_guard lock(mutex_);
  posted_.push_back(std::move(callback));
}

void SerialCallbacks::Run() {
  std::unique_lock lock(mutex_);
  if (running_) return;
  running_ = true;
  while (!posted_.empty()) {
    std::function<void()> callback = std::move(posted_.front());
    posted_.pop_front();
    lock.unlock();
    callback();
    callback = nullptr;  // what it holds may call back when it goes
    lock.lock();
  }
  running_ = false;
}

}  // namespace longshelf::kvstore
