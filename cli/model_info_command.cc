#include <iostream>
#include <string>

#include "cli/model_report.h"
#include "commands.h"
#include "common/config.h"

namespace longshelf::cli {

int RunModelInfo(int argc, const char* const* argv) {
  std::string model;
  bool digest = false;
  bool json = false;
  ConfigSpec spec(
      "longshelf model info",
      "Shapes, attention schedule, parameters and KV bytes of a checkpoint directory (config.json is enough),\n"
      "and whether its tensors fit its config.");
  spec.set_unknown_env(ConfigSpec::UnknownEnv::kIgnore);
  spec.AddPositional(&model, "DIR", "checkpoint directory, or a config.json", /*required=*/true);
  spec.Add(&digest, "digest", "read every tensor: refuse NaN, print the digest of the weights");
  spec.Add(&json, "json", "print JSON");
  if (const ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  const auto fail = [](const absl::Status& status) {
    std::cerr << "longshelf model info: " << status.message() << '\n';
    return absl::IsNotFound(status) ? kExitUnavailable : 1;
  };
  const absl::StatusOr<engine::ModelConfig> config = engine::LoadModelConfig(model);
  if (!config.ok()) return fail(config.status());
  const absl::StatusOr<CheckpointSummary> checkpoint = SummarizeCheckpoint(model, digest);
  if (!checkpoint.ok()) return fail(checkpoint.status());
  std::cout << (json ? ModelInfoJson(*config, *checkpoint) : ModelInfoText(model, *config, *checkpoint));
  return 0;
}

}  // namespace longshelf::cli
