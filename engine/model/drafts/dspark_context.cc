#include "dspark_context.h"

#include <algorithm>

#include "step_memory.h"

namespace longshelf::engine {

int64_t DsparkContext::hidden_width() const { return DsparkTargetWidth(context_.config); }

void DsparkContext::Mean(const float* streams, int64_t n, size_t index, float* hidden) const {
  const ModelConfig& config = context_.config;
  const float weight = 1.0F / static_cast<float>(config.hc_mult);
  const Ops& ops = context_.ops;
  context_.ops.pool().Run(n, [&](int64_t i, int) {
    ops.kernels().mix_rows(&weight, 0, streams + i * context_.stream_width(), config.hidden_size, config.hc_mult,
                           nullptr, 0.0F, config.hidden_size, ops.native(),
                           hidden + i * hidden_width() + static_cast<int64_t>(index) * config.hidden_size);
  });
}

void DsparkContext::Project(float* hidden, int64_t n, float* main_x) const {
  if (n == 0) return;
  Ops& ops = context_.ops;
  const Workspace::Scope scope(ops.memory());
  const int64_t width = context_.config.hidden_size;
  const OperandRows rows = ops.TakeRows(n, hidden_width());
  ops.pool().Run(n, [&](int64_t i, int) {
    float* row = hidden + i * hidden_width();
    ops.QuantizeInput(weights_.main_proj, row);
    ops.Pack(row, hidden_width(), rows, i);
  });
  const DotJob job = ops.Dot(weights_.main_proj, rows, n, main_x, true);
  ops.Run({&job, 1});
  ops.pool().Run(
      n, [&](int64_t i, int) { ops.RmsNormRow(weights_.main_norm, main_x + i * width, width, main_x + i * width); });
}

void DsparkContext::Store(const float* main_x, const StepRows& rows) const {
  const int64_t n = rows.n();
  if (n == 0) return;
  Ops& ops = context_.ops;
  const Workspace::Scope scope(ops.memory());
  const int64_t width = context_.config.hidden_size;
  SublayerInput input{n, main_x, ops.TakeRows(n, width), ops.TakeRows(n, width)};
  ops.pool().Run(n, [&](int64_t i, int thread) {
    auto* row = reinterpret_cast<float*>(ops.scratch(thread));
    std::copy_n(main_x + i * width, width, row);
    ops.Pack(row, width, input.plain, i);
    if (ops.native()) ops.kernels().quantize_row(row, width, kLinearQuantBlock);
    ops.Pack(row, width, input.quantized, i);
  });
  const StepRotations rotations = rows.Rotations(ops, context_.sliding_rope);
  for (size_t stage = 0; stage < weights_.stages.size(); ++stage) {
    StoreWindowRows(ops, weights_.stages[stage].attn, context_.layout,
                    context_.layout.DraftWindow(static_cast<int64_t>(stage)), input, rows.parts(), rotations);
  }
}

}  // namespace longshelf::engine
