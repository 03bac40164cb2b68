#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "checks.h"
#include "common/status.h"
#include "engine/model/sequence_memory.h"

namespace longshelf::engine {
namespace {

// Tokens up to which a native file is judged row by row.
constexpr int64_t kShortFile = 3;

struct RowFigures {
  std::vector<double> rel;
  std::vector<double> kl;
  int64_t n_top1_equal = 0;
};

double RelativeError(const float* ours, const float* reference, int64_t n) {
  double difference = 0.0;
  double norm = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    const double d = static_cast<double>(ours[i]) - static_cast<double>(reference[i]);
    difference += d * d;
    norm += static_cast<double>(reference[i]) * static_cast<double>(reference[i]);
  }
  const double rel = std::sqrt(difference) / std::sqrt(std::max(norm, 1e-300));
  return std::isfinite(rel) ? rel : HUGE_VAL;
}

std::vector<double> LogSoftmax(const float* x, int64_t n) {
  const double max = *std::max_element(x, x + n);
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(x[i]) - max);
  std::vector<double> out(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) out[static_cast<size_t>(i)] = static_cast<double>(x[i]) - max - std::log(sum);
  return out;
}

RowFigures Compare(const std::vector<float>& ours, const std::vector<float>& reference, int64_t vocab) {
  RowFigures figures;
  for (size_t at = 0; at < reference.size(); at += static_cast<size_t>(vocab)) {
    const float* a = ours.data() + at;
    const float* b = reference.data() + at;
    figures.rel.push_back(RelativeError(a, b, vocab));
    const std::vector<double> p = LogSoftmax(b, vocab);
    const std::vector<double> q = LogSoftmax(a, vocab);
    double kl = 0.0;
    for (size_t i = 0; i < p.size(); ++i) kl += std::exp(p[i]) * (p[i] - q[i]);
    figures.kl.push_back(std::isfinite(kl) ? kl : HUGE_VAL);
    if (std::max_element(a, a + vocab) - a == std::max_element(b, b + vocab) - b) ++figures.n_top1_equal;
  }
  return figures;
}

void JudgeFp32(const std::string& name, const RowFigures& figures, Report& report) {
  const auto n = static_cast<double>(figures.rel.size());
  const double median = Quantile(figures.rel, 0.5);
  report.Check(absl::StrCat(name, " median rel"), median <= 1e-5, absl::StrCat(Figure(median), " (limit 1e-5)"));
  const double n_close =
      static_cast<double>(std::count_if(figures.rel.begin(), figures.rel.end(), [](double r) { return r <= 2e-3; }));
  report.Check(absl::StrCat(name, " rows with rel <= 2e-3"), n_close >= 0.99 * n,
               absl::StrCat(Percent(n_close / n), " (limit 99 %), max ", Figure(Quantile(figures.rel, 1.0))));
  const double top1 = static_cast<double>(figures.n_top1_equal) / n;
  report.Check(absl::StrCat(name, " top-1 equal"), top1 >= 0.995, absl::StrCat(Percent(top1), " (limit 99.5 %)"));
}

// Files of up to three tokens: every row against its own floor. `first_floor`: where this tensor's figures begin in
// floor_rel_rows.
absl::Status JudgeShortNative(const std::string& name, const RowFigures& figures, const Vectors& vectors,
                              size_t first_floor, Report& report) {
  ASSIGN_OR_RETURN(const std::vector<double> floors, vectors.MetadataNumbers("floor_rel_rows"));
  if (floors.size() < first_floor + figures.rel.size()) {
    return absl::InvalidArgumentError(absl::StrCat("metadata floor_rel_rows has ", floors.size(), " figures, and ",
                                                   name, " needs those up to ", first_floor + figures.rel.size()));
  }
  for (size_t i = 0; i < figures.rel.size(); ++i) {
    const double limit = std::max(1e-3, 3.0 * floors[first_floor + i]);
    report.Check(absl::StrCat(name, " row ", i, " rel"), figures.rel[i] <= limit,
                 absl::StrCat(Figure(figures.rel[i]), " (limit ", Figure(limit), ")"));
  }
  return absl::OkStatus();
}

absl::Status JudgeNative(const std::string& name, const RowFigures& figures, const Vectors& vectors, int64_t n_tokens,
                         size_t first_floor, Report& report) {
  if (n_tokens <= kShortFile) return JudgeShortNative(name, figures, vectors, first_floor, report);
  const double median = Quantile(figures.rel, 0.5);
  const auto floor_kl = vectors.MetadataNumber("floor_kl_mean");
  const auto floor_rel = vectors.MetadataNumber("floor_rel_median");
  if (!floor_kl || !floor_rel) {
    return absl::InvalidArgumentError(
        "a native logits file of more than 3 tokens needs metadata floor_kl_mean and floor_rel_median");
  }
  const double kl = Mean(figures.kl);
  report.Check(absl::StrCat(name, " mean KL"), kl <= 3.0 * *floor_kl,
               absl::StrCat(Figure(kl), " (limit ", Figure(3.0 * *floor_kl), " = 3 x floor)"));
  report.Check(
      absl::StrCat(name, " median rel"), median <= 2.0 * *floor_rel,
      absl::StrCat(Figure(median), " (limit ", Figure(2.0 * *floor_rel), " = 2 x floor), top-1 equal ",
                   Percent(static_cast<double>(figures.n_top1_equal) / static_cast<double>(figures.rel.size()))));
  return absl::OkStatus();
}

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

  const auto judge = [&](const std::string& name, const RowFigures& figures, size_t first_floor) -> absl::Status {
    if (model.numerics() == Numerics::kNative) {
      return JudgeNative(name, figures, vectors, static_cast<int64_t>(tokens.size()), first_floor, report);
    }
    JudgeFp32(name, figures, report);
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(judge("logits", Compare(ours.logits, reference, config.vocab_size), 0));
  if (with_mtp)
    return judge("mtp_logits", Compare(ours.mtp_logits, mtp_reference, config.vocab_size), positions.size());
  return absl::OkStatus();
}

}  // namespace longshelf::engine
