#include <iostream>
#include <string>

#include "cli/text_lines.h"
#include "commands.h"
#include "common/config.h"
#include "tokenizer/tokenizer.h"

namespace longshelf::cli {

int RunTokenize(int argc, const char* const* argv) {
  std::string model;
  bool decode = false;
  ConfigSpec spec("longshelf tokenize",
                  "Text to token ids, and back. Reads JSON lines {\"text\": \"...\"} on standard input and writes\n"
                  "{\"ids\": [...]}. A line that fails gives {\"error\": \"...\"}; the exit code is then 1.");
  spec.set_unknown_env(ConfigSpec::UnknownEnv::kIgnore);
  spec.Add(&model, "model", "directory with tokenizer.json");
  spec.Add(&decode, "decode", "read {\"ids\": [...]}, write {\"text\": \"...\"}");
  spec.Require("model");
  if (const ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  const auto tokenizer = tokenizer::Tokenizer::Load(model);
  if (!tokenizer.ok()) {
    std::cerr << "longshelf tokenize: " << tokenizer.status().message() << '\n';
    return kExitConfig;
  }
  std::ios::sync_with_stdio(false);
  const LineCounts counts =
      decode ? DecodeLines(**tokenizer, std::cin, std::cout) : EncodeLines(**tokenizer, std::cin, std::cout);
  return counts.failed == 0 ? 0 : 1;
}

}  // namespace longshelf::cli
