#include "layer.h"

#include <utility>

#include "hyper_connection.h"
#include "taps.h"

namespace longshelf::engine {

absl::Status RunLayer(ForwardContext& context, const LayerWeights& weights, const LayerPlace& place,
                      const StepRows& rows, const StepRotations& rotations, float** streams, float** spare,
                      TapSink* sink) {
  Ops& ops = context.ops;
  const Workspace::Scope scope(ops.memory());
  const int64_t n = rows.n();
  const int64_t width = context.config.hidden_size;
  const auto n_values = static_cast<size_t>(n * width);
  const Tapper taps(sink, place.layer);
  float* z = ops.memory().Take<float>(n * width);
  HyperMix mix;
  if (n > 0) {
    const SublayerInput input = HyperCollapse(ops, weights.hc_attn, weights.attn_norm, *streams, n, &mix);
    taps.Tap("attn_norm", {input.x, n_values}, width);
    Attention attention(weights.attn, context.layout, place,
                        place.ratio == 0 ? context.sliding_rope : context.compressed_rope, rotations);
    attention.Run(ops, input, rows.parts(), z, taps);
    taps.Tap("attn", {z, n_values}, width);
    HyperExpand(ops, mix, z, n, *streams, *spare);
    std::swap(*streams, *spare);
  }
  const SublayerInput input = HyperCollapse(ops, weights.hc_ffn, weights.ffn_norm, *streams, n, &mix);
  taps.Tap("ffn_norm", {input.x, n_values}, width);
  Moe moe(weights.moe, place.experts, place.hash_routed);
  if (absl::Status s = moe.Run(ops, context.transport, context.exchange, input, rows.tokens(), z, taps); !s.ok()) {
    return s;
  }
  taps.Tap("ffn", {z, n_values}, width);
  HyperExpand(ops, mix, z, n, *streams, *spare);
  std::swap(*streams, *spare);
  return absl::OkStatus();
}

}  // namespace longshelf::engine
