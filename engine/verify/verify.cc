#include "engine/verify/verify.h"

#include "absl/strings/str_cat.h"
#include "checks.h"
#include "common/status.h"
#include "engine/comm/expert_transport.h"

namespace longshelf::engine {
namespace {

absl::StatusOr<Numerics> ChooseNumerics(const VerifyOptions& options, const Vectors& vectors) {
  if (options.numerics.has_value()) return *options.numerics;
  if (const auto from_file = vectors.numerics()) return *from_file;
  return absl::InvalidArgumentError(
      "the vectors file does not say its numerics (metadata \"numerics\": m0 or m1); give --numerics native or fp32");
}

struct Outcome {
  bool passed = false;
  Dump dump;
};

// What no judge has read is named, so that a file's PASS is not taken for a word on it.
void NoteNotJudged(const Vectors& vectors, Report& report) {
  for (const std::string& name : vectors.Unread()) {
    report.NotJudged(
        name, IsOfDraftModule(name) ? "belongs to a draft module; this model has none" : "there is no rule for it");
  }
}

absl::StatusOr<Outcome> VerifyModel(const VerifyOptions& options, const Vectors& vectors, Vectors::Kind kind,
                                    std::ostream& out) {
  const auto loaded = [&](const LoadProgress& p) {
    if (options.progress) {
      options.progress("reading weights", p.bytes_total == 0
                                              ? 1.0
                                              : static_cast<double>(p.bytes_done) / static_cast<double>(p.bytes_total));
    }
  };
  ModelOptions model_options;
  ASSIGN_OR_RETURN(model_options.numerics, ChooseNumerics(options, vectors));
  ASSIGN_OR_RETURN(const std::shared_ptr<const ModelWeights> weights, LoadModelWeights(options.model_dir, loaded));
  model_options.n_threads = options.n_threads;
  if (weights->config.n_mtp_layers > 0 && vectors.Has("mtp_logits")) {
    model_options.drafter = DrafterKind::kMtp;
    model_options.n_draft_max = 1;
  } else if (weights->dspark.has_value() && vectors.Has("draft.positions")) {
    model_options.drafter = DrafterKind::kDspark;
    model_options.n_draft_max = weights->config.dspark.block_size;
  }
  model_options.kernels = options.kernels;
  LocalExpertTransport transport;
  ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, Model::Create(weights, model_options, transport));
  out << "numerics " << NumericsName(model_options.numerics) << ", kernels " << model->kernels() << ", "
      << options.n_threads << (options.n_threads == 1 ? " thread" : " threads") << std::endl;
  Outcome outcome;
  Report report(out);
  RETURN_IF_ERROR(kind == Vectors::Kind::kTaps ? VerifyTaps(*model, vectors, report, outcome.dump)
                                               : VerifyLogits(*model, vectors, options, report, outcome.dump));
  NoteNotJudged(vectors, report);
  report.Summary();
  outcome.passed = report.all_passed();
  return outcome;
}

// Every kernel table this machine can run is held to the same file.
absl::StatusOr<Outcome> VerifyAllKernels(const VerifyOptions& options, const Vectors& vectors, std::ostream& out) {
  std::vector<std::string> tables = {options.kernels};
  if (options.kernels.empty()) tables = AvailableKernels();
  Outcome outcome;
  Report report(out);
  for (const std::string& table : tables) {
    out << "kernels " << table << std::endl;
    Dump of_table;
    RETURN_IF_ERROR(VerifyKernels(vectors, table, report, of_table));
    if (&table == &tables.front()) outcome.dump = std::move(of_table);
  }
  NoteNotJudged(vectors, report);
  report.Summary();
  outcome.passed = report.all_passed();
  return outcome;
}

}  // namespace

absl::StatusOr<bool> Verify(const VerifyOptions& options, std::ostream& out) {
  const auto opened = Vectors::Open(options.vectors);
  if (!opened.ok()) return Annotate(opened.status(), options.vectors.string());
  const Vectors& vectors = *opened;
  ASSIGN_OR_RETURN(const Vectors::Kind kind, vectors.DetectKind());
  ASSIGN_OR_RETURN(const Outcome outcome, kind == Vectors::Kind::kKernels ? VerifyAllKernels(options, vectors, out)
                                                                          : VerifyModel(options, vectors, kind, out));
  if (options.dump.has_value()) {
    const auto& metadata = vectors.file().metadata();
    RETURN_IF_ERROR(outcome.dump.Write(*options.dump, {metadata.begin(), metadata.end()}));
  }
  return outcome.passed;
}

}  // namespace longshelf::engine
