#include "hyper_connection.h"

#include <algorithm>

#include "exp.h"

namespace longshelf::engine {
namespace {

// mixes [n, n_out] = (fn . flat) / rms(flat), over all hc * D values of a token.
std::vector<float> Mixes(Ops& ops, const HyperConnection& site, const float* streams, int64_t n) {
  const int64_t width = site.fn.cols;
  const int64_t n_out = site.fn.rows;
  std::vector<float> mixes(static_cast<size_t>(n * n_out));
  ops.MatMul(site.fn, streams, n, mixes.data());
  ops.pool().Run(n, [&](int64_t i, int) {
    const float r = ops.InverseRms(streams + i * width, width);
    for (int64_t j = 0; j < n_out; ++j) mixes[static_cast<size_t>(i * n_out + j)] *= r;
  });
  return mixes;
}

// out[c] = sum over j ascending of weights[j] * streams[j][c], unrounded.
void MixStreams(const Ops& ops, const float* weights, int64_t weight_stride, const float* streams, float* out) {
  const int64_t width = ops.config().hidden_size;
  std::fill(out, out + width, 0.0F);
  for (int64_t j = 0; j < ops.config().hc_mult; ++j) {
    const float w = weights[j * weight_stride];
    const float* stream = streams + j * width;
    for (int64_t c = 0; c < width; ++c) out[c] += w * stream[c];
  }
}

void WeightedStreams(const Ops& ops, const float* weights, const float* streams, float* out) {
  MixStreams(ops, weights, 1, streams, out);
  ops.Round({out, static_cast<size_t>(ops.config().hidden_size)});
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

void HyperCollapse(Ops& ops, const HyperConnection& site, const float* streams, int64_t n, float* y, HyperMix& mix) {
  const int64_t hc = ops.config().hc_mult;
  const int64_t width = ops.config().hidden_size;
  const std::vector<float> mixes = Mixes(ops, site, streams, n);
  mix.post.resize(static_cast<size_t>(n * hc));
  mix.comb.resize(static_cast<size_t>(n * hc * hc));
  ops.pool().Run(n, [&](int64_t i, int) {
    std::vector<float> pre(static_cast<size_t>(hc));
    SplitSinkhorn(ops.config(), mixes.data() + i * site.fn.rows, site.scale.data(), site.base.data(), pre.data(),
                  mix.post.data() + i * hc, mix.comb.data() + i * hc * hc);
    WeightedStreams(ops, pre.data(), streams + i * hc * width, y + i * width);
  });
}

void HyperExpand(Ops& ops, const HyperMix& mix, const float* z, int64_t n, float* streams) {
  const int64_t hc = ops.config().hc_mult;
  const int64_t width = ops.config().hidden_size;
  ops.pool().Run(n, [&](int64_t i, int) {
    const float* post = mix.post.data() + i * hc;
    const float* comb = mix.comb.data() + i * hc * hc;
    float* x = streams + i * hc * width;
    std::vector<float> mixed(static_cast<size_t>(hc * width));
    for (int64_t k = 0; k < hc; ++k) MixStreams(ops, comb + k, hc, x, mixed.data() + k * width);
    for (int64_t k = 0; k < hc; ++k) {
      const float* row = mixed.data() + k * width;
      for (int64_t c = 0; c < width; ++c) x[k * width + c] = post[k] * z[i * width + c] + row[c];
    }
    ops.Round({x, static_cast<size_t>(hc * width)});
  });
}

void HyperHead(Ops& ops, const HyperConnection& head, const float* streams, int64_t n, float* h) {
  const int64_t hc = ops.config().hc_mult;
  const int64_t width = ops.config().hidden_size;
  const std::vector<float> mixes = Mixes(ops, head, streams, n);
  const auto eps = static_cast<float>(ops.config().hc_eps);
  ops.pool().Run(n, [&](int64_t i, int) {
    std::vector<float> weights(static_cast<size_t>(hc));
    for (int64_t j = 0; j < hc; ++j) {
      const auto at = static_cast<size_t>(j);
      weights[at] = Sigmoid(mixes[static_cast<size_t>(i * hc + j)] * head.scale[0] + head.base[at]) + eps;
    }
    WeightedStreams(ops, weights.data(), streams + i * hc * width, h + i * width);
  });
}

}  // namespace longshelf::engine
