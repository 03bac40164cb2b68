#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/comm/expert_transport.h"
#include "expert_prefetch.h"
#include "expert_rows.h"
#include "hyper_connection.h"
#include "ops.h"
#include "taps.h"

namespace longshelf::engine {

// What the expert exchange of a step needs beyond the step's memory; kept from step to step, so that the containers
// stop growing.
struct ExpertExchange {
  explicit ExpertExchange(bool weights_from_files) : prefetch(weights_from_files) {}
  std::vector<ExpertAssignment> assignments;
  std::vector<DispatchedRow> received;
  std::vector<const std::byte*> combined;
  ExpertPrefetch prefetch;
};

// Mixture of experts of one layer for one step: gate, dispatch, experts, combine, shared expert (model.py: Gate,
// Expert, MoE).
class Moe {
 public:
  // layer: the place of its experts in the transport's placement.
  Moe(const MoeWeights& weights, uint32_t layer, bool hash_routed)
      : weights_(weights), layer_(layer), hash_routed_(hash_routed) {}

  // y: [n, D].
  absl::Status Run(Ops& ops, ExpertTransport& transport, ExpertExchange& exchange, const SublayerInput& input,
                   std::span<const uint32_t> tokens, float* y, const Tapper& taps);

 private:
  // Received rows of one expert.
  struct Group {
    int64_t begin;
    int64_t n;
    const ExpertWeights* expert;
  };
  // Rows of one expert, routed or shared, on their way to hidden rows.
  struct HiddenRows {
    const ExpertWeights* expert;
    OperandRows x1;  // [n], what w1 reads
    OperandRows x3;  // [n], what w3 reads
    int64_t n;
    OperandRows hidden;             // [n]
    const DispatchedRow* received;  // [n], for their weights; null: 1
    float limit;                    // of swiglu; 0 = none
  };

  void Route(Ops& ops, std::span<const uint32_t> tokens, int64_t i, ExpertAssignment* assignments) const;
  void TapRouting(const Tapper& taps, const std::vector<ExpertAssignment>& assignments, int64_t top_k) const;
  std::span<const Group> GroupByExpert(Ops& ops, const std::vector<DispatchedRow>& received) const;
  // The two halves of every expert that has rows and, when asked for, of the shared expert for rows of this shard.
  void RunHidden(Ops& ops, const SublayerInput& input, std::span<const DispatchedRow> received,
                 std::span<const Group> groups, bool with_shared);
  void RunHiddenPart(Ops& ops, const HiddenRows& rows, int64_t begin, int64_t columns, int thread) const;
  void RunOutput(Ops& ops, std::span<const Group> groups, std::span<const DispatchedRow> received, int64_t n,
                 float* shared);
  static void StorePart(Ops& ops, const DispatchedRow& row, const float* part, int64_t begin, int64_t columns);
  // combined: [n, top_k], where each result lies.
  void AddResults(Ops& ops, int64_t n, std::span<const std::byte* const> combined, const float* shared, float* y) const;

  const MoeWeights& weights_;
  const uint32_t layer_;
  const bool hash_routed_;
  float* scores_ = nullptr;    // [n, E]
  OperandRows shared_hidden_;  // [n]
  OperandRows rows_;           // [received]
  OperandRows hidden_;         // [received]
};

// Scratch of one work item of the experts.
int64_t ExpertScratchBytes(const ModelConfig& config);

}  // namespace longshelf::engine
