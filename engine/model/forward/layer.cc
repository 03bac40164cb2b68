#include "layer.h"

#include <utility>

#include "common/status.h"
#include "hyper_connection.h"
#include "taps.h"

namespace longshelf::engine {

LayerPass::LayerPass(ForwardContext& context, const LayerWeights& weights, const LayerPlace& place,
                     const StepRows& rows, const StepRotations& rotations, float** streams, float** spare,
                     TapSink* sink)
    : context_(context),
      weights_(weights),
      place_(place),
      rows_(rows),
      rotations_(rotations),
      streams_(streams),
      spare_(spare),
      taps_(sink, place.layer),
      scope_(context.ops.memory()),
      z_(context.ops.memory().Take<float>(rows.n() * context.config.hidden_size)),
      moe_(weights.moe, place.experts, place.hash_routed, context.ops, context.transport, context.exchange) {}

// z is what a sublayer adds to the streams.
void LayerPass::SwapIn(const HyperMix& mix) {
  HyperExpand(context_.ops, mix, z_, rows_.n(), *streams_, *spare_);
  std::swap(*streams_, *spare_);
}

absl::Status LayerPass::Attend() {
  Ops& ops = context_.ops;
  const int64_t n = rows_.n();
  const int64_t width = context_.config.hidden_size;
  const auto n_values = static_cast<size_t>(n * width);
  if (n > 0) {
    const SublayerInput input = HyperCollapse(ops, weights_.hc_attn, weights_.attn_norm, *streams_, n, &mix_);
    taps_.Tap("attn_norm", {input.x, n_values}, width);
    Attention attention(weights_.attn, context_.layout, place_,
                        place_.ratio == 0 ? context_.sliding_rope : context_.compressed_rope, rotations_);
    attention.Run(ops, input, rows_.parts(), z_, taps_);
    taps_.Tap("attn", {z_, n_values}, width);
    SwapIn(mix_);
  }
  const SublayerInput input = HyperCollapse(ops, weights_.hc_ffn, weights_.ffn_norm, *streams_, n, &mix_);
  taps_.Tap("ffn_norm", {input.x, n_values}, width);
  return moe_.Dispatch(input, rows_.tokens(), taps_);
}

absl::Status LayerPass::Compute() { return moe_.Compute(taps_); }

absl::Status LayerPass::Finish() {
  RETURN_IF_ERROR(moe_.Combine(z_));
  const int64_t width = context_.config.hidden_size;
  taps_.Tap("ffn", {z_, static_cast<size_t>(rows_.n() * width)}, width);
  SwapIn(mix_);
  return absl::OkStatus();
}

absl::Status RunLayer(ForwardContext& context, const LayerWeights& weights, const LayerPlace& place,
                      const StepRows& rows, const StepRotations& rotations, float** streams, float** spare,
                      TapSink* sink) {
  LayerPass pass(context, weights, place, rows, rotations, streams, spare, sink);
  RETURN_IF_ERROR(pass.Attend());
  RETURN_IF_ERROR(pass.Compute());
  return pass.Finish();
}

}  // namespace longshelf::engine
