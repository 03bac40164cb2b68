#include "attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "formats.h"
#include "kv_records.h"

namespace longshelf::engine {
namespace {

// Products of one fork at most: queries, window rows, two compressors, index weights.
constexpr size_t kMaxJobs = 8;

// Products of one fork of the output projection.
constexpr int64_t kForkedGroups = 16;

// Per-head RMS without weight. The published code runs it on BF16 tensors, so every step of it rounds.
void NormalizeQuery(const Ops& ops, float* head, int64_t width) {
  if (!ops.native()) return ops.RmsNormRow({}, head, width, head);
  const float mean = RoundBf16(ops.kernels().sum_rounded_squares(head, width) / static_cast<float>(width));
  const float shifted = RoundBf16(mean + static_cast<float>(ops.config().rms_norm_eps));
  ops.kernels().scale_row(head, nullptr, RoundBf16(1.0F / std::sqrt(shifted)), width, true, head);
}

// kv [n, head_dim]: a row of wkv's output to the record of its position, [n, entry_bytes].
void PackWindowRow(const Ops& ops, const AttentionWeights& weights, const StepRotations& rotations, int64_t row,
                   float* kv, std::byte* records) {
  const ModelConfig& config = ops.config();
  const RecordFormat format = EntryFormat(config, ops.numerics());
  float* own = kv + row * config.head_dim;
  const Rotation rotation = rotations.at(row);
  ops.RmsNormRow(weights.kv_norm, own, config.head_dim, own);
  ops.kernels().rotate(own + config.nope_dim(), rotation.cos, rotation.sin, rotations.n_pairs, false, ops.native());
  PackEntry(ops.kernels(), format, own, records + row * format.row_bytes);
}

void SaveWindow(RecordRing window, const SequenceRows& rows, const std::byte* records, int64_t row_bytes) {
  for (int64_t i = std::max<int64_t>(rows.n_rows - window.n_rows, 0); i < rows.n_rows; ++i) {
    std::memcpy(rows.state + window.offset + (rows.n_past + i) % window.n_rows * row_bytes,
                records + (rows.row_begin + i) * row_bytes, static_cast<size_t>(row_bytes));
  }
}

// Chosen entries per row, padded with -1.
void TapChosen(const Tapper& taps, const ChosenEntries& chosen, std::span<const SequenceRows> parts, int64_t n) {
  if (!taps.active()) return;
  std::vector<float> padded(static_cast<size_t>(n * chosen.topk), -1.0F);
  for (const SequenceRows& rows : parts) {
    for (int64_t i = 0; i < rows.n_rows; ++i) {
      const int64_t row = rows.row_begin + i;
      const bool all = chosen.All(rows.n_past + i);
      const int64_t count = all ? ChosenEntries::Visible(rows.n_past + i) : chosen.topk;
      for (int64_t k = 0; k < count; ++k) {
        padded[static_cast<size_t>(row * chosen.topk + k)] = static_cast<float>(all ? k : chosen.row(row)[k]);
      }
    }
  }
  taps.Tap("attn.indexer", padded, chosen.topk);
}

}  // namespace

Attention::Attention(const AttentionWeights& weights, const KvLayout& layout, const LayerPlace& place,
                     const RopeTable& rope, const StepRotations& rotations)
    : weights_(weights),
      layout_(layout),
      layer_(place.layer),
      ratio_(place.ratio),
      window_(place.window),
      rope_(rope),
      rotations_(rotations) {
  if (ratio_ != 0) compressor_.emplace(*weights_.compressor, ratio_, weights_.wkv.rows);
  if (ratio_ == 4) indexer_.emplace(*weights_.indexer, layout_, layer_, rope_);
}

void Attention::Run(Ops& ops, const SublayerInput& input, std::span<const SequenceRows> parts, float* z,
                    const Tapper& taps) {
  Project(ops, input, parts, taps);
  if (ratio_ != 0) AppendEntries(ops, parts);
  TapEntries(ops, parts, taps);
  Queries(ops, input.n, parts, taps);
  if (ratio_ == 4) {
    chosen_ = indexer_->Choose(ops, parts, input.n);
    TapChosen(taps, chosen_, parts, input.n);
  }
  Attend(ops, parts);
  for (const SequenceRows& rows : parts) {
    if (!rows.is_draft_block) SaveWindow(window_, rows, records_, layout_.entry_bytes());
  }
  ProjectOutput(ops, input.n, z);
}

// Everything that reads the layer's input, then what is done to each row of it.
void Attention::Project(Ops& ops, const SublayerInput& input, std::span<const SequenceRows> parts, const Tapper& taps) {
  const ModelConfig& config = ops.config();
  const int64_t n = input.n;
  qr_ = ops.memory().Take<float>(n * config.q_lora_rank);
  qr_rows_ = ops.TakeRows(n, config.q_lora_rank);
  kv_ = ops.memory().Take<float>(n * config.head_dim);
  records_ = ops.memory().Take<std::byte>(n * layout_.entry_bytes());
  std::array<DotJob, kMaxJobs> jobs;
  size_t n_jobs = 0;
  jobs[n_jobs++] = ops.Dot(weights_.wq_a, input.For(weights_.wq_a), n, qr_, true);
  jobs[n_jobs++] = ops.Dot(weights_.wkv, input.For(weights_.wkv), n, kv_, true);
  if (compressor_) {
    compressor_->Project(ops, input, &jobs[n_jobs]);
    n_jobs += Compressor::kProjections;
  }
  if (indexer_) {
    indexer_->Project(ops, input, &jobs[n_jobs]);
    n_jobs += Indexer::kProjections;
  }
  ops.Run({jobs.data(), n_jobs});
  taps.Tap("attn.wq_a", {qr_, static_cast<size_t>(n * config.q_lora_rank)}, config.q_lora_rank);
  taps.Tap("attn.wkv", {kv_, static_cast<size_t>(n * config.head_dim)}, config.head_dim);
  if (indexer_) indexer_->TapWeights(taps, ops.config(), n);
  if (taps.active()) {
    std::vector<float> normed(kv_, kv_ + n * config.head_dim);
    for (int64_t i = 0; i < n; ++i) {
      float* row = normed.data() + i * config.head_dim;
      ops.RmsNormRow(weights_.kv_norm, row, config.head_dim, row);
    }
    taps.Tap("attn.kv_norm", normed, config.head_dim);
  }
  for (const SequenceRows& rows : parts) {
    ops.pool().Run(rows.n_rows, [&](int64_t i, int thread) { FinishRow(ops, rows, i, thread); });
  }
  taps.Tap("attn.q_norm", {qr_, static_cast<size_t>(n * config.q_lora_rank)}, config.q_lora_rank);
}

void Attention::FinishRow(Ops& ops, const SequenceRows& rows, int64_t i, int thread) {
  const ModelConfig& config = ops.config();
  const int64_t row = rows.row_begin + i;
  float* qr = qr_ + row * config.q_lora_rank;
  ops.RmsNormRow(weights_.q_norm, qr, config.q_lora_rank, qr);
  auto* quantized = reinterpret_cast<float*>(ops.scratch(thread));
  std::copy_n(qr, config.q_lora_rank, quantized);
  ops.QuantizeInput(weights_.wq_b, quantized);
  ops.Pack(quantized, config.q_lora_rank, qr_rows_, row);

  PackWindowRow(ops, weights_, rotations_, row, kv_, records_);
  if (compressor_) compressor_->AddPosition(ops, row, rows.n_past + i);
  if (indexer_) indexer_->FinishProjection(ops, row, rows.n_past + i);
}

void Attention::AppendEntries(Ops& ops, std::span<const SequenceRows> parts) {
  const ModelConfig& config = ops.config();
  const KvComponent& component = *layout_.Entries(layer_);
  for (const SequenceRows& rows : parts) {
    const int64_t first = compressor_->FirstEntry(rows);
    const int64_t count = rows.keeps_entries ? 0 : compressor_->CountEntries(rows);
    ops.pool().Run(count * (indexer_ ? 2 : 1), [&](int64_t item, int thread) {
      const int64_t e = first + item % count;
      if (item >= count) return indexer_->AppendKey(ops, rows, e, thread);
      auto* entry = reinterpret_cast<float*>(ops.scratch(thread));
      float* cos = entry + RoundUpToStep(config.head_dim);
      float* sin = cos + rope_.n_pairs();
      compressor_->Pool(ops, rows, layout_.EntryCarry(layer_), e, entry);
      ops.RmsNormRow(weights_.compressor->norm, entry, config.head_dim, entry);
      rope_.Angles(e * ratio_, cos, sin);
      ops.kernels().rotate(entry + config.nope_dim(), cos, sin, rope_.n_pairs(), false, ops.native());
      PackEntry(ops.kernels(), EntryFormat(config, ops.numerics()), entry, RecordAt(component, rows.blocks, e));
    });
    compressor_->SaveCarry(rows, layout_.EntryCarry(layer_));
    if (indexer_) indexer_->SaveCarry(rows);
  }
}

void Attention::TapEntries(Ops& ops, std::span<const SequenceRows> parts, const Tapper& taps) const {
  if (!taps.active() || !compressor_) return;
  const ModelConfig& config = ops.config();
  std::vector<float> entries;
  std::vector<float> entry(static_cast<size_t>(config.head_dim));
  for (const SequenceRows& rows : parts) {
    for (int64_t e = 0; e < compressor_->CountEntries(rows); ++e) {
      UnpackEntry(EntryFormat(config, ops.numerics()),
                  RecordAt(*layout_.Entries(layer_), rows.blocks, compressor_->FirstEntry(rows) + e), entry.data());
      entries.insert(entries.end(), entry.begin(), entry.end());
    }
  }
  taps.Tap("attn.compressor", entries, config.head_dim);
  if (indexer_) indexer_->TapKeys(taps, parts, ops);
}

void Attention::Queries(Ops& ops, int64_t n, std::span<const SequenceRows> parts, const Tapper& taps) {
  const ModelConfig& config = ops.config();
  const int64_t row_width = config.n_heads * config.head_dim;
  q_ = ops.memory().Take<float>(n * row_width);
  q_rows_ = ops.TakeRows(n * config.n_heads, config.head_dim);
  std::array<DotJob, 2> jobs = {ops.Dot(weights_.wq_b, qr_rows_, n, q_, true)};
  if (indexer_) jobs[1] = indexer_->ProjectQueries(ops, qr_rows_, n);
  ops.Run({jobs.data(), indexer_ ? size_t{2} : size_t{1}});
  taps.Tap("attn.wq_b", {q_, static_cast<size_t>(n * row_width)}, row_width);
  if (indexer_) indexer_->TapQueries(taps, ops.config(), n);
  // Heads of a row together, or apart when there are few rows.
  const int64_t n_parts = std::clamp<int64_t>(2 * ops.pool().n_threads() / n, 1, config.n_heads);
  const int64_t n_heads = (config.n_heads + n_parts - 1) / n_parts;
  const int64_t n_items = indexer_ ? n_parts + 1 : n_parts;
  for (const SequenceRows& rows : parts) {
    ops.pool().Run(rows.n_rows * n_items, [&](int64_t item, int) {
      const int64_t row = rows.row_begin + item / n_items;
      const int64_t part = item % n_items;
      if (part == n_parts) return indexer_->FinishQuery(ops, row, rotations_.at(row));
      const int64_t first = part * n_heads;
      FinishQueryHeads(ops, row, first, std::min(n_heads, config.n_heads - first));
    });
  }
}

void Attention::FinishQueryHeads(const Ops& ops, int64_t row, int64_t first_head, int64_t n_heads) const {
  const ModelConfig& config = ops.config();
  const Rotation rotation = rotations_.at(row);
  for (int64_t h = row * config.n_heads + first_head; h < row * config.n_heads + first_head + n_heads; ++h) {
    float* head = q_ + h * config.head_dim;
    NormalizeQuery(ops, head, config.head_dim);
    ops.kernels().rotate(head + config.nope_dim(), rotation.cos, rotation.sin, rotations_.n_pairs, false, ops.native());
    ops.Pack(head, config.head_dim, q_rows_, h);
  }
}

void StoreWindowRows(Ops& ops, const AttentionWeights& weights, const KvLayout& layout, RecordRing window,
                     const SublayerInput& input, std::span<const SequenceRows> parts, const StepRotations& rotations) {
  if (input.n == 0) return;
  const Workspace::Scope scope(ops.memory());
  float* kv = ops.memory().Take<float>(input.n * ops.config().head_dim);
  auto* records = ops.memory().Take<std::byte>(input.n * layout.entry_bytes());
  const DotJob job = ops.Dot(weights.wkv, input.For(weights.wkv), input.n, kv, true);
  ops.Run({&job, 1});
  ops.pool().Run(input.n, [&](int64_t row, int) { PackWindowRow(ops, weights, rotations, row, kv, records); });
  for (const SequenceRows& rows : parts) SaveWindow(window, rows, records, layout.entry_bytes());
}

void Attention::ProjectOutput(Ops& ops, int64_t n, float* z) {
  const ModelConfig& config = ops.config();
  const int64_t n_groups = config.o_groups;
  const int64_t u_width = n_groups * config.o_lora_rank;
  float* u = ops.memory().Take<float>(n * u_width);
  // Never quantised on its input, whatever its stored form, as in the published inference.
  for (int64_t begin = 0; begin < n_groups; begin += kForkedGroups) {
    std::array<DotJob, kForkedGroups> jobs;
    const int64_t end = std::min(begin + kForkedGroups, n_groups);
    for (int64_t g = begin; g < end; ++g) {
      OperandRows rows = o_rows_;
      rows.data = o_rows_.row(g);
      rows.stride = n_groups * o_rows_.stride;
      jobs[static_cast<size_t>(g - begin)] = ops.DotPart(weights_.wo_a, g * config.o_lora_rank, config.o_lora_rank,
                                                         rows, n, u + g * config.o_lora_rank, u_width, true);
    }
    ops.Run({jobs.data(), static_cast<size_t>(end - begin)});
  }
  const OperandRows u_rows = ops.TakeRows(n, u_width);
  ops.pool().Run(n, [&](int64_t i, int) {
    ops.QuantizeInput(weights_.wo_b, u + i * u_width);
    ops.Pack(u + i * u_width, u_width, u_rows, i);
  });
  const DotJob job = ops.Dot(weights_.wo_b, u_rows, n, z, true);
  ops.Run({&job, 1});
}

}  // namespace longshelf::engine
