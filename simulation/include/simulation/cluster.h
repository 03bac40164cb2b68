#pragma once

#include <cstddef>
#include <cstdint>

namespace longshelf::simulation {

// Who computes where. Ranks of a host are adjacent; the experts are spread evenly and contiguously over the ranks.
struct Cluster {
  int n_ranks = 1;
  int n_hosts = 1;  // divides n_ranks
  int cores_per_host = 1;
  int threads_per_rank = 1;
  int nics_per_host = 1;  // divides the ranks of a host, which share them evenly

  int ranks_per_host() const { return n_ranks / n_hosts; }
  int host_of(int rank) const { return rank / ranks_per_host(); }
  int nic_of(int rank) const {
    return host_of(rank) * nics_per_host + rank % ranks_per_host() * nics_per_host / ranks_per_host();
  }
};

// The rows of an MoE layer, in the form in which they travel.
struct ExpertShape {
  int n_experts = 1;
  int n_per_token = 1;
  int64_t row_bytes = 0;     // of a token, to its experts
  int64_t result_bytes = 0;  // of a (token, expert) pair, back
  // A token goes to a rank, or to another host, once, however many of its experts are there. Otherwise every pair
  // travels by itself.
  bool once_per_destination = true;

  // First expert of `rank`.
  int first_expert(int rank, int n_ranks) const {
    return static_cast<int>(static_cast<int64_t>(n_experts) * rank / n_ranks);
  }
};

}  // namespace longshelf::simulation
