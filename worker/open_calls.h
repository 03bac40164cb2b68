#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace longshelf::worker {

// A call that somebody outside of it may end.
class OpenCall {
 public:
  virtual ~OpenCall() = default;
  // Any thread. What was written before still goes out.
  virtual void BreakOff(const absl::Status& why) = 0;
};

// The calls of one service that are not over, so that a group which is about to end can say why on each of them.
class OpenCalls {
 public:
  // Why a call that begins now has to end at once; OK as long as nothing was broken off.
  absl::Status Add(const std::shared_ptr<OpenCall>& call);
  void Remove(const OpenCall* call);
  // Ends all of them, and those that come, and waits until they are gone: false at `limit`.
  bool BreakOff(const absl::Status& why, absl::Duration limit);

 private:
  // Guards the rest: calls come and go on gRPC's threads.
  std::mutex mutex_;
  std::condition_variable all_gone_;
  std::map<const OpenCall*, std::weak_ptr<OpenCall>> calls_;
  absl::Status broken_;
};

}  // namespace longshelf::worker
