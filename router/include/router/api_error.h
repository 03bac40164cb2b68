#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"

namespace longshelf::router {

// What a client is told. `message` names the field, the limit and what to do; it never holds a path, a host, a process
// id or text of a prompt.
struct ApiError {
  int http_status = 400;
  std::string type = "invalid_request_error";
  std::string code;   // "" becomes null
  std::string param;  // "" becomes null
  std::string message;
  int retry_after_s = 0;  // > 0: sent as Retry-After
};

inline ApiError InvalidField(std::string_view param, std::string_view why) {
  ApiError error;
  error.param = std::string(param);
  error.message = std::string(param) + " " + std::string(why);
  return error;
}

ApiError Unauthenticated();
ApiError ExpiredKey();
ApiError InsufficientScope(std::string_view scope);
ApiError ModelNotFound(std::string_view model, std::string_view served);
ApiError ContextTooLong(size_t n_prompt_tokens_at_least, size_t n_context_max);
// We are full: try again, after so many seconds.
ApiError Overloaded(int retry_after_s = 1);
// The caller has too much of `excess` here himself.
ApiError QuotaExceeded(std::string_view excess, int retry_after_s);
// Nothing that could serve the request is up.
// `last_words`: of the worker that had the request last; may be empty.
ApiError NoWorkers(const std::string& last_words = "");
// It is to blame for deaths of workers (suspicion.h). Nobody's client retries it by itself.
ApiError KillsWorkers(const std::string& last_words = "");
ApiError Draining();
ApiError Starting();
ApiError NoSessionStore();
ApiError SessionOfAnotherModel();
// Of what the dispatcher or a worker reported. Of the messages of workers only a group's last words are passed on, as a
// PublicText.
ApiError FromStatus(const absl::Status& status);

// The payload keys that the dispatcher puts on its own failures, so that FromStatus can tell them apart.
inline constexpr char kErrorCodePayload[] = "longshelf/error-code";
inline constexpr char kRetryAfterPayload[] = "longshelf/retry-after-s";
absl::Status OverloadedStatus(int retry_after_s = 1);
absl::Status QuotaStatus(std::string_view excess, int retry_after_s);
absl::Status NoWorkersStatus(const std::string& last_words = "");
absl::Status KillsWorkersStatus(const std::string& last_words = "");
absl::Status OtherModelStatus();

// Whose form an error takes. OpenAI: {"error":{"message","type","param","code"}}; Anthropic:
// {"type":"error","error":{"type","message"}}, where being overloaded is status 529.
enum class ApiStyle : uint8_t { kOpenAi, kAnthropic };
std::string ErrorBody(const ApiError& error, ApiStyle style = ApiStyle::kOpenAi);
int ErrorStatus(const ApiError& error, ApiStyle style);
// For gRPC: the code that fits the HTTP status.
absl::Status ToStatus(const ApiError& error);

}  // namespace longshelf::router
