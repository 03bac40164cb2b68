#pragma once

#include "simulation/cluster.h"

namespace longshelf::simulation {

// What one token of one MoE layer must send at least, uniform routing, averaged over the ranks where it may be at home.
// Bytes are those of rows, of an expert id and a weight (8 bytes) for each pair, and of results; headers and padding
// are what a real message adds.
struct ExpertBytes {
  double destinations = 0;    // other ranks, or hosts, that its row goes to
  double remote_pairs = 0;    // (token, expert) pairs there
  double dispatch_bytes = 0;  // sent by its rank
  double combine_bytes = 0;   // sent back to its rank
  double total_bytes() const { return dispatch_bytes + combine_bytes; }
};

// Between ranks, wherever they are.
ExpertBytes MinimumBetweenRanks(const Cluster& cluster, const ExpertShape& shape);
// Through network interfaces: a row goes once to each other host.
ExpertBytes MinimumBetweenHosts(const Cluster& cluster, const ExpertShape& shape);

// Bytes of the messages that this program sends.
int64_t DispatchMessageBytes(const ExpertShape& shape, int64_t n_tokens, int64_t n_pairs);
int64_t CombineMessageBytes(const ExpertShape& shape, int64_t n_pairs);

}  // namespace longshelf::simulation
