#include "dns_watcher.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "common/log.h"

namespace longshelf::kvstore {

namespace {

// A member that is named twice would count as two replicas; the order is the resolver's whim.
void Tidy(std::vector<Member>& members) {
  std::sort(members.begin(), members.end(), [](const Member& a, const Member& b) { return a.address < b.address; });
  const auto twice = std::unique(members.begin(), members.end(),
                                 [](const Member& a, const Member& b) { return a.address == b.address; });
  members.erase(twice, members.end());
}

}  // namespace

DnsWatcher::DnsWatcher(std::string host_port, absl::Duration interval, OnMembers on_members, Resolve resolve)
    : host_port_(std::move(host_port)),
      interval_(interval),
      on_members_(std::move(on_members)),
      resolve_(std::move(resolve)),
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
    absl::StatusOr<std::vector<Member>> members = resolve_(host_port_);
    if (members.ok()) Tidy(*members);
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
