#include "hyper_connection.h"

#include <algorithm>

#include "elementary.h"

namespace longshelf::engine {
namespace {

// The largest hc_mult that config.json may name.
constexpr int64_t kMaxStreams = 16;

// mixes [n, n_out] = fn . flat, over all hc * D values of a token.
float* Mixes(Ops& ops, const HyperConnection& site, const float* streams, int64_t n) {
  const int64_t width = site.fn.cols;
  float* mixes = ops.memory().Take<float>(n * site.fn.rows);
  const Workspace::Scope scope(ops.memory());
  const OperandRows rows = ops.TakeRows(n, width, Operand::kSplit);
  ops.pool().Run(n, [&](int64_t i, int) { ops.Pack(streams + i * width, width, rows, i); });
  const DotJob job = ops.Dot(site.fn, rows, n, mixes, false);
  ops.Run({&job, 1});
  return mixes;
}

void WeightedStreams(const Ops& ops, const float* weights, const float* streams, float* out) {
  const int64_t width = ops.config().hidden_size;
  ops.kernels().mix_rows(weights, 1, streams, width, ops.config().hc_mult, nullptr, 0.0F, width, ops.native(), out);
}

}  // namespace

void SplitSinkhorn(const ModelConfig& config, const float* mixes, const float* scale, const float* base, float* pre,
                   float* post, float* comb) {
  const int64_t hc = config.hc_mult;
  const auto eps = static_cast<float>(config.hc_eps);
  for (int64_t j = 0; j < hc; ++j) {
    pre[j] = Sigmoid(mixes[j] * scale[0] + base[j]) + eps;
    post[j] = 2.0F * Sigmoid(mixes[hc + j] * scale[1] + base[hc + j]);
  }
  for (int64_t j = 0; j < hc; ++j) {
    float* row = comb + j * hc;
    for (int64_t k = 0; k < hc; ++k) {
      const int64_t at = 2 * hc + j * hc + k;
      row[k] = mixes[at] * scale[2] + base[at];
    }
    const float max = *std::max_element(row, row + hc);
    float sum = 0.0F;
    for (int64_t k = 0; k < hc; ++k) {
      row[k] = ExpFp32(row[k] - max);
      sum += row[k];
    }
    const float inverse = 1.0F / sum;
    for (int64_t k = 0; k < hc; ++k) row[k] = row[k] * inverse + eps;
  }
  const auto normalize = [&](int64_t stride, int64_t step) {
    for (int64_t line = 0; line < hc; ++line) {
      float* first = comb + line * stride;
      float sum = 0.0F;
      for (int64_t k = 0; k < hc; ++k) sum += first[k * step];
      for (int64_t k = 0; k < hc; ++k) first[k * step] /= sum + eps;
    }
  };
  normalize(1, hc);  // columns
  for (int64_t i = 1; i < config.hc_sinkhorn_iters; ++i) {
    normalize(hc, 1);  // rows
    normalize(1, hc);
  }
}

SublayerInput HyperCollapse(Ops& ops, const HyperConnection& site, std::span<const float> norm, const float* streams,
                            int64_t n, HyperMix* mix) {
  const int64_t hc = ops.config().hc_mult;
  const int64_t width = ops.config().hidden_size;
  const int64_t n_mixes = site.fn.rows;
  mix->post = ops.memory().Take<float>(n * hc);
  mix->comb = ops.memory().Take<float>(n * hc * hc);
  float* x = ops.memory().Take<float>(n * width);
  SublayerInput input{n, x, ops.TakeRows(n, width), {}};
  input.quantized = ops.native() ? ops.TakeRows(n, width) : input.plain;
  float* mixes = Mixes(ops, site, streams, n);
  ops.pool().Run(n, [&](int64_t i, int thread) {
    const float* own = streams + i * hc * width;
    float* m = mixes + i * n_mixes;
    const float r = ops.InverseRms(own, hc * width);
    for (int64_t j = 0; j < n_mixes; ++j) m[j] *= r;
    float pre[kMaxStreams];
    SplitSinkhorn(ops.config(), m, site.scale.data(), site.base.data(), pre, mix->post + i * hc,
                  mix->comb + i * hc * hc);
    float* row = x + i * width;
    WeightedStreams(ops, pre, own, row);
    ops.RmsNormRow(norm, row, width, row);
    ops.Pack(row, width, input.plain, i);
    if (!ops.native()) return;
    auto* quantized = reinterpret_cast<float*>(ops.scratch(thread));
    std::copy_n(row, width, quantized);
    ops.kernels().quantize_row(quantized, width, kLinearQuantBlock);
    ops.Pack(quantized, width, input.quantized, i);
  });
  return input;
}

void HyperExpand(Ops& ops, const HyperMix& mix, const float* z, int64_t n, const float* streams, float* out) {
  const int64_t hc = ops.config().hc_mult;
  const int64_t width = ops.config().hidden_size;
  ops.pool().Run(n, [&](int64_t i, int) {
    for (int64_t k = 0; k < hc; ++k) {
      ops.kernels().mix_rows(mix.comb + i * hc * hc + k, hc, streams + i * hc * width, width, hc, z + i * width,
                             mix.post[i * hc + k], width, ops.native(), out + (i * hc + k) * width);
    }
  });
}

void HyperHead(Ops& ops, const HyperConnection& head, const float* streams, int64_t n, float* out) {
  const Workspace::Scope scope(ops.memory());
  const int64_t hc = ops.config().hc_mult;
  const int64_t width = ops.config().hidden_size;
  const float* mixes = Mixes(ops, head, streams, n);
  const auto eps = static_cast<float>(ops.config().hc_eps);
  ops.pool().Run(n, [&](int64_t i, int) {
    const float* own = streams + i * hc * width;
    const float r = ops.InverseRms(own, hc * width);
    float weights[kMaxStreams];
    for (int64_t j = 0; j < hc; ++j) {
      const auto at = static_cast<size_t>(j);
      weights[j] = Sigmoid(mixes[i * hc + j] * r * head.scale[0] + head.base[at]) + eps;
    }
    WeightedStreams(ops, weights, own, out + i * width);
  });
}

}  // namespace longshelf::engine
