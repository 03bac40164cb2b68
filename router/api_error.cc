#include "router/api_error.h"

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/public_text.h"
#include "json_dump.h"
#include "router/worker_link.h"

namespace longshelf::router {
namespace {

constexpr int kRetryAfterSeconds = 1;

ApiError Unavailable(std::string_view code, std::string_view message) {
  ApiError error;
  error.http_status = 503;
  error.type = "server_error";
  error.code = std::string(code);
  error.message = std::string(message);
  error.retry_after_s = kRetryAfterSeconds;
  return error;
}

std::string WithWords(const char* before, const std::string& words) {
  const std::string text = PublicText(words);
  return text.empty() ? "" : before + text;
}

int RetryAfterOf(const absl::Status& status) {
  int seconds = kRetryAfterSeconds;
  const auto payload = status.GetPayload(kRetryAfterPayload);
  return payload && absl::SimpleAtoi(std::string(*payload), &seconds) ? seconds : kRetryAfterSeconds;
}

absl::Status StatusWithCode(absl::StatusCode code, std::string_view message, std::string_view error_code) {
  absl::Status status(code, absl::string_view(message.data(), message.size()));
  status.SetPayload(kErrorCodePayload, absl::Cord(absl::string_view(error_code.data(), error_code.size())));
  return status;
}

constexpr int kAnthropicOverloaded = 529;

std::string_view AnthropicType(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case kAnthropicOverloaded:
      return "overloaded_error";
    default:
      return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

}  // namespace

ApiError Unauthenticated() {
  ApiError error;
  error.http_status = 401;
  error.type = "authentication_error";
  error.code = "invalid_api_key";
  error.message = "a valid API key is needed: send it as `Authorization: Bearer KEY`";
  return error;
}

ApiError ExpiredKey() {
  ApiError error = Unauthenticated();
  error.code = "expired_api_key";
  error.message = "this API key has expired: ask for a new one";
  return error;
}

ApiError InsufficientScope(std::string_view scope) {
  ApiError error;
  error.http_status = 403;
  error.type = "permission_error";
  error.code = "insufficient_scope";
  error.message = absl::StrCat("this API key lacks the scope `", absl::string_view(scope.data(), scope.size()),
                               "`, which this needs: use another key, or ask for it");
  return error;
}

ApiError ModelNotFound(std::string_view model, std::string_view served) {
  ApiError error;
  error.http_status = 404;
  error.code = "model_not_found";
  error.param = "model";
  error.message =
      absl::StrCat("model `", absl::string_view(model.data(), model.size()), "` is not served here; this server has `",
                   absl::string_view(served.data(), served.size()), "`");
  return error;
}

ApiError ContextTooLong(size_t n_prompt_tokens_at_least, size_t n_context_max) {
  ApiError error;
  error.code = "context_length_exceeded";
  error.param = "messages";
  error.message =
      absl::StrCat("the prompt has at least ", n_prompt_tokens_at_least, " tokens; the context holds ", n_context_max,
                   " tokens of prompt and output, so at most ", n_context_max - 1, " of prompt: shorten the prompt");
  return error;
}

ApiError Overloaded(int retry_after_s) {
  ApiError error = Unavailable("overloaded", "the server is at capacity: retry after the time in Retry-After");
  error.retry_after_s = retry_after_s;
  return error;
}
ApiError QuotaExceeded(std::string_view excess, int retry_after_s) {
  ApiError error;
  error.http_status = 429;
  error.type = "rate_limit_error";
  error.code = "rate_limit_exceeded";
  error.message = absl::StrCat("you have as many ", absl::string_view(excess.data(), excess.size()),
                               " here as you may: retry after the time in Retry-After");
  error.retry_after_s = retry_after_s;
  return error;
}
ApiError NoWorkers(const std::string& last_words) {
  return Unavailable("no_workers",
                     absl::StrCat("no worker is ready to serve this model: retry after the time in Retry-After",
                                  WithWords("; the one that had the request failed: ", last_words)));
}
ApiError KillsWorkers(const std::string& last_words) {
  ApiError error;
  error.http_status = 422;
  error.type = "request_kills_workers_error";
  error.code = "request_kills_workers";
  error.message =
      absl::StrCat("workers ended while they computed this request, one after the other, so no other gets it",
                   WithWords("; the last one said: ", last_words));
  return error;
}
ApiError Starting() {
  return Unavailable("starting",
                     "this server is still reading which caches were deleted: retry after the time in "
                     "Retry-After");
}
ApiError Draining() { return Unavailable("draining", "this server is shutting down: retry, another one will answer"); }

ApiError SessionOfAnotherModel() {
  ApiError error;
  error.http_status = 409;
  error.code = "session_of_another_model";
  error.param = "session";
  error.message = "this session was answered by other weights than those served now: it cannot go on to the bit";
  return error;
}

ApiError NoSessionStore() {
  ApiError error;
  error.http_status = 501;
  error.type = "server_error";
  error.code = "no_session_store";
  error.message = "this router keeps no sessions and deletes no cache: it runs without --kvstore";
  return error;
}

absl::Status OverloadedStatus(int retry_after_s) {
  absl::Status status = StatusWithCode(absl::StatusCode::kResourceExhausted, "at capacity", "overloaded");
  status.SetPayload(kRetryAfterPayload, absl::Cord(absl::StrCat(retry_after_s)));
  return status;
}
absl::Status QuotaStatus(std::string_view excess, int retry_after_s) {
  absl::Status status = StatusWithCode(absl::StatusCode::kResourceExhausted, excess, "rate_limit_exceeded");
  status.SetPayload(kRetryAfterPayload, absl::Cord(absl::StrCat(retry_after_s)));
  return status;
}
absl::Status NoWorkersStatus(const std::string& last_words) {
  return StatusWithCode(absl::StatusCode::kUnavailable, last_words, "no_workers");
}
absl::Status KillsWorkersStatus(const std::string& last_words) {
  return StatusWithCode(absl::StatusCode::kFailedPrecondition, last_words, "request_kills_workers");
}
absl::Status OtherModelStatus() {
  return StatusWithCode(absl::StatusCode::kFailedPrecondition, "begun by another model", "session_of_another_model");
}

ApiError FromStatus(const absl::Status& status) {
  if (const auto code = status.GetPayload(kErrorCodePayload)) {
    if (*code == "session_of_another_model") return SessionOfAnotherModel();
    if (*code == "request_kills_workers") return KillsWorkers(std::string(status.message()));
    if (*code == "rate_limit_exceeded") return QuotaExceeded(std::string(status.message()), RetryAfterOf(status));
    return *code == "overloaded" ? Overloaded(RetryAfterOf(status)) : NoWorkers(std::string(status.message()));
  }
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition: {
      ApiError error;
      error.code = "refused_by_worker";
      error.message = "the worker refused the request's tokens or sampling parameters";
      return error;
    }
    case absl::StatusCode::kResourceExhausted:
      return Overloaded();
    case absl::StatusCode::kUnavailable:
      return NoWorkers(IsGroupFailure(status) ? std::string(status.message()) : "");
    default: {
      ApiError error;
      error.http_status = 500;
      error.type = "server_error";
      error.code = "internal_error";
      error.message = "the request failed inside the server; it is safe to retry";
      return error;
    }
  }
}

int ErrorStatus(const ApiError& error, ApiStyle style) {
  const bool is_overloaded = style == ApiStyle::kAnthropic && error.http_status == 503 && error.code == "overloaded";
  return is_overloaded ? kAnthropicOverloaded : error.http_status;
}

std::string ErrorBody(const ApiError& error, ApiStyle style) {
  using Json = nlohmann::ordered_json;
  if (style == ApiStyle::kAnthropic) {
    return DumpJson({{"type", "error"},
                     {"error", {{"type", AnthropicType(ErrorStatus(error, style))}, {"message", error.message}}}});
  }
  const auto or_null = [](const std::string& s) { return s.empty() ? Json() : Json(s); };
  return DumpJson({{"error",
                    {{"message", error.message},
                     {"type", error.type},
                     {"param", or_null(error.param)},
                     {"code", or_null(error.code)}}}});
}

absl::Status ToStatus(const ApiError& error) {
  switch (error.http_status) {
    case 400:
      return absl::InvalidArgumentError(error.message);
    case 401:
      return absl::UnauthenticatedError(error.message);
    case 403:
      return absl::PermissionDeniedError(error.message);
    case 404:
      return absl::NotFoundError(error.message);
    case 413:
    case 429:
      return absl::ResourceExhaustedError(error.message);
    case 409:
    case 422:
    case 501:
      return absl::FailedPreconditionError(error.message);
    case 507:
      return absl::ResourceExhaustedError(error.message);
    case 503:
      return error.code == "overloaded" ? absl::ResourceExhaustedError(error.message)
                                        : absl::UnavailableError(error.message);
    default:
      return absl::InternalError(error.message);
  }
}

}  // namespace longshelf::router
