#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "drafter.h"
#include "engine/model/model.h"
#include "layer.h"
#include "ops.h"
#include "rope.h"
#include "step_rows.h"

namespace longshelf::engine {

struct Model::Impl {
  Impl(std::shared_ptr<const ModelWeights> w, const ModelOptions& options, const KernelTable& kernels,
       ExpertTransport& transport);

  int64_t stream_width() const { return context.stream_width(); }
  LayerPlace PlaceOf(int64_t layer) const {
    return {layer, static_cast<uint32_t>(layer), config.ratio(layer), config.is_hash_layer(layer),
            layout.Window(layer)};
  }
  // Memory for a step, empty; nothing of the last one is left.
  void Prepare(int64_t n_rows, int64_t n_logits, int64_t n_chunks);
  // All layers, for the rows of `step`. Both arrays, [n, stream_width], may be swapped.
  absl::Status RunLayers(float** streams, float** spare, TapSink* taps);
  // The same in two microbatches: while rows of one are on their way between shards, the other one computes. streams
  // has the result.
  absl::Status RunInHalves(float* streams, float* spare);
  // Checks the requests and puts the chunks of the last step in `kept`.
  absl::Status KeepChunks(std::span<const DraftRequest> requests, int64_t n_tokens);

  const std::shared_ptr<const ModelWeights> weights;
  const ModelConfig& config;
  const KvLayout layout;
  const RopeTable sliding_rope;
  const RopeTable compressed_rope;
  ThreadPool pool;
  ExpertPrefetch prefetch;
  Ops ops;
  ForwardContext context;
  // Of the second of two microbatches.
  Ops second_ops;
  ForwardContext second;
  std::unique_ptr<Drafter> drafter;  // null without

  StepRows step;
  std::array<StepRows, 2> halves;  // when it is split
  // Of the last step, until the next call: its streams, null when there is nothing to draft after.
  const float* streams = nullptr;
  std::vector<KeptChunk> kept;
  Guesses guesses;  // in the order of chunks
  Guesses answers;  // in the order of requests
};

}  // namespace longshelf::engine
