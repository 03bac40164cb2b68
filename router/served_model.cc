#include "router/served_model.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "json_fields.h"
#include "kvstore/keys.h"
#include "output_form.h"
#include "router/effort.h"
#include "tokenizer/fim.h"
#include "tokenizer/json_file.h"

namespace longshelf::router {
namespace {

constexpr size_t kMaxConfigBytes = size_t{16} << 20;

absl::StatusOr<int64_t> PositiveInteger(const JsonObject& config, std::string_view key, int64_t max) {
  const auto value = Member(config, key);
  const std::optional<int64_t> integer = value ? AsInteger(*value) : std::nullopt;
  if (!integer || *integer <= 0 || *integer > max) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: ", absl::string_view(key.data(), key.size()),
                                                   " must be a whole number between 1 and ", max));
  }
  return *integer;
}

// A token id, or a list of them. Null is as if it were not there.
absl::Status AddStopTokens(std::string_view file, const JsonObject& config, ServedModel& model) {
  const auto add = [&](const JsonValue& value) {
    const std::optional<int64_t> id = AsInteger(value);
    if (!id || *id < 0 || *id >= int64_t{model.vocab_size}) return false;
    model.stop_token_ids.push_back(static_cast<uint32_t>(*id));
    return true;
  };
  const auto eos = Member(config, "eos_token_id");
  bool ok = true;
  if (eos && !IsNull(*eos)) {
    if (const auto array = AsArray(*eos)) {
      for (const JsonValue& value : *array) ok = ok && add(value);
      ok = ok && !model.stop_token_ids.empty();
    } else {
      ok = add(*eos);
    }
  }
  if (ok) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(absl::string_view(file.data(), file.size()),
                                                 ": eos_token_id must be a token id below ", model.vocab_size,
                                                 ", or a list of them"));
}

// The root object of a JSON file of the model, which lives as long as the parser.
absl::StatusOr<JsonObject> ReadObject(const std::filesystem::path& file, simdjson::dom::parser& parser) {
  const absl::StatusOr<std::string> text = tokenizer::ReadJsonFile(file, kMaxConfigBytes);
  if (!text.ok()) return Annotate(text.status(), file.string());
  JsonValue root;
  JsonObject object;
  if (parser.parse(*text).get(root) != simdjson::SUCCESS || root.get(object) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError(absl::StrCat(file.string(), " is not a JSON object"));
  }
  return object;
}

// Of generation_config.json, else of config.json.
absl::Status ReadStopTokens(const std::filesystem::path& dir, const JsonObject& config, ServedModel& model) {
  constexpr std::string_view kName = "generation_config.json";
  std::error_code ignored;
  if (std::filesystem::exists(dir / kName, ignored)) {
    simdjson::dom::parser parser;
    ASSIGN_OR_RETURN(const JsonObject generation, ReadObject(dir / kName, parser));
    RETURN_IF_ERROR(AddStopTokens(kName, generation, model));
  }
  if (model.stop_token_ids.empty()) RETURN_IF_ERROR(AddStopTokens("config.json", config, model));
  if (!model.stop_token_ids.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError("config.json: eos_token_id must be a token id or a list of them");
}

// The context cannot hold all of it.
ApiError TooLong(std::string_view param, size_t n_tokens, size_t n_context_max) {
  ApiError error = ContextTooLong(n_tokens, n_context_max);
  error.param = std::string(param);
  return error;
}

ApiError PromptError(const absl::Status& status, std::string_view param, size_t n_context_max) {
  if (status.code() == absl::StatusCode::kResourceExhausted) {
    return TooLong(param, n_context_max, n_context_max);
  }
  return InvalidField(param, absl::StrCat("cannot be encoded: ", status.message()));
}

// Prompt of a chat request, with the effort the served revision knows.
absl::StatusOr<tokenizer::ChatPrompt> RenderPrompt(const ServedModel& model, const ApiRequest& request) {
  tokenizer::ChatOptions options;
  options.dialect = model.dialect;
  options.thinking_mode = request.thinking_mode;
  if (request.thinking_mode == tokenizer::ThinkingMode::kThinking) {
    auto effort = MapEffort(request.reasoning_effort, model.dialect);
    if (!effort.ok()) return effort.status();
    options.reasoning_effort = *std::move(effort);
  }
  return tokenizer::RenderChatPrompt(request.messages, options);
}

using TokensOrError = std::variant<std::vector<uint32_t>, ApiError>;

TokensOrError ToTokens(absl::StatusOr<std::vector<uint32_t>> tokens, std::string_view param, size_t n_context_max) {
  if (!tokens.ok()) return PromptError(tokens.status(), param, n_context_max);
  return *std::move(tokens);
}

TokensOrError ChatTokens(const ServedModel& model, const ApiRequest& request, size_t n_context_max) {
  auto prompt = RenderPrompt(model, request);
  if (!prompt.ok()) return PromptError(prompt.status(), "messages", n_context_max);
  if (model.control_tokens_in_text) prompt->ordinary.clear();
  return ToTokens(tokenizer::EncodePrompt(*model.tokenizer, *prompt, n_context_max), "messages", n_context_max);
}

TokensOrError TextTokens(const ServedModel& model, const ApiRequest& request, const PromptInput& prompt,
                         std::string_view param, size_t n_context_max) {
  if (const auto* ids = std::get_if<std::vector<uint32_t>>(&prompt)) return *ids;
  const std::string& text = std::get<std::string>(prompt);
  if (request.suffix.empty()) return ToTokens(model.tokenizer->Encode(text, n_context_max), param, n_context_max);
  auto tokens = tokenizer::EncodeFim(*model.tokenizer, text, request.suffix, n_context_max);
  if (absl::IsFailedPrecondition(tokens.status())) {
    return InvalidField("suffix", absl::StrCat("is not supported by ", model.name, ": ", tokens.status().message(),
                                               "; send a prompt without it"));
  }
  return ToTokens(std::move(tokens), param, n_context_max);
}

// "prompt", or "prompt[2]" of several.
std::string ParamOf(const ApiRequest& request, size_t number) {
  if (request.api == Api::kChat) return "messages";
  return request.prompts.size() == 1 ? "prompt" : absl::StrCat("prompt[", number, "]");
}

// Keys, limits and the echo of one prompt.
std::variant<PreparedPrompt, ApiError> PreparePrompt(const ServedModel& model, const PreparedRequest& prepared,
                                                     const std::optional<WorkerInfo>& worker, const ApiRequest& request,
                                                     size_t number, size_t n_context) {
  const std::string param = ParamOf(request, number);
  // What was begun goes on from the very tokens it was begun with.
  TokensOrError tokens = request.begun != nullptr ? TokensOrError(request.begun->prompt)
                         : request.api == Api::kChat
                             ? ChatTokens(model, request, n_context)
                             : TextTokens(model, request, request.prompts[number], param, n_context);
  if (auto* error = std::get_if<ApiError>(&tokens)) return std::move(*error);
  PreparedPrompt out;
  out.tokens = std::make_shared<const std::vector<uint32_t>>(std::move(std::get<std::vector<uint32_t>>(tokens)));
  if (out.tokens->empty()) return InvalidField(param, "must hold at least one token");
  if (out.tokens->size() >= n_context) return TooLong(param, out.tokens->size(), n_context);
  const auto n_left = static_cast<uint32_t>(n_context - out.tokens->size());
  if (request.begun != nullptr && request.begun->output.size() > n_left) {
    return TooLong("session", out.tokens->size() + request.begun->output.size(), n_context);
  }
  out.max_tokens = std::min(request.max_tokens.value_or(n_left), n_left);
  if (worker) {
    out.keys = MakePromptKeys(worker->fingerprint, prepared.namespace_salt, worker->block_tokens, *out.tokens);
  }
  if (request.echo) {
    const auto* text = std::get_if<std::string>(&request.prompts[number]);
    out.echo_text = text != nullptr ? *text : model.tokenizer->Decode(*out.tokens);
  }
  return out;
}

}  // namespace

absl::StatusOr<ServedModel> ServedModel::Load(const std::filesystem::path& dir, std::string name,
                                              tokenizer::ChatDialect dialect) {
  ServedModel model;
  model.dialect = dialect;
  const std::filesystem::path file = dir / "config.json";
  simdjson::dom::parser parser;
  ASSIGN_OR_RETURN(const JsonObject config, ReadObject(file, parser));
  auto vocab_size = PositiveInteger(config, "vocab_size", int64_t{1} << 24);
  if (!vocab_size.ok()) return vocab_size.status();
  auto n_context = PositiveInteger(config, "max_position_embeddings", int64_t{1} << 28);
  if (!n_context.ok()) return n_context.status();
  model.vocab_size = static_cast<uint32_t>(*vocab_size);
  model.n_context_max = static_cast<uint32_t>(*n_context);
  RETURN_IF_ERROR(ReadStopTokens(dir, config, model));
  auto tokenizer = tokenizer::Tokenizer::Load(dir);
  if (!tokenizer.ok()) return tokenizer.status();
  model.tokenizer = *std::move(tokenizer);
  model.checked_forms = std::make_shared<CheckedForms>();
  std::error_code error;
  const auto written = std::filesystem::last_write_time(file, error);
  if (!error) {
    const auto system = std::chrono::file_clock::to_sys(written);
    model.created_unix_s = std::chrono::duration_cast<std::chrono::seconds>(system.time_since_epoch()).count();
  }
  if (name.empty()) name = std::filesystem::weakly_canonical(dir, error).filename().string();
  model.name = name.empty() ? "model" : std::move(name);
  return model;
}

std::variant<PreparedRequest, ApiError> Prepare(const ServedModel& model, const PrepareContext& context,
                                                ApiRequest request) {
  if (!request.model.empty() && request.model != model.name) return ModelNotFound(request.model, model.name);
  const size_t n_context =
      context.worker ? std::min(context.worker->n_context_max, model.n_context_max) : model.n_context_max;
  PreparedRequest prepared;
  if (auto form = OutputFormOf(request)) {
    if (auto error = CheckOutputForm(request, *form, model.checked_forms.get())) return *std::move(error);
    prepared.output_form = std::make_shared<const grammar::OutputSpec>(*std::move(form));
  }
  prepared.tenant = context.tenant.name;
  prepared.namespace_id = context.namespaces->Of(NamespaceName(context.tenant, request.user_id));
  const auto salt = kvstore::NamespaceSalt(context.tenant_secret, prepared.namespace_id);
  prepared.namespace_salt.assign(salt.begin(), salt.end());
  if (request.api == Api::kChat && context.turns != nullptr) {
    prepared.turns = context.turns;
    prepared.n_turns_recalled = context.turns->Recall(prepared.namespace_id, request.messages);
  }
  const size_t n_prompts = request.api == Api::kChat ? 1 : request.prompts.size();
  for (size_t i = 0; i < n_prompts; ++i) {
    auto prompt = PreparePrompt(model, prepared, context.worker, request, i, n_context);
    if (auto* error = std::get_if<ApiError>(&prompt)) return std::move(*error);
    prepared.prompts.push_back(std::get<PreparedPrompt>(std::move(prompt)));
  }
  size_t n_tokens = 0;
  for (const PreparedPrompt& prompt : prepared.prompts) n_tokens += prompt.tokens->size() * request.n;
  const bool is_heavy = request.echo && request.sampling.logprobs && !request.stream;
  if (is_heavy && n_tokens > kSizeLimits.echoed_tokens) {
    return InvalidField("echo",
                        absl::StrCat("with logprobs gives ", n_tokens, " prompt tokens; in one piece it may be ",
                                     kSizeLimits.echoed_tokens, ": send `stream`: true, or fewer prompts"));
  }
  // Up to 16 MiB that nobody needs any more, and an answer may take long.
  request.messages = {};
  request.tools = {};
  request.prompts = {};
  request.suffix = {};
  prepared.request = std::move(request);
  return prepared;
}

std::variant<PreparedRequest, ApiError> PrepareParsed(const ServedModel& model, const PrepareContext& context,
                                                      std::variant<ApiRequest, ApiError> parsed) {
  if (auto* error = std::get_if<ApiError>(&parsed)) return std::move(*error);
  return Prepare(model, context, std::get<ApiRequest>(std::move(parsed)));
}

}  // namespace longshelf::router
