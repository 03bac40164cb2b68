#pragma once

#include <cstdint>
#include <vector>

#include "ops.h"

// Manifold-constrained hyper-connections (model.py: Block.hc_pre, hc_post; kernel.py: hc_split_sinkhorn). Streams:
// [n, hc_mult, D].
namespace longshelf::engine {

// mixes [(2 + hc) * hc] -> pre [hc], post [hc], comb [hc, hc] by Sinkhorn, in the kernel's order (columns last).
void SplitSinkhorn(const ModelConfig& config, const float* mixes, const float* scale, const float* base, float* pre,
                   float* post, float* comb);

// Per-row coefficients of one site, kept from Collapse to Expand.
struct HyperMix {
  std::vector<float> post;  // [n, hc]
  std::vector<float> comb;  // [n, hc, hc]
};

// y [n, D] = sum_j pre_j X[j]: the sublayer's input.
void HyperCollapse(Ops& ops, const HyperConnection& site, const float* streams, int64_t n, float* y, HyperMix& mix);
// X'[k] = post_k z + sum_j comb[j][k] X[j], in place.
void HyperExpand(Ops& ops, const HyperMix& mix, const float* z, int64_t n, float* streams);
// The final collapse, before the norm and the head: h [n, D].
void HyperHead(Ops& ops, const HyperConnection& head, const float* streams, int64_t n, float* h);

}  // namespace longshelf::engine
