#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "simulation/cluster.h"

namespace longshelf::simulation {

// Which experts tokens choose.
struct RoutingSpec {
  enum class Kind : uint8_t {
    kUniform,
    kZipf,     // the n-th most wanted expert with a weight of n^-exponent; which experts these are is drawn once
    kHot,      // hot_share of all choices go to the first n_hot experts, which lie together
    kRecorded  // the tokens of `recorded`, from a place that is drawn, round and round
  };
  Kind kind = Kind::kUniform;
  double zipf_exponent = 1.2;
  int n_hot = 8;
  double hot_share = 0.9;
  std::vector<uint32_t> recorded = {};  // [tokens, n_per_token]
};

// "uniform", "zipf", "zipf:1.2", "hot", "hot:8:0.9". INVALID_ARGUMENT otherwise.
absl::StatusOr<RoutingSpec> ParseRouting(const std::string& text);

// Draws what tokens choose: distinct experts, one after the other, each with its weight among those that are left.
class ExpertSampler {
 public:
  // INVALID_ARGUMENT: the spec does not fit the shape.
  static absl::StatusOr<ExpertSampler> Create(const RoutingSpec& spec, const ExpertShape& shape,
                                              std::mt19937_64& random);
  // out: [n_per_token], ascending.
  void Draw(std::mt19937_64& random, std::span<uint32_t> out);

 private:
  ExpertSampler() = default;
  uint32_t DrawOne(std::mt19937_64& random) const;
  std::vector<double> below_;  // [experts]: sum of the weights up to and with each
  std::vector<uint32_t> recorded_;
  size_t next_recorded_ = 0;
};

// What one MoE layer of one step has to move.
class ExchangeCounts {
 public:
  // tokens: of each rank.
  ExchangeCounts(const Cluster& cluster, const ExpertShape& shape, std::span<const int> tokens, ExpertSampler& sampler,
                 std::mt19937_64& random);

  int64_t pairs(int source, int rank) const { return pairs_[Index(source, rank)]; }
  // Distinct tokens.
  int64_t tokens(int source, int rank) const { return tokens_[Index(source, rank)]; }
  int64_t tokens_to_host(int source, int host) const { return host_tokens_[HostIndex(source, host)]; }
  int64_t pairs_to_host(int source, int host) const { return host_pairs_[HostIndex(source, host)]; }
  // Pairs of each expert of a rank, from everywhere.
  std::span<const int64_t> rows_of_experts(int rank) const;

 private:
  size_t Index(int source, int rank) const { return static_cast<size_t>(source * cluster_.n_ranks + rank); }
  size_t HostIndex(int source, int host) const { return static_cast<size_t>(source * cluster_.n_hosts + host); }
  void Add(int source, std::span<const uint32_t> experts, std::span<const int> owner);

  const Cluster cluster_;
  const ExpertShape shape_;
  std::vector<int64_t> pairs_;
  std::vector<int64_t> tokens_;
  std::vector<int64_t> host_tokens_;
  std::vector<int64_t> host_pairs_;
  std::vector<int64_t> expert_rows_;
};

}  // namespace longshelf::simulation
