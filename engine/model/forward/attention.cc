#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "attend.h"
#include "indexer.h"
#include "kv_records.h"
#include "reference_order.h"

namespace longshelf::engine {
namespace {

// Per-head RMS without weight. The published code runs it on BF16 tensors, so every step of it rounds.
void NormalizeQuery(const Ops& ops, bool rounds_twice, float* head, int64_t width) {
  if (!ops.native()) {
    ops.RmsNormRow({}, head, width, head);
    return;
  }
  double sum = 0.0;
  for (int64_t c = 0; c < width; ++c) sum += static_cast<double>(ops.Round(head[c] * head[c]));
  const float mean = ops.Round(static_cast<float>(sum / static_cast<double>(width)));
  const float shifted = ops.Round(mean + static_cast<float>(ops.config().rms_norm_eps));
  const float root = std::sqrt(shifted);
  const float r = ops.Round(1.0F / (rounds_twice ? ops.Round(root) : root));
  for (int64_t c = 0; c < width; ++c) head[c] = ops.Round(head[c] * r);
}

// Chosen entries per row, padded with -1.
void TapChosen(const Tapper& taps, const std::vector<std::vector<int32_t>>& chosen, int64_t topk) {
  if (!taps.active()) return;
  std::vector<float> padded(chosen.size() * static_cast<size_t>(topk), -1.0F);
  for (size_t i = 0; i < chosen.size(); ++i) {
    std::copy(chosen[i].begin(), chosen[i].end(), padded.begin() + static_cast<int64_t>(i) * topk);
  }
  taps.Tap("attn.indexer", padded, topk);
}

}  // namespace

// What one sequence's queries read, unpacked once per chunk. Row pointers are in fixed order: window by position, then
// compressed entries by index.
struct Attention::PartKv {
  int64_t window_begin = 0;        // position of window row 0
  std::vector<float> window;       // [n_history + n_rows, head_dim]
  std::vector<std::byte> records;  // [n_rows, entry_bytes]: the chunk's own rows, packed
  std::vector<float> entries;      // ratio 128: every visible entry, [n, head_dim]
};

void Attention::Run(Ops& ops, const float* x, int64_t n, const std::vector<SequenceRows>& parts, float* z,
                    const Tapper& taps) const {
  const ModelConfig& config = ops.config();
  const int64_t head_width = config.n_heads * config.head_dim;
  std::vector<float> qr(static_cast<size_t>(n * config.q_lora_rank));
  ops.Linear(weights_.wq_a, x, n, qr.data());
  taps.Tap("attn.wq_a", qr, config.q_lora_rank);
  ops.RmsNorm(weights_.q_norm, qr.data(), n, config.q_lora_rank, qr.data());
  taps.Tap("attn.q_norm", qr, config.q_lora_rank);
  const std::vector<float> q = Queries(ops, qr.data(), n, parts, taps);
  const std::vector<float> kv = WindowRows(ops, x, n, parts, taps);

  std::vector<std::vector<int32_t>> chosen;
  if (ratio_ != 0) {
    Compressor compressor(*weights_.compressor, ratio_, config.head_dim);
    compressor.Project(ops, x, n);
    std::vector<float> tapped;
    for (const SequenceRows& rows : parts) AppendEntries(ops, compressor, rows, taps.active() ? &tapped : nullptr);
    taps.Tap("attn.compressor", tapped, config.head_dim);
    if (ratio_ == 4) {
      Indexer indexer(*weights_.indexer, layout_, layer_, rope_);
      indexer.Run(ops, x, qr.data(), n, parts, chosen, taps);
      TapChosen(taps, chosen, config.index_topk);
    }
  }

  std::vector<float> o(static_cast<size_t>(n * head_width));
  for (const SequenceRows& rows : parts) {
    const PartKv part = LoadPart(ops, rows, kv.data());
    ops.pool().Run(rows.n_rows, [&](int64_t i, int) {
      const auto row = static_cast<size_t>(rows.row_begin + i);
      AttendRow(ops, rows, part, i, chosen.empty() ? nullptr : &chosen[row],
                q.data() + static_cast<int64_t>(row) * head_width, o.data() + static_cast<int64_t>(row) * head_width);
    });
    SaveWindow(rows, part);
  }
  Project(ops, o, n, z);
}

std::vector<float> Attention::Queries(Ops& ops, const float* qr, int64_t n, const std::vector<SequenceRows>& parts,
                                      const Tapper& taps) const {
  const ModelConfig& config = ops.config();
  const int64_t width = config.head_dim;
  const int64_t row_width = config.n_heads * width;
  std::vector<float> q(static_cast<size_t>(n * row_width));
  ops.Linear(weights_.wq_b, qr, n, q.data());
  taps.Tap("attn.wq_b", q, row_width);
  const std::optional<ReferenceCall>& call = ops.reference_call();
  for (const SequenceRows& rows : parts) {
    ops.pool().Run(rows.n_rows, [&](int64_t i, int) {
      const Rotation rotation = rope_.At(rows.n_past + i);
      for (int64_t h = 0; h < config.n_heads; ++h) {
        float* head = q.data() + (rows.row_begin + i) * row_width + h * width;
        const bool rounds_twice = call.has_value() && RoundsRsqrtTwice(*call, config.n_heads, rows.n_past + i, h);
        NormalizeQuery(ops, rounds_twice, head, width);
        rotation.Apply(head + config.nope_dim());
        ops.Round({head + config.nope_dim(), static_cast<size_t>(config.rope_dim)});
      }
    });
  }
  return q;
}

std::vector<float> Attention::WindowRows(Ops& ops, const float* x, int64_t n, const std::vector<SequenceRows>& parts,
                                         const Tapper& taps) const {
  const ModelConfig& config = ops.config();
  const int64_t width = config.head_dim;
  std::vector<float> kv(static_cast<size_t>(n * width));
  ops.Linear(weights_.wkv, x, n, kv.data());
  taps.Tap("attn.wkv", kv, width);
  ops.RmsNorm(weights_.kv_norm, kv.data(), n, width, kv.data());
  taps.Tap("attn.kv_norm", kv, width);
  for (const SequenceRows& rows : parts) {
    ops.pool().Run(rows.n_rows, [&](int64_t i, int) {
      const Rotation rotation = rope_.At(rows.n_past + i);
      float* rotated = kv.data() + (rows.row_begin + i) * width + config.nope_dim();
      rotation.Apply(rotated);
      ops.Round({rotated, static_cast<size_t>(config.rope_dim)});
    });
  }
  return kv;
}

void Attention::AppendEntries(Ops& ops, const Compressor& compressor, const SequenceRows& rows,
                              std::vector<float>* tapped) const {
  const ModelConfig& config = ops.config();
  const int64_t width = config.head_dim;
  const RecordFormat format = EntryFormat(config, ops.numerics());
  PooledEntries pooled = compressor.Pool(ops, rows, layout_.EntryCarry(layer_));
  const KvComponent& component = *layout_.Entries(layer_);
  ops.pool().Run(pooled.count, [&](int64_t i, int) {
    float* entry = pooled.values.data() + i * width;
    ops.RmsNormRow(weights_.compressor->norm, entry, width, entry);
    const Rotation rotation = rope_.At((pooled.first + i) * ratio_);
    rotation.Apply(entry + config.nope_dim());
    ops.Round({entry + config.nope_dim(), static_cast<size_t>(config.rope_dim)});
    std::byte* record = RecordAt(component, rows.blocks, pooled.first + i);
    PackEntry(format, entry, record);
    UnpackEntry(format, record, entry);
  });
  if (tapped != nullptr) tapped->insert(tapped->end(), pooled.values.begin(), pooled.values.end());
}

Attention::PartKv Attention::LoadPart(Ops& ops, const SequenceRows& rows, const float* kv) const {
  const ModelConfig& config = ops.config();
  const int64_t width = config.head_dim;
  const RecordFormat format = EntryFormat(config, ops.numerics());
  const int64_t n_history = std::min(rows.n_past, config.window - 1);
  PartKv part;
  part.window_begin = rows.n_past - n_history;
  part.window.resize(static_cast<size_t>((n_history + rows.n_rows) * width));
  part.records.resize(static_cast<size_t>(rows.n_rows * format.row_bytes));
  const std::byte* ring = rows.state + layout_.WindowOffset(layer_);
  ops.pool().Run(n_history + rows.n_rows, [&](int64_t i, int) {
    float* out = part.window.data() + i * width;
    if (i < n_history) {
      UnpackEntry(format, ring + (part.window_begin + i) % config.window * format.row_bytes, out);
      return;
    }
    std::byte* record = part.records.data() + (i - n_history) * format.row_bytes;
    PackEntry(format, kv + (rows.row_begin + i - n_history) * width, record);
    UnpackEntry(format, record, out);
  });
  if (ratio_ == 128) {
    const int64_t n_entries = rows.n_total() / ratio_;
    const KvComponent& component = *layout_.Entries(layer_);
    part.entries.resize(static_cast<size_t>(n_entries * width));
    ops.pool().Run(n_entries, [&](int64_t i, int) {
      UnpackEntry(format, RecordAt(component, rows.blocks, i), part.entries.data() + i * width);
    });
  }
  return part;
}

void Attention::SaveWindow(const SequenceRows& rows, const PartKv& part) const {
  const int64_t row_bytes = layout_.entry_bytes();
  const int64_t window = layout_.window();
  std::byte* ring = rows.state + layout_.WindowOffset(layer_);
  for (int64_t i = std::max<int64_t>(rows.n_rows - window, 0); i < rows.n_rows; ++i) {
    std::memcpy(ring + (rows.n_past + i) % window * row_bytes, part.records.data() + i * row_bytes,
                static_cast<size_t>(row_bytes));
  }
}

void Attention::AttendRow(Ops& ops, const SequenceRows& rows, const PartKv& part, int64_t i,
                          const std::vector<int32_t>* chosen, const float* q, float* out) const {
  const ModelConfig& config = ops.config();
  const int64_t width = config.head_dim;
  const int64_t position = rows.n_past + i;
  std::vector<KeyTile> tiles;
  const int64_t window_begin = std::max<int64_t>(position - config.window + 1, 0);
  AppendTiles(part.window.data() + (window_begin - part.window_begin) * width, position + 1 - window_begin, width,
              tiles);
  std::vector<float> unpacked;
  if (chosen != nullptr) {
    const RecordFormat format = EntryFormat(config, ops.numerics());
    const KvComponent& component = *layout_.Entries(layer_);
    unpacked.resize(chosen->size() * static_cast<size_t>(width));
    float* entry = unpacked.data();
    for (const int32_t e : *chosen) {
      UnpackEntry(format, RecordAt(component, rows.blocks, e), entry);
      entry += width;
    }
    AppendTiles(unpacked.data(), static_cast<int64_t>(chosen->size()), width, tiles);
  } else if (ratio_ == 128) {
    AppendTiles(part.entries.data(), (position + 1) / ratio_, width, tiles);
  }
  const bool lane_scores = ops.reference_call().has_value() && ops.reference_call()->lane_scores;
  AttendKeys(ops.kernels(), ops.numerics(), lane_scores, q, config.n_heads, width, tiles, weights_.sink, out);
  const Rotation rotation = rope_.At(position);
  for (int64_t h = 0; h < config.n_heads; ++h) {
    float* rotated = out + h * width + config.nope_dim();
    rotation.ApplyInverse(rotated);
    ops.Round({rotated, static_cast<size_t>(config.rope_dim)});
  }
}

void Attention::Project(Ops& ops, const std::vector<float>& o, int64_t n, float* z) const {
  const ModelConfig& config = ops.config();
  const int64_t n_groups = config.o_groups;
  const int64_t group_width = config.n_heads * config.head_dim / n_groups;
  const int64_t u_width = n_groups * config.o_lora_rank;
  std::vector<float> u(static_cast<size_t>(n * u_width));
  std::vector<float> group(static_cast<size_t>(n * group_width));
  for (int64_t g = 0; g < n_groups; ++g) {
    for (int64_t i = 0; i < n; ++i) {
      std::memcpy(group.data() + i * group_width, o.data() + i * n_groups * group_width + g * group_width,
                  static_cast<size_t>(group_width) * sizeof(float));
    }
    // Never quantised on its input, whatever its stored form, as in the published inference.
    std::vector<float> part(static_cast<size_t>(n * config.o_lora_rank));
    ops.MatMulRows(weights_.wo_a, g * config.o_lora_rank, config.o_lora_rank, group.data(), n, part.data());
    for (int64_t i = 0; i < n; ++i) {
      std::memcpy(u.data() + i * u_width + g * config.o_lora_rank, part.data() + i * config.o_lora_rank,
                  static_cast<size_t>(config.o_lora_rank) * sizeof(float));
    }
  }
  ops.Round(u);
  ops.Linear(weights_.wo_b, u.data(), n, z);
}

}  // namespace longshelf::engine
