#include "engine/model/model.h"

#include <openssl/sha.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "attention.h"
#include "hyper_connection.h"
#include "kernels.h"
#include "moe.h"
#include "ops.h"
#include "rope.h"
#include "taps.h"

namespace longshelf::engine {
namespace {

// The served model has no MTP state unless it runs the MTP layer.
ModelConfig EffectiveConfig(ModelConfig config, bool run_mtp) {
  if (!run_mtp) config.n_mtp_layers = 0;
  return config;
}

struct FlatBatch {
  std::vector<SequenceRows> parts;
  std::vector<uint32_t> tokens;
};

FlatBatch Flatten(std::span<const SequenceChunk> chunks) {
  FlatBatch flat;
  for (const SequenceChunk& chunk : chunks) {
    flat.parts.push_back({static_cast<int64_t>(flat.tokens.size()), static_cast<int64_t>(chunk.tokens.size()),
                          chunk.n_past, chunk.blocks, chunk.state});
    flat.tokens.insert(flat.tokens.end(), chunk.tokens.begin(), chunk.tokens.end());
  }
  return flat;
}

}  // namespace

struct Model::Impl {
  Impl(std::shared_ptr<const ModelWeights> w, const ModelOptions& options, const KernelTable& kernels,
       ExpertTransport& expert_transport)
      : weights(std::move(w)),
        config(EffectiveConfig(weights->config, options.run_mtp)),
        layout(config, options.numerics),
        transport(expert_transport),
        sliding_rope(RopeTable::Sliding(config)),
        compressed_rope(RopeTable::Compressed(config)),
        ops(config, options.numerics, kernels, options.n_threads, options.reference_call) {}

  int64_t stream_width() const { return config.hc_mult * config.hidden_size; }

  std::vector<float> Embed(std::span<const uint32_t> tokens) const;
  absl::Status RunLayer(const LayerWeights& layer_weights, int64_t layer, const FlatBatch& flat, float* streams,
                        TapSink* taps);
  void CollapseToLogits(const HyperConnection& head, std::span<const float> norm, const float* streams, int64_t n,
                        std::vector<float>& logits);
  absl::Status RunMtp(std::span<const SequenceChunk> chunks, const FlatBatch& flat, const std::vector<float>& streams,
                      ForwardOutput& output);
  std::vector<float> MtpInput(const FlatBatch& slots, std::span<const float> streams_before);

  const std::shared_ptr<const ModelWeights> weights;
  const ModelConfig config;
  const KvLayout layout;
  ExpertTransport& transport;
  const RopeTable sliding_rope;
  const RopeTable compressed_rope;
  Ops ops;
};

std::vector<std::string> AvailableKernelIsas() { return AvailableKernels(); }

absl::StatusOr<std::unique_ptr<Model>> Model::Create(std::shared_ptr<const ModelWeights> weights,
                                                     const ModelOptions& options, ExpertTransport& transport) {
  const KernelTable* kernels = FindKernels(options.kernel_isa);
  if (kernels == nullptr) {
    return absl::FailedPreconditionError(
        options.kernel_isa.empty() ? std::string("this machine has no AVX2 and FMA, which the kernels need")
                                   : absl::StrCat("kernels \"", options.kernel_isa, "\" do not exist on this machine"));
  }
  return std::unique_ptr<Model>(new Model(std::make_unique<Impl>(std::move(weights), options, *kernels, transport)));
}

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::~Model() = default;

const ModelConfig& Model::config() const { return impl_->config; }
const ModelWeights& Model::weights() const { return *impl_->weights; }
const KvLayout& Model::layout() const { return impl_->layout; }
Numerics Model::numerics() const { return impl_->ops.numerics(); }
std::string_view Model::kernel_isa() const { return impl_->ops.kernels().isa; }

std::array<uint8_t, 32> Model::fingerprint() const {
  // Every kernel table computes the same bits (kernels.h), so the instruction set is no part of it.
  std::string text(reinterpret_cast<const char*>(weights().digest.data()), weights().digest.size());
  absl::StrAppend(&text, layout().Describe());
  std::array<uint8_t, 32> out;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), out.data());
  return out;
}

std::vector<float> Model::Impl::Embed(std::span<const uint32_t> tokens) const {
  const int64_t width = config.hidden_size;
  std::vector<float> streams(tokens.size() * static_cast<size_t>(stream_width()));
  std::vector<float> row(static_cast<size_t>(RoundUpToLanes(width)));
  for (size_t i = 0; i < tokens.size(); ++i) {
    ops.kernels().decode_row(weights->embed, tokens[i], row.data());
    ops.Round(row);
    for (int64_t k = 0; k < config.hc_mult; ++k) {
      std::copy_n(row.data(), width, streams.data() + static_cast<int64_t>(i) * stream_width() + k * width);
    }
  }
  return streams;
}

absl::Status Model::Impl::RunLayer(const LayerWeights& layer_weights, int64_t layer, const FlatBatch& flat,
                                   float* streams, TapSink* sink) {
  const auto n = static_cast<int64_t>(flat.tokens.size());
  const int64_t width = config.hidden_size;
  const int ratio = config.ratio(layer);
  const Tapper taps(sink, absl::StrCat("layers.", layer, "."));
  std::vector<float> y(static_cast<size_t>(n * width));
  std::vector<float> z(static_cast<size_t>(n * width));
  HyperMix mix;

  HyperCollapse(ops, layer_weights.hc_attn, streams, n, y.data(), mix);
  ops.RmsNorm(layer_weights.attn_norm, y.data(), n, width, y.data());
  taps.Tap("attn_norm", y, width);
  const Attention attention(layer_weights.attn, layout, layer, ratio, ratio == 0 ? sliding_rope : compressed_rope);
  attention.Run(ops, y.data(), n, flat.parts, z.data(), taps);
  taps.Tap("attn", z, width);
  HyperExpand(ops, mix, z.data(), n, streams);

  HyperCollapse(ops, layer_weights.hc_ffn, streams, n, y.data(), mix);
  ops.RmsNorm(layer_weights.ffn_norm, y.data(), n, width, y.data());
  taps.Tap("ffn_norm", y, width);
  const Moe moe(layer_weights.moe, config.is_hash_layer(layer));
  if (absl::Status s = moe.Run(ops, transport, y.data(), flat.tokens, n, z.data(), taps); !s.ok()) return s;
  taps.Tap("ffn", z, width);
  HyperExpand(ops, mix, z.data(), n, streams);
  return absl::OkStatus();
}

void Model::Impl::CollapseToLogits(const HyperConnection& head, std::span<const float> norm, const float* streams,
                                   int64_t n, std::vector<float>& logits) {
  if (n == 0) return;
  std::vector<float> h(static_cast<size_t>(n * config.hidden_size));
  HyperHead(ops, head, streams, n, h.data());
  ops.RmsNorm(norm, h.data(), n, config.hidden_size, h.data());
  const size_t at = logits.size();
  logits.resize(at + static_cast<size_t>(n * config.vocab_size));
  ops.MatMul(weights->head, h.data(), n, logits.data() + at);
}

absl::StatusOr<ForwardOutput> Model::Forward(const ForwardBatch& batch, TapSink* taps) {
  Impl& m = *impl_;
  const FlatBatch flat = Flatten(batch.chunks);
  std::vector<float> streams = m.Embed(flat.tokens);
  for (int64_t layer = 0; layer < m.config.n_layers; ++layer) {
    const LayerWeights& weights = m.weights->layers[static_cast<size_t>(layer)];
    if (absl::Status s = m.RunLayer(weights, layer, flat, streams.data(), taps); !s.ok()) return s;
  }
  ForwardOutput output;
  std::vector<float> wanted;
  for (size_t i = 0; i < batch.chunks.size(); ++i) {
    const SequenceRows& rows = flat.parts[i];
    const WantLogits want = batch.chunks[i].want_logits;
    const int64_t n = want == WantLogits::kAll ? rows.n_rows : (want == WantLogits::kLast ? 1 : 0);
    const float* first = streams.data() + (rows.row_begin + rows.n_rows - n) * m.stream_width();
    wanted.insert(wanted.end(), first, first + n * m.stream_width());
    output.n_rows += n;
  }
  m.CollapseToLogits(m.weights->hc_head, m.weights->norm, wanted.data(), output.n_rows, output.logits);
  if (m.config.n_mtp_layers > 0) {
    if (absl::Status s = m.RunMtp(batch.chunks, flat, streams, output); !s.ok()) return s;
  }
  return output;
}

// X0[k] = e_proj . RMS(embed(token t+1)) + h_proj . RMS(X_t[k])
std::vector<float> Model::Impl::MtpInput(const FlatBatch& slots, std::span<const float> streams_before) {
  const MtpWeights& mtp = weights->mtp[0];
  const auto n = static_cast<int64_t>(slots.tokens.size());
  const int64_t width = config.hidden_size;
  std::vector<float> embedded(static_cast<size_t>(n * width));
  std::vector<float> row(static_cast<size_t>(RoundUpToLanes(width)));
  for (int64_t i = 0; i < n; ++i) {
    ops.kernels().decode_row(weights->embed, slots.tokens[static_cast<size_t>(i)], row.data());
    std::copy_n(row.data(), width, embedded.data() + i * width);
  }
  ops.Round(embedded);
  ops.RmsNorm(mtp.enorm, embedded.data(), n, width, embedded.data());
  std::vector<float> e(static_cast<size_t>(n * width));
  ops.Linear(mtp.e_proj, embedded.data(), n, e.data());
  std::vector<float> normed(streams_before.size());
  ops.RmsNorm(mtp.hnorm, streams_before.data(), n * config.hc_mult, width, normed.data());
  std::vector<float> streams(streams_before.size());
  ops.Linear(mtp.h_proj, normed.data(), n * config.hc_mult, streams.data());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < config.hc_mult; ++k) {
      float* x = streams.data() + i * stream_width() + k * width;
      for (int64_t c = 0; c < width; ++c) x[c] = ops.Round(e[static_cast<size_t>(i * width + c)] + x[c]);
    }
  }
  return streams;
}

absl::Status Model::Impl::RunMtp(std::span<const SequenceChunk> chunks, const FlatBatch& flat,
                                 const std::vector<float>& streams, ForwardOutput& output) {
  const auto stream_bytes = layout.MtpStreamsBytes();
  FlatBatch slots;
  std::vector<float> before;
  for (size_t i = 0; i < chunks.size(); ++i) {
    const SequenceRows& rows = flat.parts[i];
    auto* saved = reinterpret_cast<float*>(rows.state + layout.MtpStreamsOffset());
    // The slot of the last position before this chunk became complete with this chunk's first token.
    const int64_t first = rows.n_past > 0 ? 0 : 1;
    if (rows.n_past > 0) before.insert(before.end(), saved, saved + stream_width());
    const float* own = streams.data() + rows.row_begin * stream_width();
    before.insert(before.end(), own, own + (rows.n_rows - 1) * stream_width());
    const int64_t n_slots = rows.n_rows - first;
    if (n_slots > 0) {
      slots.parts.push_back(
          {static_cast<int64_t>(slots.tokens.size()), n_slots, rows.n_past - 1 + first, rows.blocks, rows.state});
      slots.tokens.insert(slots.tokens.end(), chunks[i].tokens.begin() + first, chunks[i].tokens.end());
    }
    std::memcpy(saved, own + (rows.n_rows - 1) * stream_width(), stream_bytes);
  }
  std::vector<float> x = MtpInput(slots, before);
  const MtpWeights& mtp = weights->mtp[0];
  if (absl::Status s = RunLayer(mtp.layer, config.n_layers, slots, x.data(), nullptr); !s.ok()) return s;
  std::vector<float> wanted;
  size_t part = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    const int64_t n_slots = flat.parts[i].n_rows - (flat.parts[i].n_past > 0 ? 0 : 1);
    if (n_slots == 0) continue;
    const SequenceRows& rows = slots.parts[part++];
    if (chunks[i].want_logits != WantLogits::kAll) continue;
    const float* first = x.data() + rows.row_begin * stream_width();
    wanted.insert(wanted.end(), first, first + rows.n_rows * stream_width());
    output.n_mtp_rows += rows.n_rows;
  }
  CollapseToLogits(mtp.hc_head, mtp.norm, wanted.data(), output.n_mtp_rows, output.mtp_logits);
  return absl::OkStatus();
}

std::vector<float> Model::Embed(std::span<const uint32_t> tokens) const { return impl_->Embed(tokens); }

absl::Status Model::ForwardLayer(int64_t layer, const SequenceChunk& chunk, std::vector<float>& streams,
                                 TapSink* taps) {
  return impl_->RunLayer(impl_->weights->layers[static_cast<size_t>(layer)], layer, Flatten({&chunk, 1}),
                         streams.data(), taps);
}

std::vector<float> Model::Logits(std::span<const float> streams, int64_t n) {
  std::vector<float> logits;
  impl_->CollapseToLogits(impl_->weights->hc_head, impl_->weights->norm, streams.data(), n, logits);
  return logits;
}

}  // namespace longshelf::engine
