#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "chat_fields.h"
#include "json_fields.h"
#include "router/api_request.h"

namespace longshelf::router {
namespace {

ApiError NotJson(std::string_view why) {
  ApiError error;
  error.code = "invalid_json";
  error.message = absl::StrCat("the request body ", absl::string_view(why.data(), why.size()));
  return error;
}

// Fields that would change the answer in a way this server cannot deliver: refused, not ignored.
struct RefusedField {
  std::string_view name;
  Api api;
  std::string_view why;
};
constexpr RefusedField kRefusedFields[] = {
    {"chat_template", Api::kBoth, "is not accepted: the chat encoding is compiled in"},
    {"prompt_embeds", Api::kBoth, "is not accepted: send text or token ids"},
    {"functions", Api::kChat, "is not supported: use tools"},
    {"function_call", Api::kChat, "is not supported: use tools and tool_choice"},
    {"audio", Api::kChat, "is not supported: this model writes text only"},
};

// The prompt of a completion that has none: as if at the beginning of a text.
constexpr std::string_view kNewDocument = "<｜begin▁of▁sentence｜>";

bool Applies(Api row, Api api) { return (static_cast<unsigned>(row) & static_cast<unsigned>(api)) != 0; }

std::optional<ApiError> ReadFlag(const JsonObject& body, std::string_view name, bool& flag) {
  const auto value = Member(body, name);
  if (!value || IsNull(*value)) return std::nullopt;
  const auto read = AsBool(*value);
  if (!read) return InvalidField(name, "must be true or false");
  flag = *read;
  return std::nullopt;
}

std::optional<ApiError> ReadText(const JsonObject& body, std::string_view name, size_t max_bytes, std::string& text) {
  const auto value = Member(body, name);
  if (!value || IsNull(*value)) return std::nullopt;
  const auto read = AsString(*value);
  if (!read || read->size() > max_bytes) {
    return InvalidField(name, absl::StrCat("must be a string of at most ", max_bytes, " bytes"));
  }
  text = std::string(*read);
  return std::nullopt;
}

std::optional<ApiError> ReadTokenIds(const JsonArray& array, std::string_view name, size_t n_max, uint32_t vocab_size,
                                     std::vector<uint32_t>& ids) {
  for (const JsonValue& value : array) {
    if (ids.size() >= n_max) return InvalidField(name, absl::StrCat("may hold at most ", n_max, " token ids"));
    int64_t id = 0;
    if (!value.is_int64() || value.get(id) != simdjson::SUCCESS || id < 0 || id >= int64_t{vocab_size}) {
      return InvalidField(name, absl::StrCat("must hold token ids between 0 and ", vocab_size - 1));
    }
    ids.push_back(static_cast<uint32_t>(id));
  }
  return std::nullopt;
}

std::optional<ApiError> ReadStop(const JsonObject& body, const ParseLimits& limits, ApiRequest& request) {
  const auto add = [&](std::string_view text) -> std::optional<ApiError> {
    if (text.empty() || text.size() > limits.sizes.stop_string_bytes) {
      return InvalidField("stop", absl::StrCat("strings must have 1 to ", limits.sizes.stop_string_bytes, " bytes"));
    }
    if (request.stop.size() >= limits.sizes.stop_strings) {
      return InvalidField("stop", absl::StrCat("may hold at most ", limits.sizes.stop_strings, " strings"));
    }
    request.stop.emplace_back(text);
    return std::nullopt;
  };
  if (const auto stop = Member(body, "stop"); stop && !IsNull(*stop)) {
    if (const auto text = AsString(*stop)) {
      if (auto error = add(*text)) return error;
    } else if (const auto array = AsArray(*stop)) {
      for (const JsonValue& value : *array) {
        const auto entry = AsString(value);
        if (!entry) return InvalidField("stop", "must be a string or a list of strings");
        if (auto error = add(*entry)) return error;
      }
    } else {
      return InvalidField("stop", "must be a string or a list of strings");
    }
  }
  if (const auto ids = Member(body, "stop_token_ids"); ids && !IsNull(*ids)) {
    const auto array = AsArray(*ids);
    if (!array) return InvalidField("stop_token_ids", "must be a list of token ids");
    return ReadTokenIds(*array, "stop_token_ids", limits.sizes.stop_token_ids, limits.vocab_size,
                        request.stop_token_ids);
  }
  return std::nullopt;
}

std::optional<ApiError> ReadTokenPrompt(const JsonArray& array, std::string_view name, const ParseLimits& limits,
                                        ApiRequest& request) {
  std::vector<uint32_t> ids;
  const auto n_max = static_cast<size_t>(LimitOf(NumericField::kMaxTokens).max);
  if (auto error = ReadTokenIds(array, name, n_max, limits.vocab_size, ids)) return error;
  request.prompts.emplace_back(std::move(ids));
  return std::nullopt;
}

// A string, a list of token ids, or a list of either: one prompt each.
std::optional<ApiError> ReadPrompts(const JsonObject& body, const ParseLimits& limits, ApiRequest& request) {
  constexpr std::string_view kForms =
      "must be a string, a list of token ids, or a list of prompts of one of these kinds";
  const auto value = Member(body, "prompt");
  if (!value) return InvalidField("prompt", "is required: a string or a list of token ids");
  if (IsNull(*value)) {
    request.prompts.emplace_back(std::string(kNewDocument));
    return std::nullopt;
  }
  if (const auto text = AsString(*value)) {
    request.prompts.emplace_back(std::string(*text));
    return std::nullopt;
  }
  const auto array = AsArray(*value);
  if (!array) return InvalidField("prompt", kForms);
  const bool has_prompts = array->size() > 0 && (array->at(0).is_string() || array->at(0).is_array());
  if (!has_prompts) return ReadTokenPrompt(*array, "prompt", limits, request);
  if (array->size() > limits.sizes.prompts) {
    return InvalidField("prompt", absl::StrCat("may hold at most ", limits.sizes.prompts, " prompts"));
  }
  for (const JsonValue& entry : *array) {
    const std::string here = absl::StrCat("prompt[", request.prompts.size(), "]");
    if (const auto text = AsString(entry)) {
      request.prompts.emplace_back(std::string(*text));
    } else if (const auto ids = AsArray(entry)) {
      if (auto error = ReadTokenPrompt(*ids, here, limits, request)) return error;
    } else {
      return InvalidField(here, "must be a string or a list of token ids");
    }
  }
  return std::nullopt;
}

std::optional<ApiError> ReadUser(const JsonObject& body, const SizeLimits& limits, ApiRequest& request) {
  std::string user;  // accepted for compatibility; it isolates nothing
  if (auto error = ReadText(body, "user", limits.user_bytes, user)) return error;
  if (auto error = ReadText(body, "user_id", limits.user_id_bytes, request.user_id)) return error;
  return CheckUserId(request.user_id);
}

std::optional<ApiError> ReadParkTerms(const JsonObject& object, std::string_view where, ParkTerms& terms) {
  const auto in_place = [where](ApiError error) {
    if (!where.empty()) error.param = std::string(where) + "." + error.param;
    return error;
  };
  const auto retention = Member(object, "retention_s");
  const NumericLimit& limit = LimitOf(NumericField::kRetention);
  if (!retention) return in_place(InvalidField("retention_s", "is required: seconds to keep the session for"));
  NumberFields numbers;
  if (auto error = numbers.Read(limit, *retention)) return in_place(*std::move(error));
  terms.retention = absl::Seconds(numbers[NumericField::kRetention]->integer);
  std::string durability = "memory";
  if (auto error = ReadText(object, "durability", 16, durability)) return in_place(*std::move(error));
  for (const Durability each : {Durability::kMemory, Durability::kDisk, Durability::kDiskAll}) {
    if (durability != DurabilityName(each)) continue;
    terms.durability = each;
    return std::nullopt;
  }
  return in_place(InvalidField("durability", "must be memory, disk or disk_all"));
}

// "session": "ID", or {"id": "ID", "retention_s": 3600, "durability": "disk"} to park it when the answer ends.
std::optional<ApiError> ReadSession(const JsonObject& body, ApiRequest& request) {
  const auto value = Member(body, "session");
  if (!value || IsNull(*value)) return std::nullopt;
  const auto object = AsObject(*value);
  const auto id = object ? Member(*object, "id") : value;
  const auto text = id ? AsString(*id) : std::nullopt;
  if (!text) return InvalidField("session", "must be a name, or an object with an `id`");
  if (auto error = CheckSessionId(*text)) return error;
  request.session = std::string(*text);
  const auto is_given = [&](std::string_view name) {
    const auto field = Member(*object, name);
    return field && !IsNull(*field);
  };
  if (!object || (!is_given("retention_s") && !is_given("durability"))) return std::nullopt;
  return ReadParkTerms(*object, "session", request.park.emplace());
}

std::optional<ApiError> ReadServiceTier(const JsonObject& body, ApiRequest& request) {
  const auto value = Member(body, "service_tier");
  if (!value || IsNull(*value)) return std::nullopt;
  const std::string_view name = AsString(*value).value_or("");
  if (name == "flex") {
    request.tier = ServiceTier::kFlex;
  } else if (name == "priority") {
    request.tier = ServiceTier::kPriority;
  } else if (name != "auto" && name != "default") {
    return InvalidField("service_tier", "must be auto, default, flex or priority");
  }
  return std::nullopt;
}

std::optional<ApiError> ReadStreamFields(const JsonObject& body, ApiRequest& request) {
  if (auto error = ReadFlag(body, "stream", request.stream)) return error;
  const auto options = Member(body, "stream_options");
  if (!options || IsNull(*options)) return std::nullopt;
  const auto object = AsObject(*options);
  if (!object) return InvalidField("stream_options", "must be an object");
  if (!request.stream) return InvalidField("stream_options", "is for requests with `stream`: true only");
  if (auto error = ReadFlag(*object, "include_usage", request.include_usage)) {
    error->param = "stream_options.include_usage";
    return error;
  }
  return std::nullopt;
}

// {"TOKEN ID": bias, ...}
std::optional<ApiError> ReadLogitBias(const JsonObject& body, const ParseLimits& limits, ApiRequest& request) {
  const auto value = Member(body, "logit_bias");
  if (!value || IsNull(*value)) return std::nullopt;
  const auto object = AsObject(*value);
  if (!object) return InvalidField("logit_bias", "must be an object of token ids and biases");
  constexpr double kBiasMax = 100;
  std::vector<TokenBias>& biases = request.sampling.logit_bias;
  for (const auto& [key, number] : *object) {
    if (biases.size() >= limits.sizes.logit_biases) {
      return InvalidField("logit_bias", absl::StrCat("may hold at most ", limits.sizes.logit_biases, " entries"));
    }
    const bool is_number =
        !key.empty() && std::all_of(key.begin(), key.end(), [](unsigned char c) { return absl::ascii_isdigit(c); });
    uint32_t token = 0;
    if (!is_number || !absl::SimpleAtoi(absl::string_view(key.data(), key.size()), &token) ||
        token >= limits.vocab_size) {
      return InvalidField("logit_bias",
                          absl::StrCat("must have token ids between 0 and ", limits.vocab_size - 1, " as its keys"));
    }
    double bias = 0;
    if (!number.is_number() || number.get(bias) != simdjson::SUCCESS || !(std::abs(bias) <= kBiasMax)) {
      return InvalidField(absl::StrCat("logit_bias.", token), "must be a number between -100 and 100");
    }
    biases.push_back({token, static_cast<float>(bias)});
  }
  std::sort(biases.begin(), biases.end(), [](const TokenBias& a, const TokenBias& b) { return a.token < b.token; });
  const auto twice = std::adjacent_find(biases.begin(), biases.end(),
                                        [](const TokenBias& a, const TokenBias& b) { return a.token == b.token; });
  if (twice == biases.end()) return std::nullopt;
  return InvalidField(absl::StrCat("logit_bias.", twice->token), "is given twice");
}

// `max_tokens`: 0 of a request that is echoed: only its prompt is wanted.
bool WantsNoOutput(const JsonObject& body, const NumericLimit& limit, const JsonValue& value, Api api) {
  if (api != Api::kCompletions || limit.field != NumericField::kMaxTokens || AsInteger(value) != int64_t{0}) {
    return false;
  }
  const auto echo = Member(body, "echo");
  return echo && AsBool(*echo).value_or(false);
}

std::optional<ApiError> ReadNumbers(const JsonObject& body, ApiRequest& request, NumberFields& numbers) {
  for (const NumericLimit& limit : NumericLimits()) {
    if (!AppliesTo(limit, request.api)) continue;
    if (const auto value = Member(body, limit.name)) {
      if (WantsNoOutput(body, limit, *value, request.api)) {
        request.max_tokens = 0;
        continue;
      }
      if (auto error = numbers.Read(limit, *value)) return error;
    }
  }
  return std::nullopt;
}

std::optional<ApiError> ApplyNumbers(const NumberFields& numbers, ApiRequest& request) {
  const auto integer = [&](NumericField field) -> std::optional<int64_t> {
    if (!numbers[field]) return std::nullopt;
    return numbers[field]->integer;
  };
  const auto real = [&](NumericField field, double& target) {
    if (numbers[field]) target = numbers[field]->real;
  };
  if (const auto n = integer(NumericField::kMaxTokens)) request.max_tokens = static_cast<uint32_t>(*n);
  if (const auto n = integer(NumericField::kMaxCompletionTokens)) request.max_tokens = static_cast<uint32_t>(*n);
  if (const auto n = integer(NumericField::kN)) request.n = static_cast<uint32_t>(*n);
  if (const auto n = integer(NumericField::kBestOf); n) {
    if (*n < int64_t{request.n}) return InvalidField("best_of", "must be at least n");
    if (*n > int64_t{request.n} && request.stream) {
      return InvalidField("best_of", "above n cannot be streamed: which are the best is known at the end");
    }
    request.best_of = static_cast<uint32_t>(*n);
  }
  Sampling& sampling = request.sampling;
  real(NumericField::kTemperature, sampling.temperature);
  real(NumericField::kTopP, sampling.top_p);
  real(NumericField::kMinP, sampling.min_p);
  real(NumericField::kPresencePenalty, sampling.presence_penalty);
  real(NumericField::kFrequencyPenalty, sampling.frequency_penalty);
  if (const auto k = integer(NumericField::kTopK)) sampling.top_k = static_cast<uint32_t>(std::max<int64_t>(0, *k));
  request.seed = integer(NumericField::kSeed);
  if (const auto n = integer(NumericField::kTopLogprobs)) {
    if (*n > 0 && !sampling.logprobs) return InvalidField("top_logprobs", "is for requests with `logprobs`: true only");
    sampling.n_top_logprobs = static_cast<uint32_t>(*n);
  }
  if (const auto n = integer(NumericField::kLogprobs)) {
    sampling.logprobs = true;
    sampling.n_top_logprobs = static_cast<uint32_t>(*n);
  }
  return std::nullopt;
}

std::optional<ApiError> ReadChat(const JsonObject& body, const ParseLimits& limits, ApiRequest& request) {
  const auto messages = Member(body, "messages");
  if (!messages) return InvalidField("messages", "is required: a list of messages");
  if (auto error = ReadMessages(*messages, limits.sizes, request)) return error;
  if (auto error = ReadTools(Member(body, "tools"), Member(body, "tool_choice"), limits.sizes, request)) return error;
  if (const auto format = Member(body, "response_format")) {
    if (auto error = ReadResponseFormat(*format, request)) return error;
  }
  bool parallel = true;
  if (auto error = ReadFlag(body, "parallel_tool_calls", parallel)) return error;
  request.one_tool_call = request.one_tool_call || !parallel;
  if (auto error = ReadFlag(body, "logprobs", request.sampling.logprobs)) return error;
  return ReadThinking(body, request);
}

std::optional<ApiError> ReadCompletion(const JsonObject& body, const ParseLimits& limits, ApiRequest& request) {
  if (auto error = ReadFlag(body, "echo", request.echo)) return error;
  if (auto error = ReadText(body, "suffix", limits.sizes.body_bytes, request.suffix)) return error;
  if (auto error = ReadPrompts(body, limits, request)) return error;
  const auto is_text = [](const PromptInput& prompt) { return std::holds_alternative<std::string>(prompt); };
  if (!request.suffix.empty() && !std::all_of(request.prompts.begin(), request.prompts.end(), is_text)) {
    return InvalidField("suffix", "is for prompts that are text, not token ids");
  }
  if (!request.echo || (request.suffix.empty() && request.session.empty())) return std::nullopt;
  if (const auto logprobs = Member(body, "logprobs"); logprobs && !IsNull(*logprobs)) {
    return InvalidField("echo", absl::StrCat("cannot be combined with logprobs and ",
                                             request.suffix.empty() ? "a session" : "a suffix"));
  }
  return std::nullopt;
}

// The object lives as long as its parser.
std::variant<JsonObject, ApiError> ParseObject(simdjson::dom::parser& parser, std::string_view body,
                                               const ParseLimits& limits) {
  if (body.empty()) return NotJson("is empty: send a JSON object");
  if (parser.allocate(body.size(), limits.sizes.json_depth) != simdjson::SUCCESS) return NotJson("is too large");
  simdjson::dom::element root;
  const simdjson::padded_string padded(body);
  if (const auto code = parser.parse(padded).get(root); code != simdjson::SUCCESS) {
    if (code == simdjson::DEPTH_ERROR) {
      return NotJson(absl::StrCat("nests deeper than ", limits.sizes.json_depth, " levels"));
    }
    if (code == simdjson::NUMBER_ERROR) return NotJson("holds a number that is malformed or out of range");
    if (code == simdjson::UTF8_ERROR) return NotJson("is not valid UTF-8");
    return NotJson("is not valid JSON");
  }
  const auto object = AsObject(root);
  if (!object) return NotJson("must be a JSON object");
  return *object;
}

std::optional<ApiError> ReadBody(const JsonObject& body, const ParseLimits& limits, ApiRequest& request) {
  std::set<std::string_view> seen;
  for (const auto& [name, value] : body) {
    if (!seen.insert(name).second) return InvalidField(name.substr(0, 64), "is given twice");
    for (const RefusedField& refused : kRefusedFields) {
      if (name == refused.name && Applies(refused.api, request.api) && !IsNull(value)) {
        return InvalidField(name, refused.why);
      }
    }
  }
  if (auto error = ReadText(body, "model", limits.sizes.model_name_bytes, request.model)) return error;
  NumberFields numbers;
  if (auto error = ReadNumbers(body, request, numbers)) return error;
  if (auto error = ReadStreamFields(body, request)) return error;
  if (auto error = ReadStop(body, limits, request)) return error;
  if (auto error = ReadUser(body, limits.sizes, request)) return error;
  if (auto error = ReadServiceTier(body, request)) return error;
  if (auto error = ReadLogitBias(body, limits, request)) return error;
  if (auto error = ReadFlag(body, "cache_report", request.cache_report)) return error;
  if (auto error = ReadSession(body, request)) return error;
  const bool chat = request.api == Api::kChat;
  if (auto error = chat ? ReadChat(body, limits, request) : ReadCompletion(body, limits, request)) return error;
  return ApplyNumbers(numbers, request);
}

}  // namespace

std::string_view DurabilityName(Durability durability) {
  switch (durability) {
    case Durability::kDisk:
      return "disk";
    case Durability::kDiskAll:
      return "disk_all";
    case Durability::kMemory:
      break;
  }
  return "memory";
}

std::optional<ApiError> CheckUserId(std::string_view id) {
  const auto is_allowed = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
  };
  if (id.size() > kSizeLimits.user_id_bytes) {
    return InvalidField("user_id", absl::StrCat("must have at most ", kSizeLimits.user_id_bytes, " characters"));
  }
  if (std::all_of(id.begin(), id.end(), is_allowed)) return std::nullopt;
  return InvalidField("user_id", "may hold letters, digits, '-' and '_' only");
}

std::optional<ApiError> CheckSessionId(std::string_view id) {
  const auto is_allowed = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
           std::string_view("-_.:").find(c) != std::string_view::npos;
  };
  if (!id.empty() && id.size() <= kSizeLimits.session_id_bytes && std::all_of(id.begin(), id.end(), is_allowed)) {
    return std::nullopt;
  }
  return InvalidField(
      "session", absl::StrCat("must be 1 to ", kSizeLimits.session_id_bytes, " letters, digits, '-', '_', '.' or ':'"));
}

std::variant<ParkTerms, ApiError> ParseParkBody(std::string_view body, const ParseLimits& limits) {
  simdjson::dom::parser parser;
  const std::variant<JsonObject, ApiError> object = ParseObject(parser, body, limits);
  if (const auto* error = std::get_if<ApiError>(&object)) return *error;
  ParkTerms terms;
  if (auto error = ReadParkTerms(std::get<JsonObject>(object), "", terms)) return *std::move(error);
  return terms;
}

std::variant<std::optional<bool>, ApiError> ParseResumeBody(std::string_view body, const ParseLimits& limits) {
  if (body.empty()) return std::optional<bool>();
  simdjson::dom::parser parser;
  const std::variant<JsonObject, ApiError> object = ParseObject(parser, body, limits);
  if (const auto* error = std::get_if<ApiError>(&object)) return *error;
  bool stream = false;
  if (auto error = ReadFlag(std::get<JsonObject>(object), "stream", stream)) return *std::move(error);
  return Member(std::get<JsonObject>(object), "stream") ? std::optional<bool>(stream) : std::nullopt;
}

std::variant<ApiRequest, ApiError> ParseRequestBody(Api api, std::string_view body, const ParseLimits& limits) {
  simdjson::dom::parser parser;
  const std::variant<JsonObject, ApiError> object = ParseObject(parser, body, limits);
  if (const auto* error = std::get_if<ApiError>(&object)) return *error;
  ApiRequest request;
  request.api = api;
  if (auto error = ReadBody(std::get<JsonObject>(object), limits, request)) return *std::move(error);
  if (!request.session.empty() && request.n > 1) {
    return InvalidField("n", "must be 1 with a session: it has one answer at a time");
  }
  if (!request.session.empty() && request.best_of > 1) {
    return InvalidField("best_of", "must be 1 with a session: it has one answer at a time");
  }
  if (!request.session.empty() && request.prompts.size() > 1) {
    return InvalidField("prompt", "must be one with a session: it has one answer at a time");
  }
  if (request.prompts.size() * request.n_candidates() > limits.sizes.choices) {
    return InvalidField(request.best_of > request.n ? "best_of" : "n",
                        absl::StrCat("times the number of prompts must be at most ", limits.sizes.choices));
  }
  if (!request.session.empty()) request.body = std::make_shared<const std::string>(body);
  return request;
}

std::optional<ApiError> CheckNumber(NumericField field, double value) {
  const NumericLimit& limit = LimitOf(field);
  if (std::isfinite(value) && value >= static_cast<double>(limit.min) && value <= static_cast<double>(limit.max)) {
    return std::nullopt;
  }
  return InvalidField(limit.name, RangeText(limit));
}

}  // namespace longshelf::router
