#include "api_forms.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/ids.h"
#include "router/api_json.h"

namespace longshelf::router {

BodyParser ParserFor(const Route& route, const RequestCore& core) {
  const Api api = route.kind == Route::Kind::kChat ? Api::kChat : Api::kCompletions;
  return [api, limits = core.parse_limits()](std::string_view body) { return ParseRequestBody(api, body, limits); };
}

std::unique_ptr<AnswerWriter> MakeAnswerWriter(RequestCore& core, const PreparedRequest& prepared) {
  const ApiRequest& request = prepared.request;
  const bool is_chat = request.api == Api::kChat;
  AnswerHead head;
  head.api = request.api;
  head.id = absl::StrCat(is_chat ? "chatcmpl-" : "cmpl-", RandomId());
  head.created_unix_s = absl::ToUnixSeconds(core.clock().WallNow());
  head.model = core.model().name;
  head.thinking =
      is_chat && request.thinking_mode == tokenizer::ThinkingMode::kThinking && !request.continues_assistant;
  head.logprobs = request.sampling.logprobs;
  if (request.stream) {
    return std::make_unique<StreamAnswer>(core.model(), std::move(head), request.n, request.include_usage,
                                          prepared.echo_text);
  }
  return std::make_unique<WholeAnswer>(core.model(), std::move(head), request.n, prepared.echo_text);
}

HttpReply ErrorReply(const ApiError& error) {
  HttpReply reply;
  reply.status = error.http_status;
  reply.body = ErrorBody(error);
  if (error.retry_after_s > 0) reply.headers.emplace_back("Retry-After", absl::StrCat(error.retry_after_s));
  if (error.http_status == 401) reply.headers.emplace_back("WWW-Authenticate", "Bearer");
  return reply;
}

void AddRequestId(const std::string& request_id, HttpReply& reply) {
  reply.headers.emplace_back("x-request-id", request_id);
}

}  // namespace longshelf::router
