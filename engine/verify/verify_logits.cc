#include <algorithm>

#include "absl/strings/str_cat.h"
#include "checks.h"
#include "common/status.h"
#include "engine/model/sequence_memory.h"
#include "logits_rules.h"

namespace longshelf::engine {
namespace {

constexpr std::string_view kFloorPrefix = "floor_";

struct Computed {
  std::vector<float> logits;
  std::vector<float> mtp_logits;
};

// Runs the whole sequence in chunks and keeps the rows at `positions` (ascending order not required).
absl::StatusOr<Computed> RunSequence(Model& model, const std::vector<uint32_t>& tokens,
                                     const std::vector<int64_t>& positions, bool with_mtp,
                                     const VerifyOptions& options) {
  const auto n = static_cast<int64_t>(tokens.size());
  const auto vocab = static_cast<size_t>(model.config().vocab_size);
  // Row of the outputs per position, -1 = not asked for.
  std::vector<int64_t> row_of(tokens.size(), -1);
  for (size_t i = 0; i < positions.size(); ++i) row_of[static_cast<size_t>(positions[i])] = static_cast<int64_t>(i);
  std::vector<int64_t> mtp_row_of(tokens.size(), -1);
  int64_t n_mtp = 0;
  if (with_mtp) {
    for (const int64_t p : positions) {
      if (p < n - 1) mtp_row_of[static_cast<size_t>(p)] = n_mtp++;
    }
  }
  Computed out;
  out.logits.resize(positions.size() * vocab);
  out.mtp_logits.resize(static_cast<size_t>(n_mtp) * vocab);
  SequenceMemory memory(model.layout(), n);
  for (int64_t begin = 0; begin < n; begin += options.chunk_tokens) {
    const int64_t end = std::min(begin + options.chunk_tokens, n);
    const bool wanted =
        with_mtp || std::any_of(row_of.begin() + begin, row_of.begin() + end, [](int64_t r) { return r >= 0; });
    ForwardBatch batch;
    batch.chunks.push_back(
        memory.Chunk(begin, std::span(tokens).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
                     wanted ? WantLogits::kAll : WantLogits::kNone));
    ASSIGN_OR_RETURN(const ForwardOutput output, model.Forward(batch));
    for (int64_t i = 0; i < output.n_rows; ++i) {
      const int64_t row = row_of[static_cast<size_t>(begin + i)];
      if (row >= 0)
        std::copy_n(output.logits.data() + static_cast<size_t>(i) * vocab, vocab,
                    out.logits.data() + static_cast<size_t>(row) * vocab);
    }
    if (options.progress) options.progress("computing", static_cast<double>(end) / static_cast<double>(n));
    const int64_t first_slot = std::max<int64_t>(begin - 1, 0);
    for (int64_t i = 0; i < output.n_mtp_rows; ++i) {
      const int64_t row = mtp_row_of[static_cast<size_t>(first_slot + i)];
      if (row >= 0)
        std::copy_n(output.mtp_logits.data() + static_cast<size_t>(i) * vocab, vocab,
                    out.mtp_logits.data() + static_cast<size_t>(row) * vocab);
    }
  }
  return out;
}

}  // namespace

absl::Status VerifyLogits(Model& model, const Vectors& vectors, const VerifyOptions& options, Report& report,
                          Dump& dump) {
  const ModelConfig& config = model.config();
  ASSIGN_OR_RETURN(const std::vector<uint32_t> tokens, ReadTokens(vectors, config));
  ASSIGN_OR_RETURN(const std::vector<int64_t> positions, vectors.Integers("positions", {-1}));
  const auto n_positions = static_cast<int64_t>(positions.size());
  if (positions.empty()) return absl::InvalidArgumentError("tensor \"positions\" is empty; nothing to compare");
  int64_t n_mtp = 0;
  for (const int64_t p : positions) {
    if (p < 0 || p >= static_cast<int64_t>(tokens.size())) {
      return absl::InvalidArgumentError(
          absl::StrCat("position ", p, " is outside the file's ", tokens.size(), " tokens"));
    }
    if (p + 1 < static_cast<int64_t>(tokens.size())) ++n_mtp;
  }
  ASSIGN_OR_RETURN(const std::vector<float> reference, vectors.Floats("logits", {n_positions, config.vocab_size}));
  const bool with_mtp = vectors.Has("mtp_logits");
  std::vector<float> mtp_reference;
  if (with_mtp) {
    if (config.n_mtp_layers == 0) {
      return absl::InvalidArgumentError("the vectors file has mtp_logits, and this model has no MTP layer");
    }
    ASSIGN_OR_RETURN(mtp_reference, vectors.Floats("mtp_logits", {n_mtp, config.vocab_size}));
  }
  ASSIGN_OR_RETURN(const Computed ours, RunSequence(model, tokens, positions, with_mtp, options));
  dump.AddIntegers("tokens", {tokens.begin(), tokens.end()}, {static_cast<int64_t>(tokens.size())});
  dump.AddIntegers("positions", positions, {n_positions});
  dump.AddFloats("logits", ours.logits, {n_positions, config.vocab_size});
  if (with_mtp) dump.AddFloats("mtp_logits", ours.mtp_logits, {n_mtp, config.vocab_size});

  const LogitFigures logits = CompareLogits(ours.logits, reference, config.vocab_size);
  const LogitFigures mtp = CompareLogits(ours.mtp_logits, mtp_reference, config.vocab_size);
  if (model.numerics() == Numerics::kFp32) {
    JudgeFp32("logits", logits, report);
    if (with_mtp) JudgeFp32("mtp_logits", mtp, report);
  } else if (static_cast<int64_t>(tokens.size()) <= kShortFileTokens) {
    ASSIGN_OR_RETURN(const std::vector<double> floors,
                     ReadRowFloors(vectors, kFloorPrefix, logits.n_rows() + mtp.n_rows()));
    const std::span<const double> of_rows = floors;
    JudgeShortNative("logits", logits, of_rows.first(logits.rel.size()), report);
    JudgeShortNative("mtp_logits", mtp, of_rows.subspan(logits.rel.size()), report);
  } else {
    ASSIGN_OR_RETURN(const NoiseFloor floor, ReadNoiseFloor(vectors, kFloorPrefix));
    JudgeLongNative("logits", logits, floor, report);
    if (with_mtp) JudgeLongNative("mtp_logits", mtp, floor, report);
  }
  return absl::OkStatus();
}

}  // namespace longshelf::engine
