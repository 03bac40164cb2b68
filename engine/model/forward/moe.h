#pragma once

#include <atomic>
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

// What the expert exchanges of a lane need beyond the step's memory; kept from step to step, so that the containers
// stop growing.
struct ExpertExchange {
  ExpertExchange(int the_lane, ExpertPrefetch& the_prefetch) : lane(the_lane), prefetch(the_prefetch) {}
  const int lane;
  ExpertPrefetch& prefetch;
  std::vector<ExpertAssignment> assignments;
  std::vector<DispatchedRow> own;
  std::vector<DispatchedRow> received;
  std::vector<const std::byte*> combined;
};

// Mixture of experts of one layer for one step or microbatch: gate, dispatch, experts, combine, shared expert
// (model.py: Gate, Expert, MoE). What goes to other shards and comes from them travels between the three calls, and
// while one of them computes.
class Moe {
 public:
  // layer: the place of its experts in the transport's placement.
  Moe(const MoeWeights& weights, uint32_t layer, bool hash_routed, Ops& ops, ExpertTransport& transport,
      ExpertExchange& exchange);

  // input stays until Compute() has ended.
  absl::Status Dispatch(const SublayerInput& input, std::span<const uint32_t> tokens, const Tapper& taps);
  absl::Status Compute(const Tapper& taps);
  // y: [n, D].
  absl::Status Combine(float* y);

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

  void Route(std::span<const uint32_t> tokens, int64_t i, ExpertAssignment* assignments) const;
  void TapRouting(const Tapper& taps) const;
  std::span<const Group> GroupByExpert(std::span<const DispatchedRow> received);
  // As many experts of this shard's own rows as there is time for until the others' are here; how many rows.
  size_t ComputeOwn();
  // The two halves of every expert that has rows and, when asked for, of the shared expert for rows of this shard.
  void RunHidden(std::span<const DispatchedRow> received, std::span<const Group> groups, bool with_shared);
  void RunHiddenPart(const HiddenRows& rows, int64_t begin, int64_t columns, int thread) const;
  // says_written: the transport learns of results as they are written.
  void RunOutput(std::span<const Group> groups, std::span<const DispatchedRow> received, bool with_shared,
                 bool says_written);
  void RunOutputPart(const Group& group, std::span<const DispatchedRow> received, int64_t begin, int64_t columns,
                     int thread) const;
  void StorePart(const DispatchedRow& row, const float* part, int64_t begin, int64_t columns) const;
  // combined: [n, top_k], where each result lies.
  void AddResults(std::span<const std::byte* const> combined, float* y) const;

  const MoeWeights& weights_;
  const uint32_t layer_;
  const bool hash_routed_;
  Ops& ops_;
  ExpertTransport& transport_;
  ExpertExchange& exchange_;

  // Of the step, in its workspace.
  SublayerInput input_;
  float* scores_ = nullptr;    // [n, E]
  float* shared_ = nullptr;    // [n, D]: the shared expert's results
  OperandRows shared_hidden_;  // [n]
  int64_t first_row_ = 0;      // received rows before those of the experts that run
  OperandRows rows_;           // of these experts
  OperandRows hidden_;         // of these experts
};

// Scratch of one work item of the experts.
int64_t ExpertScratchBytes(const ModelConfig& config);

}  // namespace longshelf::engine
