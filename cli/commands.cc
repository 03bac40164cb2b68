#include "commands.h"

namespace longshelf::cli {

std::vector<Command> Commands() {
  return {
      {"up", "start a cluster on this machine", RunUp},
      {"chat", "talk to a model", RunChat},
      {"certs", "make certificates for TLS between the parts", RunCerts},
      {"model info", "shapes, parameters and KV bytes of a checkpoint", RunModelInfo},
      {"plan", "KV bytes, arithmetic and sessions of models, beside DeepSeek-V3.2", RunPlan},
      {"render", "chat messages to the prompt and its token ids; completions to messages", RunRender},
      {"tokenize", "text to token ids and back", RunTokenize},
      {"verify", "compare the engine with reference vectors", RunVerify},
  };
}

}  // namespace longshelf::cli
