#include <iostream>

#include "common/config.h"
#include "step_model.h"

int main(int argc, char** argv) {
  std::string exchanges = "bench/exchanges.jsonl";
  std::string steps = "bench/steps.jsonl";
  longshelf::ConfigSpec spec("step_model", "Fits the model of steps to measurements and says how far it is off.");
  spec.set_unknown_env(longshelf::ConfigSpec::UnknownEnv::kIgnore);
  spec.Add(&exchanges, "exchanges", "what measure_exchanges.py printed");
  spec.Add(&steps, "steps", "what measure_steps.py printed; empty: exchanges only");
  if (const longshelf::ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  const absl::Status status = longshelf::bench::RunStepModel(exchanges, steps, std::cout);
  if (status.ok()) return 0;
  std::cerr << "step_model: " << status.message() << '\n';
  return 1;
}
