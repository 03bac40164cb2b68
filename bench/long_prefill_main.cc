#include <iostream>

#include "common/config.h"
#include "long_prefill.h"

int main(int argc, char** argv) {
  longshelf::bench::LongPrefillSettings settings;
  longshelf::ConfigSpec spec("long_prefill",
                             "Computes a long context in several chunkings and compares every bit. CSV on standard "
                             "output, progress on standard error; exit code 1 when bits differ.");
  spec.set_unknown_env(longshelf::ConfigSpec::UnknownEnv::kIgnore);
  spec.Add(&settings.model, "model", "checkpoint directory");
  spec.Add(&settings.n_context, "context", "tokens in the end, prompt and output", {1, 1 << 28});
  spec.Add(&settings.n_decode, "decode", "tokens of these that are decoded one by one", {0, 1 << 20});
  spec.Add(&settings.chunks, "chunk", "tokens of a prefill chunk; one pass for each, on a thread of its own");
  spec.Add(&settings.isa, "isa", "vector kernels, such as avx2; empty for the best");
  spec.Add(&settings.seed, "seed", "seed of the prompt", {0, 1ULL << 62});
  spec.Require("model");
  if (const longshelf::ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  const absl::Status status = longshelf::bench::RunLongPrefill(settings, std::cout, std::cerr);
  if (status.ok()) return 0;
  std::cerr << "long_prefill: " << status.message() << '\n';
  return 1;
}
