#include <optional>

#include "common/status.h"
#include "model_impl.h"

namespace longshelf::engine {
namespace {

// One of two microbatches on its way through the layers.
struct Half {
  ForwardContext& context;
  const StepRows& rows;
  const int64_t first_row;  // in the step
  float* streams;
  float* spare;
  StepRotations sliding;
  StepRotations compressed;
  std::optional<LayerPass> pass;

  Half(ForwardContext& the_context, const StepRows& the_rows, int64_t first, float* all_streams, float* all_spare)
      : context(the_context),
        rows(the_rows),
        first_row(first),
        streams(all_streams + first * context.stream_width()),
        spare(all_spare + first * context.stream_width()),
        sliding(rows.Rotations(context.ops, context.sliding_rope)),
        compressed(rows.Rotations(context.ops, context.compressed_rope)) {}
};

}  // namespace

// Attention of the second half needs the first half's keys of the same layer, which are there: in each layer it comes
// after it. What is on its way meanwhile is behind each line. A layer swaps the two arrays of a half twice, so the
// result is where the rows came from.
absl::Status Model::Impl::RunInHalves(float* all_streams, float* all_spare) {
  step.Halve(halves[0], halves[1]);
  Half a(context, halves[0], 0, all_streams, all_spare);
  Half b(second, halves[1], halves[0].n(), all_streams, all_spare);
  const auto enter = [&](Half& half, int64_t layer) {
    const LayerPlace place = PlaceOf(layer);
    half.pass.reset();  // gives its memory back before the next one takes any
    half.pass.emplace(half.context, weights->layers[static_cast<size_t>(layer)], place, half.rows,
                      place.ratio == 0 ? half.sliding : half.compressed, &half.streams, &half.spare, nullptr);
    return half.pass->Attend();
  };
  const auto leave = [&](Half& half, int64_t layer) -> absl::Status {
    RETURN_IF_ERROR(half.pass->Finish());
    if (drafter != nullptr) drafter->Observe(layer, half.rows, half.first_row, half.streams);
    return absl::OkStatus();
  };
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    RETURN_IF_ERROR(enter(a, layer));                     // results of b
    if (layer > 0) RETURN_IF_ERROR(leave(b, layer - 1));  // rows of a
    RETURN_IF_ERROR(enter(b, layer));                     // rows of a
    RETURN_IF_ERROR(a.pass->Compute());                   // rows of b
    RETURN_IF_ERROR(b.pass->Compute());                   // results of a
    RETURN_IF_ERROR(leave(a, layer));                     // results of b
  }
  return leave(b, config.n_layers - 1);
}

}  // namespace longshelf::engine
