#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "net_hosts.h"
#include "supervised.h"

namespace longshelf::testing {

inline constexpr char kHostToken[] = "token-of-this-test-only";

// longshelf-worker on the first host of NetHosts and longshelf-host on the others, around the demo model.
class ClusterOfHosts {
 public:
  ClusterOfHosts(std::unique_ptr<NetHosts> hosts, int shards_per_host,
                 const std::vector<std::string>& worker_flags = {});

  // Starts longshelf-host; the constructor has done so on every host but the first.
  void StartAgent(int host);
  // The agent of a host; host > 0.
  SupervisedWorker& agent(int host) { return *agents_[static_cast<size_t>(host)]; }
  SupervisedWorker& worker() { return *worker_; }
  NetHosts& hosts() { return *hosts_; }
  // Serves as generation `number` or later, on all hosts. False at the limit.
  bool WaitServing(uint64_t number) const;
  std::string Address(int generation) const;
  // Processes of the running generation, on all hosts: mpirun, daemons and shards.
  std::vector<engine::ProcessId> Processes() const;
  // The logs of all, for messages.
  std::string Logs() const;
  std::vector<std::string> Leftovers() const;

 private:
  const std::filesystem::path dir_;
  std::unique_ptr<NetHosts> hosts_;
  const int shards_per_host_;
  std::vector<std::unique_ptr<SupervisedWorker>> agents_;  // none for the first
  std::unique_ptr<SupervisedWorker> worker_;
};

}  // namespace longshelf::testing
