#include "vocabulary.h"

#include <algorithm>

#include "hyper_connection.h"

namespace longshelf::engine {

void LookUp(const Ops& ops, const Matrix& table, uint32_t token, float* out) {
  const int64_t first = static_cast<int64_t>(token) * table.cols;
  if (table.format == Matrix::Format::kF32) {
    std::copy_n(reinterpret_cast<const float*>(table.data) + first, table.cols, out);
    ops.Round(out, table.cols);
  } else {
    ops.kernels().decode_bf16(reinterpret_cast<const uint16_t*>(table.data) + first, table.cols, out);
  }
}

void Embed(Ops& ops, const Matrix& table, std::span<const uint32_t> tokens, float* streams) {
  const int64_t width = table.cols;
  const int64_t n_streams = ops.config().hc_mult;
  ops.pool().Run(static_cast<int64_t>(tokens.size()), [&](int64_t i, int) {
    float* row = streams + i * n_streams * width;
    LookUp(ops, table, tokens[static_cast<size_t>(i)], row);
    for (int64_t k = 1; k < n_streams; ++k) std::copy_n(row, width, row + k * width);
  });
}

void HeadLogits(Ops& ops, const Matrix& head, std::span<const float> norm, const float* x, int64_t n, float* logits) {
  if (n == 0) return;
  const Workspace::Scope scope(ops.memory());
  const int64_t width = head.cols;
  const OperandRows rows = ops.TakeRows(n, width);
  ops.pool().Run(n, [&](int64_t i, int thread) {
    auto* row = reinterpret_cast<float*>(ops.scratch(thread));
    ops.RmsNormRow(norm, x + i * width, width, row);
    ops.Pack(row, width, rows, i);
  });
  const DotJob job = ops.Dot(head, rows, n, logits, false);
  ops.Run({&job, 1});
}

void HeadLogits(Ops& ops, const Matrix& head, const HyperConnection& collapse, std::span<const float> norm,
                const float* streams, int64_t n, float* logits) {
  if (n == 0) return;
  const Workspace::Scope scope(ops.memory());
  float* x = ops.memory().Take<float>(n * head.cols);
  HyperHead(ops, collapse, streams, n, x);
  HeadLogits(ops, head, norm, x, n, logits);
}

}  // namespace longshelf::engine
