#include "engine/model/dspark_parts.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "dspark_drafter.h"
#include "kv_records.h"
#include "model_impl.h"
#include "select.h"

namespace longshelf::engine {
namespace {

DsparkDrafter& Dspark(Drafter* drafter) {
  auto* dspark = dynamic_cast<DsparkDrafter*>(drafter);
  LONGSHELF_CHECK(dspark != nullptr);
  return *dspark;
}

}  // namespace

std::vector<float> DsparkParts::MainHidden(std::span<const std::vector<float>> streams, int64_t n) {
  Model::Impl& m = *model_.impl_;
  const FlushDenormals flush;
  m.Prepare(n, 0, 0);
  const DsparkContext& main = Dspark(m.drafter.get()).main();
  std::vector<float> hidden(static_cast<size_t>(n * main.hidden_width()));
  for (size_t i = 0; i < streams.size(); ++i) main.Mean(streams[i].data(), n, i, hidden.data());
  return hidden;
}

std::vector<float> DsparkParts::MainX(std::span<const float> main_hidden, int64_t n) {
  Model::Impl& m = *model_.impl_;
  const FlushDenormals flush;
  m.Prepare(n, 0, 0);
  std::vector<float> hidden(main_hidden.begin(), main_hidden.end());
  std::vector<float> main_x(static_cast<size_t>(n * m.config.hidden_size));
  Dspark(m.drafter.get()).main().Project(hidden.data(), n, main_x.data());
  return main_x;
}

void DsparkParts::Store(std::span<const float> main_x, int64_t n_past, int64_t n, std::byte* state) {
  Model::Impl& m = *model_.impl_;
  const FlushDenormals flush;
  m.Prepare(n, 0, 0);
  m.step.Clear();
  m.step.AddPositions(n, {.n_past = n_past, .state = state});
  Dspark(m.drafter.get()).main().Store(main_x.data(), m.step);
}

std::vector<float> DsparkParts::Window(int64_t stage, const std::byte* state, int64_t n_tokens) const {
  const Model::Impl& m = *model_.impl_;
  const RecordFormat format = EntryFormat(m.config, m.layout.numerics());
  const RecordRing ring = m.layout.DraftWindow(stage);
  const int64_t n_rows = std::min(n_tokens, m.config.window);
  std::vector<float> out(static_cast<size_t>(n_rows * format.width));
  for (int64_t p = n_tokens - n_rows; p < n_tokens; ++p) {
    UnpackEntry(format, state + ring.offset + p % ring.n_rows * format.row_bytes,
                out.data() + p % m.config.window * format.width);
  }
  return out;
}

std::vector<float> DsparkParts::EmbedBlock(uint32_t token) {
  Model::Impl& m = *model_.impl_;
  DsparkDrafter& dspark = Dspark(m.drafter.get());
  m.step.Clear();
  dspark.AddBlock(token, {}, m.step);
  std::vector<float> streams(static_cast<size_t>(m.step.n() * m.stream_width()));
  dspark.EmbedBlocks(m.step, streams.data());
  return streams;
}

absl::StatusOr<std::vector<float>> DsparkParts::RunStage(int64_t stage, int64_t position, std::byte* state,
                                                         std::span<const float> streams) {
  Model::Impl& m = *model_.impl_;
  const FlushDenormals flush;
  DsparkDrafter& dspark = Dspark(m.drafter.get());
  m.step.Clear();
  dspark.AddBlock(0, {.n_past = position + 1, .state = state}, m.step);
  m.Prepare(m.step.n(), 0, 1);
  const StepRotations rotations = m.step.Rotations(m.ops, m.sliding_rope);
  std::vector<float> out(streams.begin(), streams.end());
  std::vector<float> other(streams.size());
  float* x = out.data();
  float* spare = other.data();
  // Two swaps bring the result back to where it came from.
  absl::Status s = dspark.RunStage(static_cast<size_t>(stage), m.step, rotations, &x, &spare);
  if (!s.ok()) return s;
  return out;
}

std::vector<float> DsparkParts::Hidden(std::span<const float> streams, int64_t n) {
  Model::Impl& m = *model_.impl_;
  const FlushDenormals flush;
  m.Prepare(n, 0, 0);
  std::vector<float> hidden(static_cast<size_t>(n * m.config.hidden_size));
  Dspark(m.drafter.get()).head().Hidden(streams.data(), n, hidden.data());
  return hidden;
}

std::vector<float> DsparkParts::BaseLogits(std::span<const float> hidden, int64_t n) {
  Model::Impl& m = *model_.impl_;
  const FlushDenormals flush;
  m.Prepare(n, n, 0);
  std::vector<float> logits(static_cast<size_t>(n * m.config.vocab_size));
  Dspark(m.drafter.get()).head().BaseLogits(hidden.data(), n, logits.data());
  return logits;
}

std::vector<float> DsparkParts::Logits(std::span<const float> base_logits, std::span<const uint32_t> tokens_before) {
  Model::Impl& m = *model_.impl_;
  const FlushDenormals flush;
  const auto n = static_cast<int64_t>(tokens_before.size());
  m.Prepare(n, n, 0);
  std::vector<float> logits(base_logits.begin(), base_logits.end());
  Dspark(m.drafter.get()).head().AddMarkov(tokens_before, logits.data(), 1);
  return logits;
}

std::vector<float> DsparkParts::Confidence(std::span<const float> hidden, std::span<const uint32_t> tokens_before) {
  Model::Impl& m = *model_.impl_;
  const FlushDenormals flush;
  m.Prepare(static_cast<int64_t>(tokens_before.size()), 0, 0);
  std::vector<float> confidence(tokens_before.size());
  Dspark(m.drafter.get()).head().Confidence(hidden.data(), tokens_before, confidence.data());
  return confidence;
}

}  // namespace longshelf::engine
