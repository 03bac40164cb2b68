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

// What every layer is run with, the main model's and a draft module's. Owned by the model, used by its engine thread.
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

// Attention and experts (model.py: Block). Replaces *streams by what the layer makes of them; *spare is used up.
// Exchanges expert rows once, also without rows of its own.
absl::Status RunLayer(ForwardContext& context, const LayerWeights& weights, const LayerPlace& place,
                      const StepRows& rows, const StepRotations& rotations, float** streams, float** spare,
                      TapSink* sink);

}  // namespace longshelf::engine
