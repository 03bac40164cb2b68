#include "engine/model/model.h"

#include <openssl/sha.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "dspark_drafter.h"
#include "model_impl.h"
#include "select.h"
#include "step_memory.h"
#include "vocabulary.h"

namespace longshelf::engine {
namespace {

std::unique_ptr<Drafter> MakeDrafter(DrafterKind kind, ForwardContext& context, const ModelWeights& weights) {
  switch (kind) {
    case DrafterKind::kNone:
      break;
    case DrafterKind::kMtp:
      return MakeMtpDrafter(context, weights);
    case DrafterKind::kDspark:
      return std::make_unique<DsparkDrafter>(context, weights);
  }
  return nullptr;
}

absl::Status CheckDrafter(const ModelOptions& options, const ModelWeights& weights) {
  if (options.n_draft_max < 0 || options.n_draft_max > kDraftTokensLimit) {
    return absl::InvalidArgumentError(absl::StrCat("n_draft_max is ", options.n_draft_max, "; 0 to ", kDraftTokensLimit,
                                                   " tokens can be taken back"));
  }
  if (options.drafter == DrafterKind::kNone) return absl::OkStatus();
  const bool has = options.drafter == DrafterKind::kMtp ? !weights.mtp.empty() : weights.dspark.has_value();
  const std::string name(DrafterName(options.drafter));
  if (!has) {
    return absl::FailedPreconditionError(
        absl::StrCat("this checkpoint has no ", name, " draft module; choose another drafter, or none"));
  }
  if (options.n_draft_max == 0) {
    return absl::InvalidArgumentError(absl::StrCat("n_draft_max is 0 with the drafter ", name,
                                                   "; its guesses must be taken back: 1 to ", kDraftTokensLimit));
  }
  return absl::OkStatus();
}

}  // namespace

Model::Impl::Impl(std::shared_ptr<const ModelWeights> w, const ModelOptions& options, const KernelTable& kernels,
                  ExpertTransport& transport)
    : weights(std::move(w)),
      config(weights->config),
      layout(config, options.numerics, {options.n_draft_max, options.drafter}),
      sliding_rope(RopeTable::Sliding(config)),
      compressed_rope(RopeTable::Compressed(config)),
      pool(options.n_threads),
      prefetch(weights->from_files),
      ops(config, options.numerics, kernels, pool),
      context{config, layout, transport, sliding_rope, compressed_rope, ops, ExpertExchange(0, prefetch)},
      second_ops(config, options.numerics, kernels, pool),
      second{config, layout, transport, sliding_rope, compressed_rope, second_ops, ExpertExchange(1, prefetch)},
      drafter(MakeDrafter(options.drafter, context, *weights)) {
  if (transport.size() > 1) pool.SetBetween([&transport] { transport.Poll(); });
  Prepare(options.n_rows_max, options.n_rows_max, options.n_rows_max);
}

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
  if (absl::Status s = CheckDrafter(options, *weights); !s.ok()) return s;
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

int64_t Model::n_draft() const { return impl_->drafter == nullptr ? 0 : impl_->drafter->n_draft(); }

int64_t Model::replay_tokens() const { return config().n_layers * config().window; }

void Model::Impl::Prepare(int64_t n_rows, int64_t n_logits, int64_t n_chunks) {
  const int n_shards = context.transport.size();
  const int64_t n_received = n_rows * config.n_experts_per_token * n_shards;
  size_t bytes = StepMemoryBytes(config, layout, {n_rows, n_received, n_logits}, ops.pool().n_threads());
  if (drafter != nullptr) bytes += drafter->MemoryBytes({n_rows, n_chunks, n_shards});
  const auto renew = [this](Ops& of, size_t n_bytes) {
    of.memory().Reserve(n_bytes);
    of.memory().Release(0);
    of.TakeScratch(WidestColumns(config), ItemScratchBytes(config));
  };
  renew(ops, bytes);
  if (context.transport.n_lanes() > 1) {
    const int64_t n_half = (n_rows + 1) / 2;
    const StepSize half = {n_half, n_half * config.n_experts_per_token * n_shards, 0};
    renew(second_ops, StepMemoryBytes(config, layout, half, ops.pool().n_threads()));
  }
  streams = nullptr;
}

absl::Status Model::Impl::RunLayers(float** x, float** spare, TapSink* taps) {
  const StepRotations sliding = step.Rotations(ops, sliding_rope);
  const StepRotations compressed = step.Rotations(ops, compressed_rope);
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    const LayerWeights& layer_weights = weights->layers[static_cast<size_t>(layer)];
    const LayerPlace place = PlaceOf(layer);
    const StepRotations& rotations = place.ratio == 0 ? sliding : compressed;
    RETURN_IF_ERROR(RunLayer(context, layer_weights, place, step, rotations, x, spare, taps));
    if (drafter != nullptr) drafter->Observe(layer, step, 0, *x);
  }
  return absl::OkStatus();
}

absl::StatusOr<ForwardOutput> Model::Forward(const ForwardBatch& batch, TapSink* taps) {
  Impl& m = *impl_;
  const FlushDenormals flush;
  const bool splits = batch.n_microbatches > 1;
  if (batch.n_microbatches < 1 || batch.n_microbatches > m.context.transport.n_lanes() || (splits && taps != nullptr)) {
    return absl::InternalError(absl::StrCat("a step in ", batch.n_microbatches, " microbatches; the transport has ",
                                            m.context.transport.n_lanes(), " lanes, and taps see whole steps only"));
  }
  m.step.Clear();
  for (const SequenceChunk& chunk : batch.chunks) {
    m.step.Add(chunk.tokens, {.n_past = chunk.n_past,
                              .blocks = chunk.blocks,
                              .state = chunk.state,
                              .first_key = std::max<int64_t>(chunk.replay_begin, 0),
                              .keeps_entries = chunk.replay_begin >= 0});
  }
  const int64_t n = m.step.n();
  const auto wanted_rows = [](const SequenceChunk& chunk) -> int64_t {
    if (chunk.want_logits == WantLogits::kAll) return static_cast<int64_t>(chunk.tokens.size());
    return chunk.want_logits == WantLogits::kLast ? 1 : 0;
  };
  ForwardOutput output;
  for (const SequenceChunk& chunk : batch.chunks) output.n_rows += wanted_rows(chunk);
  m.Prepare(n, output.n_rows, static_cast<int64_t>(batch.chunks.size()));
  Workspace& memory = m.ops.memory();
  float* logits = memory.Take<float>(output.n_rows * m.config.vocab_size);
  float* streams = memory.Take<float>(n * m.stream_width());
  float* spare = memory.Take<float>(n * m.stream_width());
  if (m.drafter != nullptr) m.drafter->Begin(m.step);
  const Workspace::Scope scope(memory);
  engine::Embed(m.ops, m.weights->embed, m.step.tokens(), streams);
  if (splits) {
    RETURN_IF_ERROR(m.RunInHalves(streams, spare));
  } else {
    RETURN_IF_ERROR(m.RunLayers(&streams, &spare, taps));
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
  HeadLogits(m.ops, m.weights->head, m.weights->hc_head, m.weights->norm, spare, n_wanted, logits);
  m.streams = streams;
  output.logits = {logits, static_cast<size_t>(n_wanted * m.config.vocab_size)};
  return output;
}

void Model::ForEach(int64_t n, absl::FunctionRef<void(int64_t)> fn) {
  const FlushDenormals flush;
  impl_->ops.pool().Run(n, [&](int64_t i, int) { fn(i); });
}

std::vector<float> Model::Embed(std::span<const uint32_t> tokens) const {
  std::vector<float> streams(tokens.size() * static_cast<size_t>(impl_->stream_width()));
  engine::Embed(impl_->ops, impl_->weights->embed, tokens, streams.data());
  return streams;
}

absl::Status Model::ForwardLayer(int64_t layer, const SequenceChunk& chunk, std::vector<float>& streams,
                                 TapSink* taps) {
  Impl& m = *impl_;
  const FlushDenormals flush;
  m.step.Clear();
  m.step.Add(chunk.tokens, {.n_past = chunk.n_past, .blocks = chunk.blocks, .state = chunk.state});
  m.Prepare(m.step.n(), 0, 1);
  const LayerPlace place = m.PlaceOf(layer);
  const StepRotations rotations = m.step.Rotations(m.ops, place.ratio == 0 ? m.sliding_rope : m.compressed_rope);
  std::vector<float> other(streams.size());
  float* x = streams.data();
  float* spare = other.data();
  // Two swaps bring the result back to where it came from.
  return RunLayer(m.context, m.weights->layers[static_cast<size_t>(layer)], place, m.step, rotations, &x, &spare, taps);
}

std::vector<float> Model::Logits(std::span<const float> streams, int64_t n) {
  Impl& m = *impl_;
  const FlushDenormals flush;
  m.Prepare(n, n, 0);
  std::vector<float> logits(static_cast<size_t>(n * m.config.vocab_size));
  HeadLogits(m.ops, m.weights->head, m.weights->hc_head, m.weights->norm, streams.data(), n, logits.data());
  return logits;
}

}  // namespace longshelf::engine
