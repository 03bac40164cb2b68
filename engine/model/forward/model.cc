#include "engine/model/model.h"

#include <openssl/sha.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "attention.h"
#include "hyper_connection.h"
#include "moe.h"
#include "ops.h"
#include "rope.h"
#include "select.h"
#include "step_memory.h"
#include "step_rows.h"
#include "taps.h"

namespace longshelf::engine {
namespace {

// The served model has no MTP state unless it runs the MTP layer.
ModelConfig EffectiveConfig(ModelConfig config, bool run_mtp) {
  if (!run_mtp) config.n_mtp_layers = 0;
  return config;
}

}  // namespace

struct Model::Impl {
  Impl(std::shared_ptr<const ModelWeights> w, const ModelOptions& options, const KernelTable& kernels,
       ExpertTransport& expert_transport)
      : weights(std::move(w)),
        config(EffectiveConfig(weights->config, options.run_mtp)),
        layout(config, options.numerics, options.n_draft_max),
        transport(expert_transport),
        sliding_rope(RopeTable::Sliding(config)),
        compressed_rope(RopeTable::Compressed(config)),
        ops(config, options.numerics, kernels, options.n_threads),
        exchange(weights->from_files) {
    Prepare(options.n_rows_max, options.n_rows_max);
  }

  int64_t stream_width() const { return config.hc_mult * config.hidden_size; }

  // Memory for a step, empty.
  void Prepare(int64_t n_rows, int64_t n_logits);
  void Embed(std::span<const uint32_t> tokens, float* streams);
  // Replaces *streams by what the layer makes of them; *spare is used up.
  absl::Status RunLayer(const LayerWeights& layer_weights, int64_t layer, const StepRows& step,
                        const StepRotations& rotations, float** streams, float** spare, TapSink* sink);
  std::span<const float> CollapseToLogits(const HyperConnection& head, std::span<const float> norm,
                                          const float* streams, int64_t n);
  absl::Status RunMtp(std::span<const SequenceChunk> chunks, const float* streams, ForwardOutput& output);
  float* MtpInput(const float* streams_before);

  const std::shared_ptr<const ModelWeights> weights;
  const ModelConfig config;
  const KvLayout layout;
  ExpertTransport& transport;
  const RopeTable sliding_rope;
  const RopeTable compressed_rope;
  Ops ops;
  StepRows step;
  StepRows mtp_slots;
  ExpertExchange exchange;
};

std::vector<std::string> AvailableKernels() {
  std::vector<std::string> names;
  for (const CheckedTable& checked : CheckedTables()) {
    if (checked.difference.empty()) names.emplace_back(checked.table.name);
  }
  return names;
}

std::vector<std::string> RefusedKernels() {
  std::vector<std::string> lines;
  for (const CheckedTable& checked : CheckedTables()) {
    if (!checked.difference.empty()) lines.push_back(absl::StrCat(checked.table.name, ": ", checked.difference));
  }
  return lines;
}

absl::StatusOr<std::unique_ptr<Model>> Model::Create(std::shared_ptr<const ModelWeights> weights,
                                                     const ModelOptions& options, ExpertTransport& transport) {
  if (options.n_draft_max < 0 || options.n_draft_max > kDraftTokensLimit) {
    return absl::InvalidArgumentError(absl::StrCat("n_draft_max is ", options.n_draft_max, "; 0 to ", kDraftTokensLimit,
                                                   " tokens can be taken back"));
  }
  const KernelTable* kernels = FindKernels(options.kernels);
  if (kernels == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("kernels \"", options.kernels, "\" do not exist on this machine, or compute other bits here"));
  }
  return std::unique_ptr<Model>(new Model(std::make_unique<Impl>(std::move(weights), options, *kernels, transport)));
}

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::~Model() = default;

const ModelConfig& Model::config() const { return impl_->config; }
const ModelWeights& Model::weights() const { return *impl_->weights; }
const KvLayout& Model::layout() const { return impl_->layout; }
Numerics Model::numerics() const { return impl_->ops.numerics(); }
std::string_view Model::kernels() const { return impl_->ops.kernels().name; }

std::array<uint8_t, 32> Model::fingerprint() const {
  // Every kernel table computes the same bits (kernel_table.h), so the instruction set is no part of it.
  std::string text(reinterpret_cast<const char*>(weights().digest.data()), weights().digest.size());
  absl::StrAppend(&text, layout().Describe(), "numerics revision ", kNumericsRevision);
  std::array<uint8_t, 32> out;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), out.data());
  return out;
}

void Model::Impl::Prepare(int64_t n_rows, int64_t n_logits) {
  const int n_threads = ops.pool().n_threads();
  const int64_t n_received = n_rows * config.n_experts_per_token * transport.size();
  ops.memory().Reserve(StepMemoryBytes(config, layout, n_rows, n_received, n_logits, n_threads));
  ops.memory().Release(0);
  ops.TakeScratch(WidestColumns(config), ItemScratchBytes(config));
}

void Model::Impl::Embed(std::span<const uint32_t> tokens, float* streams) {
  const int64_t width = config.hidden_size;
  ops.pool().Run(static_cast<int64_t>(tokens.size()), [&](int64_t i, int) {
    float* row = streams + i * stream_width();
    const auto* words = reinterpret_cast<const uint16_t*>(weights->embed.data);
    ops.kernels().decode_bf16(words + tokens[static_cast<size_t>(i)] * width, width, row);
    for (int64_t k = 1; k < config.hc_mult; ++k) std::copy_n(row, width, row + k * width);
  });
}

absl::Status Model::Impl::RunLayer(const LayerWeights& layer_weights, int64_t layer, const StepRows& rows,
                                   const StepRotations& rotations, float** streams, float** spare, TapSink* sink) {
  const Workspace::Scope scope(ops.memory());
  const int64_t n = rows.n();
  const auto n_values = static_cast<size_t>(n * config.hidden_size);
  const Tapper taps(sink, layer);
  float* z = ops.memory().Take<float>(n * config.hidden_size);
  HyperMix mix;
  if (n > 0) {
    const SublayerInput input = HyperCollapse(ops, layer_weights.hc_attn, layer_weights.attn_norm, *streams, n, &mix);
    taps.Tap("attn_norm", {input.x, n_values}, config.hidden_size);
    const int ratio = config.ratio(layer);
    Attention attention(layer_weights.attn, layout, layer, ratio, ratio == 0 ? sliding_rope : compressed_rope,
                        rotations);
    attention.Run(ops, input, rows.parts(), z, taps);
    taps.Tap("attn", {z, n_values}, config.hidden_size);
    HyperExpand(ops, mix, z, n, *streams, *spare);
    std::swap(*streams, *spare);
  }
  const SublayerInput input = HyperCollapse(ops, layer_weights.hc_ffn, layer_weights.ffn_norm, *streams, n, &mix);
  taps.Tap("ffn_norm", {input.x, n_values}, config.hidden_size);
  Moe moe(layer_weights.moe, config.is_hash_layer(layer));
  if (absl::Status s = moe.Run(ops, transport, exchange, input, rows.tokens(), z, taps); !s.ok()) return s;
  taps.Tap("ffn", {z, n_values}, config.hidden_size);
  HyperExpand(ops, mix, z, n, *streams, *spare);
  std::swap(*streams, *spare);
  return absl::OkStatus();
}

std::span<const float> Model::Impl::CollapseToLogits(const HyperConnection& head, std::span<const float> norm,
                                                     const float* streams, int64_t n) {
  if (n == 0) return {};
  float* logits = ops.memory().Take<float>(n * config.vocab_size);
  const Workspace::Scope scope(ops.memory());
  const OperandRows rows = HyperHead(ops, head, norm, streams, n);
  const DotJob job = ops.Dot(weights->head, rows, n, logits, false);
  ops.Run({&job, 1});
  return {logits, static_cast<size_t>(n * config.vocab_size)};
}

absl::StatusOr<ForwardOutput> Model::Forward(const ForwardBatch& batch, TapSink* taps) {
  Impl& m = *impl_;
  const FlushDenormals flush;
  m.step.Clear();
  for (const SequenceChunk& chunk : batch.chunks) m.step.Add(chunk.tokens, chunk.n_past, chunk.blocks, chunk.state);
  const int64_t n = m.step.n();
  const auto wanted_rows = [](const SequenceChunk& chunk) -> int64_t {
    if (chunk.want_logits == WantLogits::kAll) return static_cast<int64_t>(chunk.tokens.size());
    return chunk.want_logits == WantLogits::kLast ? 1 : 0;
  };
  ForwardOutput output;
  for (const SequenceChunk& chunk : batch.chunks) output.n_rows += wanted_rows(chunk);
  m.Prepare(n, output.n_rows);
  float* streams = m.ops.memory().Take<float>(n * m.stream_width());
  float* spare = m.ops.memory().Take<float>(n * m.stream_width());
  const StepRotations sliding = m.step.Rotations(m.ops, m.sliding_rope);
  const StepRotations compressed = m.step.Rotations(m.ops, m.compressed_rope);
  m.Embed(m.step.tokens(), streams);
  for (int64_t layer = 0; layer < m.config.n_layers; ++layer) {
    const LayerWeights& weights = m.weights->layers[static_cast<size_t>(layer)];
    const StepRotations& rotations = m.config.ratio(layer) == 0 ? sliding : compressed;
    if (absl::Status s = m.RunLayer(weights, layer, m.step, rotations, &streams, &spare, taps); !s.ok()) return s;
  }
  // The rows that want logits, one after another.
  int64_t n_wanted = 0;
  for (size_t i = 0; i < batch.chunks.size(); ++i) {
    const SequenceRows& rows = m.step.parts()[i];
    const int64_t count = wanted_rows(batch.chunks[i]);
    const float* first = streams + (rows.row_begin + rows.n_rows - count) * m.stream_width();
    std::copy_n(first, count * m.stream_width(), spare + n_wanted * m.stream_width());
    n_wanted += count;
  }
  output.logits = m.CollapseToLogits(m.weights->hc_head, m.weights->norm, spare, n_wanted);
  if (m.config.n_mtp_layers > 0) {
    if (absl::Status s = m.RunMtp(batch.chunks, streams, output); !s.ok()) return s;
  }
  return output;
}

// X0[k] = e_proj . RMS(embed(token t+1)) + h_proj . RMS(X_t[k])
float* Model::Impl::MtpInput(const float* streams_before) {
  const MtpWeights& mtp = weights->mtp[0];
  const int64_t n = mtp_slots.n();
  const int64_t width = config.hidden_size;
  float* streams = ops.memory().Take<float>(n * stream_width());
  const Workspace::Scope scope(ops.memory());
  const OperandRows embedded = ops.TakeRows(n, width);
  const OperandRows hidden = ops.TakeRows(n * config.hc_mult, width);
  ops.pool().Run(n * (config.hc_mult + 1), [&](int64_t item, int thread) {
    auto* row = reinterpret_cast<float*>(ops.scratch(thread));
    if (item < n) {
      const auto* words = reinterpret_cast<const uint16_t*>(weights->embed.data);
      ops.kernels().decode_bf16(words + mtp_slots.tokens()[static_cast<size_t>(item)] * width, width, row);
      ops.RmsNormRow(mtp.enorm, row, width, row);
      ops.QuantizeInput(mtp.e_proj, row);
      ops.Pack(row, width, embedded, item);
    } else {
      ops.RmsNormRow(mtp.hnorm, streams_before + (item - n) * width, width, row);
      ops.QuantizeInput(mtp.h_proj, row);
      ops.Pack(row, width, hidden, item - n);
    }
  });
  float* e = ops.memory().Take<float>(n * width);
  const DotJob jobs[] = {ops.Dot(mtp.e_proj, embedded, n, e, true),
                         ops.Dot(mtp.h_proj, hidden, n * config.hc_mult, streams, true)};
  ops.Run(jobs);
  ops.pool().Run(n * config.hc_mult, [&](int64_t k, int) {
    float* x = streams + k * width;
    ops.kernels().add_row(e + k / config.hc_mult * width, width, x);
    ops.Round(x, width);
  });
  return streams;
}

absl::Status Model::Impl::RunMtp(std::span<const SequenceChunk> chunks, const float* streams, ForwardOutput& output) {
  mtp_slots.Clear();
  float* before = ops.memory().Take<float>((step.n() + 1) * stream_width());
  int64_t n_before = 0;
  const auto keep = [&](const float* rows, int64_t count) {
    std::copy_n(rows, count * stream_width(), before + n_before * stream_width());
    n_before += count;
  };
  for (size_t i = 0; i < chunks.size(); ++i) {
    const SequenceRows& rows = step.parts()[i];
    auto* saved = reinterpret_cast<float*>(rows.state + layout.MtpStreamsOffset());
    // The slot of the last position before this chunk became complete with this chunk's first token.
    const int64_t first = rows.n_past > 0 ? 0 : 1;
    if (rows.n_past > 0) keep(saved, 1);
    const float* own = streams + rows.row_begin * stream_width();
    keep(own, rows.n_rows - 1);
    if (rows.n_rows > first) {
      mtp_slots.Add(chunks[i].tokens.subspan(static_cast<size_t>(first)), rows.n_past - 1 + first, rows.blocks,
                    rows.state);
    }
    std::memcpy(saved, own + (rows.n_rows - 1) * stream_width(), layout.MtpStreamsBytes());
  }
  float* x = MtpInput(before);
  float* spare = before;
  const MtpWeights& mtp = weights->mtp[0];
  const StepRotations rotations = mtp_slots.Rotations(ops, sliding_rope);
  if (absl::Status s = RunLayer(mtp.layer, config.n_layers, mtp_slots, rotations, &x, &spare, nullptr); !s.ok()) {
    return s;
  }
  size_t part = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    if (step.parts()[i].n_rows == (step.parts()[i].n_past > 0 ? 0 : 1)) continue;
    const SequenceRows& rows = mtp_slots.parts()[part++];
    if (chunks[i].want_logits != WantLogits::kAll) continue;
    std::copy_n(x + rows.row_begin * stream_width(), rows.n_rows * stream_width(),
                spare + output.n_mtp_rows * stream_width());
    output.n_mtp_rows += rows.n_rows;
  }
  output.mtp_logits = CollapseToLogits(mtp.hc_head, mtp.norm, spare, output.n_mtp_rows);
  return absl::OkStatus();
}

std::vector<float> Model::Embed(std::span<const uint32_t> tokens) const {
  std::vector<float> streams(tokens.size() * static_cast<size_t>(impl_->stream_width()));
  impl_->Embed(tokens, streams.data());
  return streams;
}

absl::Status Model::ForwardLayer(int64_t layer, const SequenceChunk& chunk, std::vector<float>& streams,
                                 TapSink* taps) {
  Impl& m = *impl_;
  const FlushDenormals flush;
  m.step.Clear();
  m.step.Add(chunk.tokens, chunk.n_past, chunk.blocks, chunk.state);
  m.Prepare(m.step.n(), 0);
  const StepRotations rotations =
      m.step.Rotations(m.ops, m.config.ratio(layer) == 0 ? m.sliding_rope : m.compressed_rope);
  std::vector<float> other(streams.size());
  float* x = streams.data();
  float* spare = other.data();
  // Two swaps bring the result back to where it came from.
  return m.RunLayer(m.weights->layers[static_cast<size_t>(layer)], layer, m.step, rotations, &x, &spare, taps);
}

std::vector<float> Model::Logits(std::span<const float> streams, int64_t n) {
  const FlushDenormals flush;
  impl_->Prepare(n, n);
  const std::span<const float> logits =
      impl_->CollapseToLogits(impl_->weights->hc_head, impl_->weights->norm, streams.data(), n);
  return {logits.begin(), logits.end()};
}

}  // namespace longshelf::engine
