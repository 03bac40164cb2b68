#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace longshelf::engine {

// Which shards share a host: its run directory, its shared memory, its doorbell. Hosts are numbered in the order of
// their first shard.
class HostMap {
 public:
  // One host for all of `n_ranks`.
  explicit HostMap(int n_ranks) : host_of_(static_cast<size_t>(n_ranks), 0) {}
  // keys[r]: equal for shards of one host. names[r]: of rank r's host, for messages.
  HostMap(std::span<const std::string> keys, std::span<const std::string> names);

  int n_ranks() const { return static_cast<int>(host_of_.size()); }
  int n_hosts() const { return static_cast<int>(first_rank_.size()); }
  int host_of(int rank) const { return host_of_[static_cast<size_t>(rank)]; }
  // The shard that speaks for its host.
  int first_rank(int host) const { return first_rank_[static_cast<size_t>(host)]; }
  bool speaks(int rank) const { return first_rank(host_of(rank)) == rank; }
  // Ascending.
  std::vector<int> RanksOf(int host) const;
  const std::string& name(int host) const { return names_[static_cast<size_t>(host)]; }

 private:
  std::vector<int> host_of_;
  std::vector<int> first_rank_ = {0};
  std::vector<std::string> names_ = {"this host"};
};

}  // namespace longshelf::engine
