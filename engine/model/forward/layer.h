#pragma once

#include "absl/status/status.h"
#include "attention.h"
#include "engine/comm/expert_transport.h"
#include "engine/model/model.h"
#include "moe.h"
#include "ops.h"
#include "rope.h"
#include "step_rows.h"

namespace longshelf::engine {

// What every layer is run with, the main model's and a draft module's, on one lane of the transport. Owned by the
// model, used by its engine thread.
struct ForwardContext {
  const ModelConfig& config;
  const KvLayout& layout;
  ExpertTransport& transport;
  const RopeTable& sliding_rope;
  const RopeTable& compressed_rope;
  Ops& ops;
  ExpertExchange exchange;

  int64_t stream_width() const { return config.hc_mult * config.hidden_size; }
};

// Attention and experts of one layer (model.py: Block) for the rows of a step or of a microbatch, in three parts, so
// that another microbatch can compute while the rows of this one travel. Replaces *streams by what the layer makes of
// them; *spare is used up. Exchanges expert rows once, also without rows of its own. Its memory is given back when it
// ends: layers of one context come one after another.
class LayerPass {
 public:
  LayerPass(ForwardContext& context, const LayerWeights& weights, const LayerPlace& place, const StepRows& rows,
            const StepRotations& rotations, float** streams, float** spare, TapSink* sink);

  // Attention and gate; rows leave for their experts.
  absl::Status Attend();
  // Experts, for rows of all shards; results leave.
  absl::Status Compute();
  // The sum of what came back.
  absl::Status Finish();

 private:
  void SwapIn(const HyperMix& mix);

  ForwardContext& context_;
  const LayerWeights& weights_;
  const LayerPlace place_;
  const StepRows& rows_;
  const StepRotations rotations_;
  float** const streams_;
  float** const spare_;
  const Tapper taps_;
  const Workspace::Scope scope_;
  float* z_;  // [n, D]: what a sublayer gives
  HyperMix mix_;
  Moe moe_;
};

// All three at once.
absl::Status RunLayer(ForwardContext& context, const LayerWeights& weights, const LayerPlace& place,
                      const StepRows& rows, const StepRotations& rotations, float** streams, float** spare,
                      TapSink* sink);

}  // namespace longshelf::engine
