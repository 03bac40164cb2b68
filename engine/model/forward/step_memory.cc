#include "step_memory.h"

#include <algorithm>

#include "attention.h"
#include "kernel_table.h"
#include "moe.h"
#include "top_k.h"

namespace longshelf::engine {
namespace {

// Every array is rounded up and followed by slack.
constexpr int64_t kSlack = int64_t{1} << 20;

}  // namespace

int64_t DsparkTargetWidth(const ModelConfig& c) {
  return static_cast<int64_t>(c.dspark.target_layers.size()) * c.hidden_size;
}

int64_t WidestColumns(const ModelConfig& c) {
  return std::max({c.hc_mult * c.hidden_size, c.q_lora_rank, c.n_heads * c.head_dim / c.o_groups,
                   c.o_groups * c.o_lora_rank, c.moe_intermediate_size * std::max<int64_t>(c.n_shared_experts, 1),
                   c.index_head_dim, DsparkTargetWidth(c), c.hidden_size + c.dspark.markov_rank});
}

int64_t ItemScratchBytes(const ModelConfig& c) {
  const int64_t row = 4 * (std::max({c.hidden_size, c.q_lora_rank, RoundUpToStep(c.head_dim), c.index_head_dim,
                                     c.hidden_size + c.dspark.markov_rank}) +
                           2 * c.rope_dim);
  return std::max({row, AttentionScratchBytes(c), ExpertScratchBytes(c), IndexScratchBytes(c.index_head_dim),
                   TopKScratchBytes(c.index_topk)});
}

size_t StepMemoryBytes(const ModelConfig& c, const KvLayout& layout, const StepSize& size, int n_threads) {
  constexpr int64_t kFloat = 4;
  // An array of fp32 and its operand in the wider form.
  constexpr int64_t kWithOperand = 2 * kFloat;
  const int64_t streams = c.hc_mult * c.hidden_size;
  const int64_t shared_inner = c.moe_intermediate_size * std::max<int64_t>(c.n_shared_experts, 1);
  int64_t row =
      kWithOperand * 4 * RoundUpToStep(streams);  // two copies, their operand, what a draft module joins them to
  row += kFloat * 4 * c.rope_dim;
  row += kFloat * 2 * (c.hc_mult + 2) * (c.hc_mult + 2);
  row += kWithOperand * 6 * RoundUpToStep(c.hidden_size);
  row += kWithOperand * (RoundUpToStep(c.q_lora_rank) + 8 * RoundUpToStep(c.head_dim));
  row += layout.entry_bytes();
  row += kFloat * 8 * (c.index_head_dim + c.index_n_heads);
  row += kWithOperand * 2 * c.n_heads * RoundUpToStep(c.head_dim);
  row += 2 * kWithOperand * c.index_n_heads * RoundUpToStep(c.index_head_dim) + 64;
  row += kFloat * c.index_topk;
  row += kWithOperand * RoundUpToStep(c.o_groups * c.o_lora_rank);
  row += kFloat * c.n_routed_experts + kWithOperand * 2 * RoundUpToStep(shared_inner);
  row += kFloat * c.n_experts_per_token * c.hidden_size;
  row += 64;
  const int64_t received = 64 + kWithOperand * (RoundUpToStep(c.hidden_size) + RoundUpToStep(c.moe_intermediate_size)) +
                           kFloat * c.hidden_size;
  const int64_t scores = kFloat * (kIndexScores + c.max_positions / 4 + kTileKeys * kTileKeys);
  const int64_t threads = n_threads * (DotScratchBytes(WidestColumns(c)) + ItemScratchBytes(c) + 64);
  return static_cast<size_t>(size.n_rows * row + size.n_received * received +
                             size.n_logits * kFloat * 2 * c.vocab_size + scores + threads + kSlack);
}

}  // namespace longshelf::engine
