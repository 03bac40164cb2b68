#include "dspark_head.h"

#include <algorithm>

#include "hyper_connection.h"
#include "vocabulary.h"

namespace longshelf::engine {

void DsparkHead::Hidden(const float* streams, int64_t n, float* hidden) const {
  if (n > 0) HyperHead(context_.ops, weights_.hc_head, streams, n, hidden);
}

void DsparkHead::BaseLogits(const float* hidden, int64_t n, float* logits) const {
  HeadLogits(context_.ops, head_, weights_.norm, hidden, n, logits);
}

void DsparkHead::AddMarkov(std::span<const uint32_t> tokens_before, float* logits, int64_t stride) const {
  const auto n = static_cast<int64_t>(tokens_before.size());
  if (n == 0) return;
  Ops& ops = context_.ops;
  const Workspace::Scope scope(ops.memory());
  const int64_t rank = weights_.markov_w1.cols;
  const int64_t vocab = context_.config.vocab_size;
  const OperandRows rows = ops.TakeRows(n, rank);
  ops.pool().Run(n, [&](int64_t i, int thread) {
    auto* row = reinterpret_cast<float*>(ops.scratch(thread));
    LookUp(ops, weights_.markov_w1, tokens_before[static_cast<size_t>(i)], row);
    ops.Pack(row, rank, rows, i);
  });
  float* terms = ops.memory().Take<float>(n * vocab);
  const DotJob job = ops.Dot(weights_.markov_w2, rows, n, terms, false);
  ops.Run({&job, 1});
  ops.pool().Run(n,
                 [&](int64_t i, int) { ops.kernels().add_row(terms + i * vocab, vocab, logits + i * stride * vocab); });
}

void DsparkHead::Confidence(const float* hidden, std::span<const uint32_t> tokens_before, float* confidence) const {
  const auto n = static_cast<int64_t>(tokens_before.size());
  if (n == 0) return;
  Ops& ops = context_.ops;
  const Workspace::Scope scope(ops.memory());
  const int64_t width = context_.config.hidden_size;
  const int64_t columns = weights_.confidence.cols;
  const OperandRows rows = ops.TakeRows(n, columns);
  ops.pool().Run(n, [&](int64_t i, int thread) {
    auto* row = reinterpret_cast<float*>(ops.scratch(thread));
    std::copy_n(hidden + i * width, width, row);
    LookUp(ops, weights_.markov_w1, tokens_before[static_cast<size_t>(i)], row + width);
    ops.Pack(row, columns, rows, i);
  });
  const DotJob job = ops.Dot(weights_.confidence, rows, n, confidence, false);
  ops.Run({&job, 1});
}

}  // namespace longshelf::engine
