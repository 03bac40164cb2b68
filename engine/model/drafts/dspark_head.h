#pragma once

#include <cstdint>
#include <span>

#include "engine/model/weights.h"
#include "layer.h"

namespace longshelf::engine {

// Scores of a drafted block: base logits of each place, then a term for the token that was chosen before it (0731's
// model.py: MarkovHead, ConfidenceHead). The two heads are plain fp32: nothing of theirs is rounded.
class DsparkHead {
 public:
  DsparkHead(ForwardContext& context, const ModelWeights& weights)
      : context_(context), weights_(*weights.dspark), head_(weights.head) {}

  // The collapsed streams of n places; hidden: [n, D].
  void Hidden(const float* streams, int64_t n, float* hidden) const;
  // logits: [n, vocab].
  void BaseLogits(const float* hidden, int64_t n, float* logits) const;
  // Adds the term of the token before each place to its logits; place i is row i * stride of them.
  void AddMarkov(std::span<const uint32_t> tokens_before, float* logits, int64_t stride) const;
  // confidence: [n].
  void Confidence(const float* hidden, std::span<const uint32_t> tokens_before, float* confidence) const;

 private:
  ForwardContext& context_;
  const DsparkWeights& weights_;
  const Matrix& head_;
};

}  // namespace longshelf::engine
