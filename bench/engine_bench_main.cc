#include <iostream>

#include "common/config.h"
#include "engine_bench.h"

int main(int argc, char** argv) {
  longshelf::bench::EngineBenchSettings settings;
  longshelf::ConfigSpec spec("engine_bench", "Prefill and decode speed of the engine. CSV on standard output.");
  spec.set_unknown_env(longshelf::ConfigSpec::UnknownEnv::kIgnore);
  spec.Add(&settings.config, "model",
           "mid, flash-thin, flash-small, pro-small, a checkpoint directory or a config.json");
  spec.AddChoice(&settings.weights, "weights", "random, or of a checkpoint directory, mapped or in huge pages",
                 {"random", "mapped", "huge"});
  spec.Add(&settings.contexts, "context", "tokens of context; repeatable");
  spec.Add(&settings.batches, "batch", "sequences per decode step; repeatable");
  spec.Add(&settings.n_threads, "threads", "threads of the model", {1, 1024});
  spec.Add(&settings.chunk_tokens, "chunk", "tokens of a prefill chunk", {1, 65536});
  spec.Add(&settings.n_rounds, "rounds", "rounds of each measurement; the median counts", {1, 10'000});
  spec.AddChoice(&settings.numerics, "numerics", "numerics of the pass", {"native", "fp32"});
  spec.Add(&settings.isa, "isa", "vector kernels, such as avx2; empty for the best");
  spec.Add(&settings.seed, "seed", "seed of weights and KV", {0, 1ULL << 62});
  if (const longshelf::ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  const absl::Status status = longshelf::bench::RunEngineBench(settings, std::cout);
  if (status.ok()) return 0;
  std::cerr << "engine_bench: " << status.message() << '\n';
  return 1;
}
