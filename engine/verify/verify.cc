#include "engine/verify/verify.h"

#include <sstream>

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

struct Attempt {
  bool passed = false;
  Dump dump;
};

// One run of the model against a logits or taps file.
absl::StatusOr<Attempt> RunModel(const VerifyOptions& options, const ModelOptions& model_options,
                                 const std::shared_ptr<const ModelWeights>& weights, const Vectors& vectors,
                                 Vectors::Kind kind, std::ostream& out) {
  LocalExpertTransport transport;
  ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, Model::Create(weights, model_options, transport));
  out << "numerics " << NumericsName(model_options.numerics) << ", kernels " << model->kernels() << ", "
      << options.n_threads << (options.n_threads == 1 ? " thread" : " threads");
  out << std::endl;
  Attempt attempt;
  Report report(out);
  RETURN_IF_ERROR(kind == Vectors::Kind::kTaps ? VerifyTaps(*model, vectors, report, attempt.dump)
                                               : VerifyLogits(*model, vectors, options, report, attempt.dump));
  report.Summary();
  attempt.passed = report.all_passed();
  return attempt;
}

// Passes when the file agrees with the model run in one of the possible ways; reports that run, or the likeliest.
absl::StatusOr<Attempt> VerifyModel(const VerifyOptions& options, const Vectors& vectors, Vectors::Kind kind,
                                    std::ostream& out) {
  ASSIGN_OR_RETURN(const Numerics numerics, ChooseNumerics(options, vectors));
  const auto loaded = [&](const LoadProgress& p) {
    if (options.progress) {
      options.progress("reading weights", p.bytes_total == 0
                                              ? 1.0
                                              : static_cast<double>(p.bytes_done) / static_cast<double>(p.bytes_total));
    }
  };
  ASSIGN_OR_RETURN(const std::shared_ptr<const ModelWeights> weights, LoadModelWeights(options.model_dir, loaded));
  ASSIGN_OR_RETURN(const std::vector<uint32_t> tokens, ReadTokens(vectors, weights->config));
  ModelOptions model_options;
  model_options.numerics = numerics;
  model_options.n_threads = options.n_threads;
  model_options.run_mtp = weights->config.n_mtp_layers > 0 && vectors.Has("mtp_logits");
  model_options.kernels = options.kernel_isa;
  return RunModel(options, model_options, weights, vectors, kind, out);
}

// Every kernel this machine can run is held to the same file.
absl::StatusOr<Attempt> VerifyAllKernels(const VerifyOptions& options, const Vectors& vectors, std::ostream& out) {
  std::vector<std::string> isas = {options.kernel_isa};
  if (options.kernel_isa.empty()) isas = AvailableKernels();
  Attempt attempt;
  Report report(out);
  for (const std::string& isa : isas) {
    out << "kernels " << isa << std::endl;
    Dump of_isa;
    RETURN_IF_ERROR(VerifyKernels(vectors, isa, report, of_isa));
    if (&isa == &isas.front()) attempt.dump = std::move(of_isa);
  }
  report.Summary();
  attempt.passed = report.all_passed();
  return attempt;
}

}  // namespace

absl::StatusOr<bool> Verify(const VerifyOptions& options, std::ostream& out) {
  const auto opened = Vectors::Open(options.vectors);
  if (!opened.ok()) return Annotate(opened.status(), options.vectors.string());
  const Vectors& vectors = *opened;
  ASSIGN_OR_RETURN(const Vectors::Kind kind, vectors.DetectKind());
  ASSIGN_OR_RETURN(const Attempt attempt, kind == Vectors::Kind::kKernels ? VerifyAllKernels(options, vectors, out)
                                                                          : VerifyModel(options, vectors, kind, out));
  if (options.dump.has_value()) {
    const auto& metadata = vectors.file().metadata();
    RETURN_IF_ERROR(attempt.dump.Write(*options.dump, {metadata.begin(), metadata.end()}));
  }
  return attempt.passed;
}

}  // namespace longshelf::engine
