#include <fmt/format.h>
#include <unistd.h>

#include <iostream>

#include "commands.h"
#include "common/config.h"
#include "engine/verify/verify.h"

namespace longshelf::cli {
namespace {

// One line on a terminal, rewritten per percent and wiped at the end of a stage.
class ProgressLine {
 public:
  void Show(std::string_view stage, double share) {
    const auto percent = static_cast<int>(share * 100.0);
    if (percent == shown_) return;
    shown_ = percent;
    if (percent < 100) {
      fmt::print(stderr, "\r{} {} % ", stage, percent);
    } else {
      fmt::print(stderr, "\r\033[K");
    }
  }

 private:
  int shown_ = 100;
};

}  // namespace

int RunVerify(int argc, const char* const* argv) {
  engine::VerifyOptions options;
  std::string model;
  std::string vectors;
  std::string numerics = "from-file";
  std::string dump;
  ConfigSpec spec("longshelf verify",
                  "Compares the engine with reference vectors (logits, taps or kernels). Exits 1 when a check fails.");
  spec.set_unknown_env(ConfigSpec::UnknownEnv::kIgnore);
  spec.Add(&model, "model", "checkpoint directory");
  spec.Add(&vectors, "vectors", "vectors file (safetensors)");
  spec.AddChoice(&numerics, "numerics", "what to compute in; by default what the file was made in",
                 {"native", "fp32", "from-file"});
  spec.Add(&dump, "dump", "write what was computed to this file, in the form of the vectors file");
  spec.Add(&options.n_threads, "threads", "compute threads; the result does not depend on them", {1, 1024});
  spec.Add(&options.chunk_tokens, "chunk", "tokens per forward pass; the result does not depend on it", {1, 1 << 20});
  spec.Add(&options.kernels, "kernels",
           "avx512-bf16, avx512-vnni, avx512, avx2 or portable; by default the best this machine has");
  spec.Require("model");
  spec.Require("vectors");
  if (ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  options.model_dir = model;
  options.vectors = vectors;
  if (numerics == "native") options.numerics = engine::Numerics::kNative;
  if (numerics == "fp32") options.numerics = engine::Numerics::kFp32;
  if (!dump.empty()) options.dump = dump;
  ProgressLine line;
  if (isatty(STDERR_FILENO) != 0) {
    options.progress = [&](std::string_view stage, double share) { line.Show(stage, share); };
  }
  const absl::StatusOr<bool> passed = engine::Verify(options, std::cout);
  if (!passed.ok()) {
    std::cerr << "longshelf verify: " << passed.status().message() << "\n";
    return kExitConfig;
  }
  return *passed ? 0 : 1;
}

}  // namespace longshelf::cli
