#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>

#include "absl/status/status.h"

namespace longshelf::kvstore {

class RunningCall {
 public:
  virtual ~RunningCall() = default;
  // The call ends soon. From any thread, at any time, any number of times; must not end the call within itself.
  virtual void Cancel() = 0;
};

// Owns the calls of one client until they have ended: nobody else needs to keep them. Safe from any thread.
class CallRegistry {
 public:
  // CANCELLED when closed: the call must not start.
  absl::Status Add(std::shared_ptr<RunningCall> call);
  // The call has run its last callback. May destroy it.
  void Remove(const RunningCall& call);
  // Refuses new calls, cancels the present ones and returns when the last of them was removed.
  void Close();

 private:
  // Guards everything below. Close() has to wait for calls that end on threads of gRPC, so there is no owner to ask.
  std::mutex mutex_;
  std::condition_variable removed_;
  std::map<const RunningCall*, std::shared_ptr<RunningCall>> calls_;
  bool closed_ = false;
};

}  // namespace longshelf::kvstore
