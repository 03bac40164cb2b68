#include "session_errors.h"

#include <string>
#include <utility>

#include "kvstore/namespace_id.h"

namespace longshelf::router {
namespace {

ApiError OfSession(int http_status, std::string code, std::string message) {
  ApiError error;
  error.http_status = http_status;
  error.code = std::move(code);
  error.param = "session";
  error.message = std::move(message);
  return error;
}

}  // namespace

ApiError NoSuchSession() {
  return OfSession(404, "session_not_found",
                   "there is no such session: it was never parked, its retention is over, or it was deleted");
}

ApiError SessionIsRunning() {
  return OfSession(409, "session_running", "the answer of this session is being made: park it to end it where it is");
}

ApiError SessionIsComplete() {
  return OfSession(409, "session_complete",
                   "the answer of this session is complete: send the conversation with its next message");
}

ApiError SessionIsReplaced() {
  return OfSession(409, "session_replaced",
                   "another answer of this session was parked meanwhile, and is the session now: this one was not");
}

ApiError SessionStoreError(const absl::Status& status) {
  // The tenant's cache, and its sessions with it, was deleted at another router a moment ago.
  if (absl::IsNotFound(status) || kvstore::IsNamespaceDeleted(status)) return NoSuchSession();
  if (absl::IsAborted(status)) return SessionIsReplaced();
  ApiError error;
  error.type = "server_error";
  if (absl::IsResourceExhausted(status) || absl::IsFailedPrecondition(status)) {
    error.http_status = 507;
    error.code = "session_store_full";
    error.message =
        "the KV store cannot promise to keep this: it has no room for it, or no disk where `durability` wants one";
  } else if (absl::IsDataLoss(status)) {
    error.http_status = 500;
    error.code = "session_damaged";
    error.message = "the parked session is damaged or of another version; send the conversation again";
  } else if (absl::IsInvalidArgument(status)) {
    error.http_status = 413;
    error.type = "invalid_request_error";
    error.param = "session";
    error.message = "the session is too large to be kept: its request and its tokens may have 64 MiB";
  } else {
    error.http_status = 503;
    error.code = "session_store_unavailable";
    error.message = "the KV store does not answer: retry after the time in Retry-After";
    error.retry_after_s = 1;
  }
  return error;
}

}  // namespace longshelf::router
