#include "indexer.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "hadamard.h"
#include "top_k.h"

namespace longshelf::engine {
namespace {

// Queries scored together against one unpacked tile of keys, and keys of one work item.
constexpr int64_t kQueryGroup = 16;
constexpr int64_t kKeyRange = 1024;

}  // namespace

void Indexer::Project(Ops& ops, const SublayerInput& input, DotJob* jobs) {
  compressor_.Project(ops, input, jobs);
  head_weights_ = ops.memory().Take<float>(input.n * ops.config().index_n_heads);
  jobs[Compressor::kProjections] = ops.Dot(weights_.weights_proj, input.plain, input.n, head_weights_, true);
}

void Indexer::FinishProjection(const Ops& ops, int64_t row, int64_t position) {
  const ModelConfig& config = ops.config();
  compressor_.AddPosition(ops, row, position);
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.index_head_dim)) /
                                        std::sqrt(static_cast<double>(config.index_n_heads)));
  float* weights = head_weights_ + row * config.index_n_heads;
  ops.kernels().scale_row(weights, nullptr, scale, config.index_n_heads, ops.native(), weights);
}

void Indexer::AppendKey(const Ops& ops, const SequenceRows& rows, int64_t entry, int thread) const {
  const ModelConfig& config = ops.config();
  const int64_t width = config.index_head_dim;
  auto* key = reinterpret_cast<float*>(ops.scratch(thread));
  float* cos = key + width;
  float* sin = cos + rope_.n_pairs();
  compressor_.Pool(ops, rows, layout_.IndexCarry(layer_), entry, key);
  ops.RmsNormRow(weights_.compressor.norm, key, width, key);
  rope_.Angles(entry * 4, cos, sin);
  ops.kernels().rotate(key + width - config.rope_dim, cos, sin, rope_.n_pairs(), false, ops.native());
  if (ops.native()) {
    Hadamard(key, width);
    ops.Round(key, width);
  }
  PackIndexKey(IndexKeyFormat(config, ops.numerics()), key, RecordAt(*layout_.IndexKeys(layer_), rows.blocks, entry));
}

DotJob Indexer::ProjectQueries(Ops& ops, const OperandRows& qr, int64_t n) {
  const int64_t n_heads = ops.config().index_n_heads;
  const int64_t width = ops.config().index_head_dim;
  q_ = ops.memory().Take<float>(n * n_heads * width);
  if (ops.native()) {
    queries_ = ops.memory().Take<IndexQuery>(n);
    const int64_t n_blocks = n_heads * (width / 32);
    auto* codes = ops.memory().Take<int8_t>(n * n_heads * width);
    auto* scales = ops.memory().Take<float>(n * n_blocks);
    auto* offsets = ops.memory().Take<int32_t>(n * n_blocks);
    auto* weights = ops.memory().Take<float>(n * n_heads);
    for (int64_t i = 0; i < n; ++i) {
      queries_[i] = {codes + i * n_heads * width, scales + i * n_blocks, offsets + i * n_blocks, weights + i * n_heads};
    }
  } else {
    operands_ = ops.TakeRows(n * n_heads, width);
  }
  return ops.Dot(weights_.wq_b, qr, n, q_, true);
}

void Indexer::FinishQuery(Ops& ops, int64_t row, Rotation rotation) {
  const ModelConfig& config = ops.config();
  const int64_t n_heads = config.index_n_heads;
  const int64_t width = config.index_head_dim;
  float* q = q_ + row * n_heads * width;
  for (int64_t h = 0; h < n_heads; ++h) {
    float* head = q + h * width;
    ops.kernels().rotate(head + width - config.rope_dim, rotation.cos, rotation.sin, rope_.n_pairs(), false,
                         ops.native());
    if (ops.native()) {
      Hadamard(head, width);
      ops.Round(head, width);
    } else {
      ops.Pack(head, width, operands_, row * n_heads + h);
    }
  }
  if (ops.native()) {
    ops.kernels().pack_index_query(q, head_weights_ + row * n_heads, n_heads, width, queries_[row]);
  }
}

void Indexer::ScoreRange(Ops& ops, const SequenceRows& rows, int64_t first_row, int64_t n_rows, int64_t first_key,
                         int64_t n_keys, float* scores, int64_t stride, int thread) const {
  const KvComponent& component = *layout_.IndexKeys(layer_);
  const std::byte* keys[kKeyRange];
  for (int64_t k = 0; k < n_keys; ++k) keys[k] = RecordAt(component, rows.blocks, first_key + k);
  ops.kernels().index_scores({ops.config().index_n_heads, ops.config().index_head_dim,
                              queries_ + rows.row_begin + first_row, n_rows, keys, n_keys, scores, stride},
                             ops.scratch(thread));
}

// Keys of a block lie one after another: a matrix.
void Indexer::ScoreRangeFp32(Ops& ops, const SequenceRows& rows, int64_t first_row, int64_t n_rows, int64_t first_key,
                             int64_t n_keys, float* scores, int64_t stride, int thread) const {
  const KvComponent& component = *layout_.IndexKeys(layer_);
  const int64_t n_heads = ops.config().index_n_heads;
  std::vector<float> dots(static_cast<size_t>(n_heads * component.rows));
  for (int64_t begin = first_key; begin < first_key + n_keys; begin += component.rows) {
    Matrix keys;
    keys.format = Matrix::Format::kF32;
    keys.rows = std::min(component.rows, first_key + n_keys - begin);
    keys.cols = ops.config().index_head_dim;
    keys.data = reinterpret_cast<const uint8_t*>(RecordAt(component, rows.blocks, begin));
    for (int64_t i = 0; i < n_rows; ++i) {
      const int64_t row = rows.row_begin + first_row + i;
      OperandRows q = operands_;
      q.data = operands_.row(row * n_heads);
      ops.RunSerial(ops.Dot(keys, q, n_heads, dots.data(), false), thread);
      for (int64_t k = 0; k < keys.rows; ++k) {
        float sum = 0.0F;
        for (int64_t h = 0; h < n_heads; ++h) {
          sum += std::max(dots[static_cast<size_t>(h * keys.rows + k)], 0.0F) * head_weights_[row * n_heads + h];
        }
        scores[i * stride + begin - first_key + k] = sum;
      }
    }
  }
}

ChosenEntries Indexer::Choose(Ops& ops, std::span<const SequenceRows> parts, int64_t n) {
  const int64_t topk = ops.config().index_topk;
  const ChosenEntries chosen{ops.memory().Take<int32_t>(n * topk), topk};
  for (const SequenceRows& rows : parts) {
    // Rows before this one see no more than topk entries.
    int64_t begin = std::clamp((topk + 1) * 4 - 1 - rows.n_past, int64_t{0}, rows.n_rows);
    const int64_t stride = (ChosenEntries::Visible(rows.n_total() - 1) + kKeyRange - 1) / kKeyRange * kKeyRange;
    while (begin < rows.n_rows) {
      const Workspace::Scope scope(ops.memory());
      const int64_t n_rows = std::min(rows.n_rows - begin, std::max<int64_t>(kIndexScores / stride, 1));
      float* scores = ops.memory().Take<float>(n_rows * stride);
      const int64_t n_keys = ChosenEntries::Visible(rows.n_past + begin + n_rows - 1);
      const int64_t n_ranges = (n_keys + kKeyRange - 1) / kKeyRange;
      const int64_t n_groups = (n_rows + kQueryGroup - 1) / kQueryGroup;
      ops.pool().Run(n_ranges * n_groups, [&](int64_t item, int thread) {
        const int64_t key = item / n_groups * kKeyRange;
        const int64_t row = item % n_groups * kQueryGroup;
        const int64_t count = std::min(kKeyRange, n_keys - key);
        const int64_t n_queries = std::min(kQueryGroup, n_rows - row);
        const auto score = ops.native() ? &Indexer::ScoreRange : &Indexer::ScoreRangeFp32;
        (this->*score)(ops, rows, begin + row, n_queries, key, count, scores + row * stride + key, stride, thread);
      });
      ops.pool().Run(n_rows, [&](int64_t i, int thread) {
        const int64_t row = begin + i;
        TopK(ops.kernels(), scores + i * stride, ChosenEntries::Visible(rows.n_past + row), topk,
             chosen.entries + (rows.row_begin + row) * topk, ops.scratch(thread));
      });
      begin += n_rows;
    }
  }
  return chosen;
}

void Indexer::TapWeights(const Tapper& taps, const ModelConfig& config, int64_t n) const {
  taps.Tap("attn.indexer.weights_proj", {head_weights_, static_cast<size_t>(n * config.index_n_heads)},
           config.index_n_heads);
}

void Indexer::TapQueries(const Tapper& taps, const ModelConfig& config, int64_t n) const {
  const int64_t row_width = config.index_n_heads * config.index_head_dim;
  taps.Tap("attn.indexer.wq_b", {q_, static_cast<size_t>(n * row_width)}, row_width);
}

void Indexer::TapKeys(const Tapper& taps, std::span<const SequenceRows> parts, const Ops& ops) const {
  if (!taps.active()) return;
  const ModelConfig& config = ops.config();
  std::vector<float> keys;
  std::vector<float> key(static_cast<size_t>(config.index_head_dim));
  for (const SequenceRows& rows : parts) {
    for (int64_t e = 0; e < compressor_.CountEntries(rows); ++e) {
      UnpackIndexKey(IndexKeyFormat(config, ops.numerics()),
                     RecordAt(*layout_.IndexKeys(layer_), rows.blocks, compressor_.FirstEntry(rows) + e), key.data());
      keys.insert(keys.end(), key.begin(), key.end());
    }
  }
  taps.Tap("attn.indexer.compressor", keys, config.index_head_dim);
}

}  // namespace longshelf::engine
