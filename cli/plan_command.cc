#include <iostream>
#include <string>
#include <vector>

#include "cli/plan_report.h"
#include "commands.h"
#include "common/config.h"

namespace longshelf::cli {
namespace {

absl::StatusOr<std::string> Plan(PlanRequest request, const std::vector<std::string>& contexts, bool json) {
  for (const std::string& text : contexts) {
    const absl::StatusOr<int64_t> n_tokens = ParseContext(text);
    if (!n_tokens.ok()) return n_tokens.status();
    request.contexts.push_back(*n_tokens);
  }
  return json ? PlanJson(request) : PlanTable(request);
}

}  // namespace

int RunPlan(int argc, const char* const* argv) {
  PlanRequest request{{"flash", "pro", "v3.2"}, {}, int64_t{64} << 30};
  std::vector<std::string> contexts = {"1M"};
  bool json = false;
  ConfigSpec spec("longshelf plan",
                  "What models cost: KV bytes, arithmetic per token, sessions that fit in memory, and how that\n"
                  "compares with DeepSeek-V3.2.");
  spec.set_unknown_env(ConfigSpec::UnknownEnv::kIgnore);
  spec.Add(&request.models, "model", "flash, pro, v3.2, a checkpoint directory or a config.json; repeatable");
  spec.Add(&contexts, "context", "tokens of context, such as 4096, 128K, 1M; repeatable");
  spec.AddBytes(&request.memory_bytes, "memory", "memory for KV (weights not included)");
  spec.Add(&json, "json", "print JSON");
  if (const ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  const absl::StatusOr<std::string> text = Plan(std::move(request), contexts, json);
  if (!text.ok()) {
    std::cerr << "longshelf plan: " << text.status().message() << '\n';
    return absl::IsNotFound(text.status()) ? kExitUnavailable : kExitUsage;
  }
  std::cout << *text;
  return 0;
}

}  // namespace longshelf::cli
