#include "indexer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "activation_quant.h"

namespace longshelf::engine {
namespace {

// Queries scored together against one unpacked tile of keys.
constexpr int64_t kQueryGroup = 16;

// Rotates an index query or key into the space it is stored in: native numerics only.
void RotateAndQuantize(const Ops& ops, float* v, int64_t width, bool quantize) {
  if (!ops.native()) return;
  Hadamard(v, width);
  ops.Round({v, static_cast<size_t>(width)});
  if (quantize) FakeQuantE2m1(v, width);
}

std::vector<int32_t> AllOf(int64_t n) {
  std::vector<int32_t> all(static_cast<size_t>(n));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

// The k largest of n scores, ascending by entry; equal scores: the lower entry.
std::vector<int32_t> TopK(const float* scores, int64_t n, int64_t k) {
  std::vector<int32_t> order = AllOf(n);
  std::nth_element(order.begin(), order.begin() + k, order.end(),
                   [&](int32_t a, int32_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a < b; });
  order.resize(static_cast<size_t>(k));
  std::sort(order.begin(), order.end());
  return order;
}

// The same choice with equal scores as a partial heap sort leaves them, which is PyTorch's topk of few among many.
std::vector<int32_t> HeapTopK(const float* scores, int64_t n, int64_t k) {
  std::vector<int32_t> order = AllOf(n);
  std::partial_sort(order.begin(), order.begin() + k, order.end(),
                    [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
  order.resize(static_cast<size_t>(k));
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace

void Indexer::Run(Ops& ops, const float* x, const float* qr, int64_t n, const std::vector<SequenceRows>& parts,
                  std::vector<std::vector<int32_t>>& chosen, const Tapper& taps) {
  const ModelConfig& config = ops.config();
  Compressor compressor(weights_.compressor, 4, config.index_head_dim);
  compressor.Project(ops, x, n);
  std::vector<float> tapped;
  for (const SequenceRows& rows : parts) AppendKeys(ops, compressor, rows, taps.active() ? &tapped : nullptr);
  taps.Tap("attn.indexer.compressor", tapped, config.index_head_dim);

  const std::vector<float> q = Queries(ops, qr, n, parts, taps);
  std::vector<float> head_weights(static_cast<size_t>(n * config.index_n_heads));
  ops.Linear(weights_.weights_proj, x, n, head_weights.data());
  taps.Tap("attn.indexer.weights_proj", head_weights, config.index_n_heads);
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.index_head_dim)) /
                                        std::sqrt(static_cast<double>(config.index_n_heads)));
  for (float& w : head_weights) w = ops.Round(w * scale);

  chosen.assign(static_cast<size_t>(n), {});
  struct Group {
    const SequenceRows* rows;
    int64_t first;
    int64_t count;
  };
  std::vector<Group> groups;
  for (const SequenceRows& rows : parts) {
    for (int64_t i = 0; i < rows.n_rows; i += kQueryGroup) {
      groups.push_back({&rows, i, std::min(kQueryGroup, rows.n_rows - i)});
    }
  }
  ops.pool().Run(static_cast<int64_t>(groups.size()), [&](int64_t i, int) {
    const Group& group = groups[static_cast<size_t>(i)];
    Score(ops, *group.rows, group.first, group.count, q.data(), head_weights.data(), chosen);
  });
}

std::vector<float> Indexer::Queries(Ops& ops, const float* qr, int64_t n, const std::vector<SequenceRows>& parts,
                                    const Tapper& taps) const {
  const ModelConfig& config = ops.config();
  const int64_t width = config.index_head_dim;
  const int64_t row_width = config.index_n_heads * width;
  std::vector<float> q(static_cast<size_t>(n * row_width));
  ops.Linear(weights_.wq_b, qr, n, q.data());
  taps.Tap("attn.indexer.wq_b", q, row_width);
  for (const SequenceRows& rows : parts) {
    ops.pool().Run(rows.n_rows, [&](int64_t i, int) {
      const Rotation rotation = rope_.At(rows.n_past + i);
      for (int64_t h = 0; h < config.index_n_heads; ++h) {
        float* head = q.data() + (rows.row_begin + i) * row_width + h * width;
        float* rotated = head + width - config.rope_dim;
        rotation.Apply(rotated);
        ops.Round({rotated, static_cast<size_t>(config.rope_dim)});
        RotateAndQuantize(ops, head, width, true);
      }
    });
  }
  return q;
}

void Indexer::AppendKeys(Ops& ops, const Compressor& compressor, const SequenceRows& rows,
                         std::vector<float>* tapped) const {
  const ModelConfig& config = ops.config();
  const int64_t width = config.index_head_dim;
  const RecordFormat format = IndexKeyFormat(config, ops.numerics());
  PooledEntries pooled = compressor.Pool(ops, rows, layout_.IndexCarry(layer_));
  const KvComponent& component = *layout_.IndexKeys(layer_);
  ops.pool().Run(pooled.count, [&](int64_t i, int) {
    float* key = pooled.values.data() + i * width;
    ops.RmsNormRow(weights_.compressor.norm, key, width, key);
    const Rotation rotation = rope_.At((pooled.first + i) * 4);
    float* rotated = key + width - config.rope_dim;
    rotation.Apply(rotated);
    ops.Round({rotated, static_cast<size_t>(config.rope_dim)});
    RotateAndQuantize(ops, key, width, false);
    std::byte* record = RecordAt(component, rows.blocks, pooled.first + i);
    PackIndexKey(format, key, record);
    UnpackIndexKey(format, record, key);
  });
  if (tapped != nullptr) tapped->insert(tapped->end(), pooled.values.begin(), pooled.values.end());
}

void Indexer::Score(Ops& ops, const SequenceRows& rows, int64_t first_row, int64_t n_rows, const float* q,
                    const float* head_weights, std::vector<std::vector<int32_t>>& chosen) const {
  const ModelConfig& config = ops.config();
  const int64_t n_heads = config.index_n_heads;
  const int64_t width = config.index_head_dim;
  const int64_t topk = config.index_topk;
  const bool heap_ties = ops.reference_call().has_value() && ops.reference_call()->heap_ties;
  const auto visible = [&](int64_t i) { return (rows.n_past + first_row + i + 1) / 4; };
  const auto chosen_at = [&](int64_t i) -> std::vector<int32_t>& {
    return chosen[static_cast<size_t>(rows.row_begin + first_row + i)];
  };
  int64_t first_scored = 0;
  while (first_scored < n_rows && visible(first_scored) <= topk) {
    chosen_at(first_scored) = AllOf(visible(first_scored));
    ++first_scored;
  }
  if (first_scored == n_rows) return;

  const int64_t n_entries = visible(n_rows - 1);
  const int64_t n_padded = RoundUpToLanes(n_entries);
  const RecordFormat format = IndexKeyFormat(config, ops.numerics());
  const KvComponent& component = *layout_.IndexKeys(layer_);
  std::vector<float> scores(static_cast<size_t>((n_rows - first_scored) * n_padded));
  std::vector<float> key(static_cast<size_t>(width));
  std::vector<float> tile(static_cast<size_t>(width * kLanes));
  std::vector<float> dots(static_cast<size_t>(n_heads * kLanes));
  for (int64_t begin = 0; begin < n_entries; begin += kLanes) {
    const int64_t n_keys = std::min(kLanes, n_entries - begin);
    std::fill(tile.begin(), tile.end(), 0.0F);
    for (int64_t j = 0; j < n_keys; ++j) {
      UnpackIndexKey(format, RecordAt(component, rows.blocks, begin + j), key.data());
      for (int64_t c = 0; c < width; ++c) tile[static_cast<size_t>(c * kLanes + j)] = key[static_cast<size_t>(c)];
    }
    for (int64_t i = first_scored; i < n_rows; ++i) {
      if (begin >= visible(i)) continue;
      const int64_t row = rows.row_begin + first_row + i;
      ops.kernels().index_dots(q + row * n_heads * width, n_heads, width, tile.data(), dots.data());
      const float* w = head_weights + row * n_heads;
      float* out = scores.data() + (i - first_scored) * n_padded + begin;
      for (int64_t j = 0; j < kLanes; ++j) {
        float sum = 0.0F;
        for (int64_t h = 0; h < n_heads; ++h) {
          const float dot = std::max(ops.Round(dots[static_cast<size_t>(h * kLanes + j)]), 0.0F);
          sum += ops.Round(dot * w[h]);
        }
        out[j] = ops.Round(sum);
      }
    }
  }
  for (int64_t i = first_scored; i < n_rows; ++i) {
    const float* row_scores = scores.data() + (i - first_scored) * n_padded;
    chosen_at(i) = heap_ties ? HeapTopK(row_scores, visible(i), topk) : TopK(row_scores, visible(i), topk);
  }
}

}  // namespace longshelf::engine
