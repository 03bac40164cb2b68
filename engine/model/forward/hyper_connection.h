#pragma once

#include <cstdint>
#include <span>

#include "ops.h"

// Manifold-constrained hyper-connections (model.py: Block.hc_pre, hc_post; kernel.py: hc_split_sinkhorn). Streams:
// [n, hc_mult, D].
namespace longshelf::engine {

// mixes [(2 + hc) * hc] -> pre [hc], post [hc], comb [hc, hc] by Sinkhorn, in the kernel's order (columns last).
void SplitSinkhorn(const ModelConfig& config, const float* mixes, const float* scale, const float* base, float* pre,
                   float* post, float* comb);

// What a sublayer reads: n rows of D, normed.
struct SublayerInput {
  int64_t n = 0;
  const float* x = nullptr;  // [n, D]
  OperandRows plain;
  OperandRows quantized;  // Q8; the same as plain in fp32 numerics

  const OperandRows& For(const Matrix& w) const { return IsQuantized(w) ? quantized : plain; }
};

// Per-row coefficients of one site, kept from Collapse to Expand.
struct HyperMix {
  float* post = nullptr;  // [n, hc]
  float* comb = nullptr;  // [n, hc, hc]
};

// y = sum_j pre_j X[j], then its norm: the sublayer's input.
SublayerInput HyperCollapse(Ops& ops, const HyperConnection& site, std::span<const float> norm, const float* streams,
                            int64_t n, HyperMix* mix);
// out[k] = post_k z + sum_j comb[j][k] X[j].
void HyperExpand(Ops& ops, const HyperMix& mix, const float* z, int64_t n, const float* streams, float* out);
// The final collapse, before norm and head; out: [n, D].
void HyperHead(Ops& ops, const HyperConnection& head, const float* streams, int64_t n, float* out);

}  // namespace longshelf::engine
