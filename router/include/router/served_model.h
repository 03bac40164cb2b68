#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "grammar/output_spec.h"
#include "router/api_error.h"
#include "router/api_request.h"
#include "router/auth.h"
#include "router/checked_forms.h"
#include "router/namespace_ids.h"
#include "router/prefix_index.h"
#include "router/turn_memory.h"
#include "router/worker_link.h"
#include "tokenizer/chat.h"
#include "tokenizer/tokenizer.h"

namespace longshelf::router {

// What the router knows of the model: how to read and write its text. It never sees weights. Immutable; any thread.
struct ServedModel {
  std::string name;
  tokenizer::ChatDialect dialect = tokenizer::ChatDialect::kPreview;
  std::shared_ptr<const tokenizer::Tokenizer> tokenizer;
  uint32_t vocab_size = 0;                                // of config.json: ids below it have an embedding
  uint32_t n_context_max = 0;                             // max_position_embeddings; a worker may serve less
  std::vector<uint32_t> stop_token_ids;                   // end of sequence
  int64_t created_unix_s = 0;                             // of config.json
  std::shared_ptr<CheckedForms> checked_forms = nullptr;  // null: none is remembered
  bool control_tokens_in_text = false;  // those that a chat's texts spell are tokens, as in DeepSeek's reference

  // From tokenizer.json, config.json and, for the end of sequence, generation_config.json (if there is one and it has
  // any) of a model directory. INVALID_ARGUMENT names the file and the key.
  static absl::StatusOr<ServedModel> Load(const std::filesystem::path& dir, std::string name,
                                          tokenizer::ChatDialect dialect);
};

// One prompt of a request.
struct PreparedPrompt {
  std::shared_ptr<const std::vector<uint32_t>> tokens;
  PromptKeys keys;
  uint32_t max_tokens = 0;
  std::string echo_text;  // when the request asks for it
};

// A checked request as token ids, ready for a worker.
struct PreparedRequest {
  ApiRequest request;
  std::vector<PreparedPrompt> prompts;  // at least one; one for a chat
  std::string tenant;
  std::string namespace_id;
  std::string namespace_salt;
  std::shared_ptr<const grammar::OutputSpec> output_form;  // null: any output
  std::shared_ptr<TurnMemory> turns;                       // where the answer is remembered; null: nowhere
  size_t n_turns_recalled = 0;                             // earlier turns that stand as they were sampled

  const PreparedPrompt& first() const { return prompts.front(); }
  // Those of the first prompt come first.
  uint32_t n_choices() const { return static_cast<uint32_t>(prompts.size()) * request.n; }
  // What is generated for them: more when only the best are returned.
  uint32_t n_candidates() const { return static_cast<uint32_t>(prompts.size()) * request.n_candidates(); }
  bool ranks() const { return request.n_candidates() > request.n; }
  // The prompts are told token by token, with their logprobs.
  bool echoes_logprobs() const { return request.echo && request.sampling.logprobs; }
};

struct PrepareContext {
  Tenant tenant;
  std::string tenant_secret;
  std::shared_ptr<const NamespaceIds> namespaces;  // never null
  // Of the workers, when one was seen already.
  std::optional<WorkerInfo> worker;
  std::shared_ptr<TurnMemory> turns = nullptr;  // null: none is remembered
};

// Renders, tokenizes and hashes. Pure, and as slow as the prompt is long: never on the loop's thread.
std::variant<PreparedRequest, ApiError> Prepare(const ServedModel& model, const PrepareContext& context,
                                                ApiRequest request);
// The same for what a parser made of a body; its refusal stays.
std::variant<PreparedRequest, ApiError> PrepareParsed(const ServedModel& model, const PrepareContext& context,
                                                      std::variant<ApiRequest, ApiError> parsed);

}  // namespace longshelf::router
