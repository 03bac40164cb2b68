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

}  // namespace

absl::StatusOr<bool> Verify(const VerifyOptions& options, std::ostream& out) {
  const auto opened = Vectors::Open(options.vectors);
  if (!opened.ok()) return Annotate(opened.status(), options.vectors.string());
  const Vectors& vectors = *opened;
  ASSIGN_OR_RETURN(const Vectors::Kind kind, vectors.DetectKind());
  Report report(out);
  Dump dump;
  if (kind == Vectors::Kind::kKernels) {
    // Every kernel this machine can run is held to the same file.
    std::vector<std::string> isas = {options.kernel_isa};
    if (options.kernel_isa.empty()) isas = AvailableKernelIsas();
    for (const std::string& isa : isas) {
      out << "kernels " << isa << std::endl;
      Dump of_isa;
      RETURN_IF_ERROR(VerifyKernels(vectors, isa, report, of_isa));
      if (&isa == &isas.front()) dump = std::move(of_isa);
    }
  } else {
    ASSIGN_OR_RETURN(const Numerics numerics, ChooseNumerics(options, vectors));
    ASSIGN_OR_RETURN(std::shared_ptr<const ModelWeights> weights, LoadModelWeights(options.model_dir, nullptr));
    LocalExpertTransport transport;
    ModelOptions model_options;
    model_options.numerics = numerics;
    model_options.n_threads = options.n_threads;
    model_options.run_mtp = weights->config.n_mtp_layers > 0 && vectors.Has("mtp_logits");
    model_options.kernel_isa = options.kernel_isa;
    ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, Model::Create(weights, model_options, transport));
    out << "numerics " << NumericsName(numerics) << ", kernels " << model->kernel_isa() << ", " << options.n_threads
        << (options.n_threads == 1 ? " thread" : " threads") << std::endl;
    RETURN_IF_ERROR(kind == Vectors::Kind::kTaps ? VerifyTaps(*model, vectors, report, dump)
                                                 : VerifyLogits(*model, vectors, options, report, dump));
  }
  report.Summary();
  if (options.dump.has_value()) {
    const auto& metadata = vectors.file().metadata();
    RETURN_IF_ERROR(dump.Write(*options.dump, {metadata.begin(), metadata.end()}));
  }
  return report.all_passed();
}

}  // namespace longshelf::engine
