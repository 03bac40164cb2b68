#include <iostream>

#include "ceilings.h"
#include "common/config.h"

int main(int argc, char** argv) {
  longshelf::bench::CeilingsSettings settings;
  longshelf::ConfigSpec spec("ceilings", "What this machine's memory and cores give at most. CSV on standard output.");
  spec.set_unknown_env(longshelf::ConfigSpec::UnknownEnv::kIgnore);
  spec.Add(&settings.max_threads, "threads", "most threads; 0 for one a core", {0, 1024});
  spec.Add(&settings.n_rounds, "rounds", "rounds of each measurement; the median counts", {1, 10'000});
  if (const longshelf::ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  const absl::Status status = longshelf::bench::RunCeilings(settings, std::cout);
  if (status.ok()) return 0;
  std::cerr << "ceilings: " << status.message() << '\n';
  return 1;
}
