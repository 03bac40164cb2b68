#include "router/served_model.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "json_fields.h"
#include "kvstore/keys.h"
#include "output_form.h"
#include "router/effort.h"
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

absl::Status ReadStopTokens(const JsonObject& config, ServedModel& model) {
  const auto add = [&](const JsonValue& value) {
    const std::optional<int64_t> id = AsInteger(value);
    if (!id || *id < 0 || *id >= int64_t{model.vocab_size}) return false;
    model.stop_token_ids.push_back(static_cast<uint32_t>(*id));
    return true;
  };
  const auto eos = Member(config, "eos_token_id");
  bool ok = eos.has_value();
  if (ok) {
    if (const auto array = AsArray(*eos)) {
      for (const JsonValue& value : *array) ok = ok && add(value);
      ok = ok && !model.stop_token_ids.empty();
    } else {
      ok = add(*eos);
    }
  }
  if (!ok) return absl::InvalidArgumentError("config.json: eos_token_id must be a token id or a list of them");
  return absl::OkStatus();
}

ApiError PromptError(const absl::Status& status, std::string_view param, size_t n_context_max) {
  if (status.code() == absl::StatusCode::kResourceExhausted) {
    ApiError error = ContextTooLong(n_context_max, n_context_max);
    error.param = std::string(param);
    return error;
  }
  return InvalidField(param, absl::StrCat("cannot be encoded: ", status.message()));
}

// Prompt text of a chat request, with the effort the served revision knows.
absl::StatusOr<std::string> RenderPrompt(const ServedModel& model, const ApiRequest& request) {
  tokenizer::ChatOptions options;
  options.dialect = model.dialect;
  options.thinking_mode = request.thinking_mode;
  if (request.thinking_mode == tokenizer::ThinkingMode::kThinking) {
    auto effort = MapEffort(request.reasoning_effort, model.dialect);
    if (!effort.ok()) return effort.status();
    options.reasoning_effort = *std::move(effort);
  }
  return tokenizer::RenderChat(request.messages, options);
}

std::variant<std::vector<uint32_t>, ApiError> PromptTokens(const ServedModel& model, const ApiRequest& request,
                                                           size_t n_context_max) {
  if (request.api == Api::kChat) {
    auto text = RenderPrompt(model, request);
    if (!text.ok()) return PromptError(text.status(), "messages", n_context_max);
    auto tokens = model.tokenizer->Encode(*text, n_context_max);
    if (!tokens.ok()) return PromptError(tokens.status(), "messages", n_context_max);
    return *std::move(tokens);
  }
  if (const auto* ids = std::get_if<std::vector<uint32_t>>(&request.prompt)) return *ids;
  auto tokens = model.tokenizer->Encode(std::get<std::string>(request.prompt), n_context_max);
  if (!tokens.ok()) return PromptError(tokens.status(), "prompt", n_context_max);
  return *std::move(tokens);
}

}  // namespace

absl::StatusOr<ServedModel> ServedModel::Load(const std::filesystem::path& dir, std::string name,
                                              tokenizer::ChatDialect dialect) {
  ServedModel model;
  model.dialect = dialect;
  const std::filesystem::path file = dir / "config.json";
  const absl::StatusOr<std::string> text = tokenizer::ReadJsonFile(file, kMaxConfigBytes);
  if (!text.ok()) return Annotate(text.status(), file.string());
  simdjson::dom::parser parser;
  JsonValue root;
  JsonObject config;
  if (parser.parse(*text).get(root) != simdjson::SUCCESS || root.get(config) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError(absl::StrCat(file.string(), " is not a JSON object"));
  }
  auto vocab_size = PositiveInteger(config, "vocab_size", int64_t{1} << 24);
  if (!vocab_size.ok()) return vocab_size.status();
  auto n_context = PositiveInteger(config, "max_position_embeddings", int64_t{1} << 28);
  if (!n_context.ok()) return n_context.status();
  model.vocab_size = static_cast<uint32_t>(*vocab_size);
  model.n_context_max = static_cast<uint32_t>(*n_context);
  if (const absl::Status status = ReadStopTokens(config, model); !status.ok()) return status;
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
  // What was begun goes on from the very tokens it was begun with.
  std::variant<std::vector<uint32_t>, ApiError> tokens =
      request.begun != nullptr ? std::variant<std::vector<uint32_t>, ApiError>(request.begun->prompt)
                               : PromptTokens(model, request, n_context);
  if (auto* error = std::get_if<ApiError>(&tokens)) return std::move(*error);
  auto prompt = std::make_shared<const std::vector<uint32_t>>(std::move(std::get<std::vector<uint32_t>>(tokens)));
  const std::string_view param = request.api == Api::kChat ? "messages" : "prompt";
  if (prompt->empty()) return InvalidField(param, "must hold at least one token");
  if (prompt->size() >= n_context) {
    ApiError error = ContextTooLong(prompt->size(), n_context);
    error.param = std::string(param);
    return error;
  }
  const auto n_left = static_cast<uint32_t>(n_context - prompt->size());
  if (request.begun != nullptr && request.begun->output.size() > n_left) {
    ApiError error = ContextTooLong(prompt->size() + request.begun->output.size(), n_context);
    error.param = "session";
    return error;
  }
  prepared.max_tokens = std::min(request.max_tokens.value_or(n_left), n_left);
  prepared.tenant = context.tenant.name;
  prepared.namespace_id = context.namespaces->Of(NamespaceName(context.tenant, request.user_id));
  const auto salt = kvstore::NamespaceSalt(context.tenant_secret, prepared.namespace_id);
  prepared.namespace_salt.assign(salt.begin(), salt.end());
  if (context.worker) {
    prepared.keys =
        MakePromptKeys(context.worker->fingerprint, prepared.namespace_salt, context.worker->block_tokens, *prompt);
  }
  if (request.echo) {
    const auto* text = std::get_if<std::string>(&request.prompt);
    prepared.echo_text = text != nullptr ? *text : model.tokenizer->Decode(*prompt);
  }
  prepared.prompt = std::move(prompt);
  // Up to 16 MiB that nobody needs any more, and an answer may take long.
  request.messages = {};
  request.tools = {};
  request.prompt = {};
  prepared.request = std::move(request);
  return prepared;
}

}  // namespace longshelf::router
