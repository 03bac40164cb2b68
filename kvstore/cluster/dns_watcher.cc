#include "dns_watcher.h"

#include <chrono>
#include <utility>

#include "common/log.h"

namespace longshelf::kvstore {

DnsWatcher::DnsWatcher(std::string host_port, absl::Duration interval, OnMembers on_members)
    : host_port_(std::move(host_port)),
      interval_(interval),
      on_members_(std::move(on_members)),
      thread_([this] { Watch(); }) {}

DnsWatcher::~DnsWatcher() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stopped_.notify_one();
  thread_.join();
}

void DnsWatcher::Watch() {
  std::vector<Member> known;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    lock.unlock();
    const absl::StatusOr<std::vector<Member>> members = ResolveMembers(host_port_);
    if (!members.ok()) {
      spdlog::warn("KV stores: {}", std::string(members.status().message()));
    } else if (*members != known && !members->empty()) {
      known = *members;
      spdlog::info("KV stores: {} has {} members", host_port_, known.size());
      on_members_(known);
    }
    lock.lock();
    stopped_.wait_for(lock, absl::ToChronoMilliseconds(interval_), [this] { return stopping_; });
  }
}

}  // namespace longshelf::kvstore
