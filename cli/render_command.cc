#include <iostream>
#include <string>

#include "cli/text_lines.h"
#include "commands.h"
#include "common/config.h"
#include "tokenizer/tokenizer.h"

namespace longshelf::cli {

int RunRender(int argc, const char* const* argv) {
  std::string model;
  bool parse = false;
  ConfigSpec spec(
      "longshelf render",
      "Chat messages to the prompt that the model sees. Reads JSON lines {\"messages\": [...],\n"
      "\"thinking_mode\", \"drop_thinking\", \"reasoning_effort\", \"dialect\", \"tools\"} on standard input and\n"
      "writes {\"prompt\": \"...\", \"ids\": [...]}. A line that fails gives {\"error\": \"...\"}; the exit code\n"
      "is then 1.");
  spec.set_unknown_env(ConfigSpec::UnknownEnv::kIgnore);
  spec.Add(&model, "model", "directory with tokenizer.json");
  spec.Add(&parse, "parse", "read {\"completion\": \"...\", \"thinking_mode\"}, write {\"message\": {...}}");
  spec.Require("model");
  if (const ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  const auto tokenizer = tokenizer::Tokenizer::Load(model);
  if (!tokenizer.ok()) {
    std::cerr << "longshelf render: " << tokenizer.status().message() << '\n';
    return kExitConfig;
  }
  std::ios::sync_with_stdio(false);
  const LineCounts counts = parse ? ParseLines(std::cin, std::cout) : RenderLines(**tokenizer, std::cin, std::cout);
  return counts.failed == 0 ? 0 : 1;
}

}  // namespace longshelf::cli
