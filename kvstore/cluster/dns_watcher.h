#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/members.h"

namespace longshelf::kvstore {

// Resolves a name every now and then and tells the members whenever they have changed, each once and in the order of
// their addresses. A name that cannot be resolved, or has no address, changes nothing: who was there stays. A thread of
// its own, because resolving blocks.
class DnsWatcher {
 public:
  // Both on the watcher's thread.
  using OnMembers = std::function<void(std::vector<Member> members)>;
  using Resolve = std::function<absl::StatusOr<std::vector<Member>>(const std::string& host_port)>;

  DnsWatcher(std::string host_port, absl::Duration interval, OnMembers on_members, Resolve resolve = ResolveMembers);
  ~DnsWatcher();

 private:
  void Watch();

  const std::string host_port_;
  const absl::Duration interval_;
  const OnMembers on_members_;
  const Resolve resolve_;
  std::mutex mutex_;  // guards stopping_
  std::condition_variable stopped_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace longshelf::kvstore
