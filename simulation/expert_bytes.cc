#include "simulation/expert_bytes.h"

#include <algorithm>

namespace longshelf::simulation {
namespace {

constexpr double kPairBytes = 8;
// Messages are whole cache lines with a header of one; so are places of rows in them. A token has an entry of 8 bytes.
constexpr int64_t kLine = 64;
constexpr int64_t kEntryBytes = 8;

int64_t WholeLines(int64_t n) { return (n + kLine - 1) / kLine * kLine; }

// That none of a token's experts is among `n_there` of all: C(E - n, K) / C(E, K).
double ChanceOfNone(const ExpertShape& shape, int n_there) {
  double chance = 1;
  for (int i = 0; i < shape.n_per_token; ++i) {
    chance *= static_cast<double>(std::max(shape.n_experts - n_there - i, 0)) / (shape.n_experts - i);
  }
  return chance;
}

// Between owners of `n_ranks / n_owners` adjacent ranks each.
ExpertBytes Minimum(const Cluster& cluster, const ExpertShape& shape, int n_owners) {
  const int ranks_each = cluster.n_ranks / n_owners;
  ExpertBytes out;
  for (int home = 0; home < n_owners; ++home) {
    for (int there = 0; there < n_owners; ++there) {
      if (there == home) continue;
      const int n_there = shape.first_expert((there + 1) * ranks_each, cluster.n_ranks) -
                          shape.first_expert(there * ranks_each, cluster.n_ranks);
      const double pairs = static_cast<double>(shape.n_per_token) * n_there / shape.n_experts;
      out.destinations += shape.once_per_destination ? 1 - ChanceOfNone(shape, n_there) : pairs;
      out.remote_pairs += pairs;
    }
  }
  out.destinations /= n_owners;
  out.remote_pairs /= n_owners;
  out.dispatch_bytes = out.destinations * static_cast<double>(shape.row_bytes) + out.remote_pairs * kPairBytes;
  out.combine_bytes = out.remote_pairs * static_cast<double>(shape.result_bytes);
  return out;
}

}  // namespace

ExpertBytes MinimumBetweenRanks(const Cluster& cluster, const ExpertShape& shape) {
  return Minimum(cluster, shape, cluster.n_ranks);
}

ExpertBytes MinimumBetweenHosts(const Cluster& cluster, const ExpertShape& shape) {
  return Minimum(cluster, shape, cluster.n_hosts);
}

int64_t DispatchMessageBytes(const ExpertShape& shape, int64_t n_tokens, int64_t n_pairs) {
  const int64_t rows = (shape.once_per_destination ? n_tokens : n_pairs) * WholeLines(shape.row_bytes);
  return kLine + WholeLines(rows + kEntryBytes * (n_tokens + n_pairs));
}

int64_t CombineMessageBytes(const ExpertShape& shape, int64_t n_pairs) {
  return kLine + n_pairs * WholeLines(shape.result_bytes);
}

}  // namespace longshelf::simulation
