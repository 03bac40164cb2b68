#include "api_forms.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "anthropic/messages_answer.h"
#include "anthropic/messages_request.h"
#include "common/ids.h"
#include "responses/responses_answer.h"
#include "responses/responses_request.h"
#include "router/api_json.h"

namespace longshelf::router {
namespace {

std::unique_ptr<AnswerWriter> MakeMessagesAnswer(RequestCore& core, const PreparedRequest& prepared) {
  const ApiRequest& request = prepared.request;
  MessagesAnswer::Head head{absl::StrCat("msg_", RandomId()), core.model().name,
                            prepared.first().max_tokens < request.max_tokens.value_or(0)};
  ThinkingSigner signer(core.tenant_secret(), prepared.tenant);
  if (request.stream) return std::make_unique<MessagesStream>(std::move(head), std::move(signer));
  return std::make_unique<MessagesWhole>(std::move(head), std::move(signer));
}

std::unique_ptr<AnswerWriter> MakeResponseAnswer(RequestCore& core, const PreparedRequest& prepared) {
  const ApiRequest& request = prepared.request;
  ResponseHead head{absl::StrCat("resp_", RandomId()), core.model().name, absl::ToUnixSeconds(core.clock().WallNow()),
                    request.echo_members, request.sampling.logprobs};
  return std::make_unique<ResponseAnswer>(core.model(), std::move(head), request.stream);
}

}  // namespace

BodyParser ParserFor(const Route& route, const RequestCore& core, const Tenant& tenant) {
  const ParseLimits limits = core.parse_limits();
  switch (route.kind) {
    case Route::Kind::kMessages:
    case Route::Kind::kCountTokens:
      return [limits, signer = ThinkingSigner(core.tenant_secret(), tenant.name),
              counts_only = route.kind == Route::Kind::kCountTokens](std::string_view body) {
        return ParseMessagesBody(body, limits, signer, counts_only);
      };
    case Route::Kind::kResponses:
      return [limits](std::string_view body) { return ParseResponsesBody(body, limits); };
    default: {
      const Api api = route.kind == Route::Kind::kCompletions ? Api::kCompletions : Api::kChat;
      return [api, limits](std::string_view body) { return ParseRequestBody(api, body, limits); };
    }
  }
}

std::unique_ptr<AnswerWriter> MakeAnswerWriter(RequestCore& core, const PreparedRequest& prepared) {
  const ApiRequest& request = prepared.request;
  if (request.form == AnswerForm::kMessages) return MakeMessagesAnswer(core, prepared);
  if (request.form == AnswerForm::kResponses) return MakeResponseAnswer(core, prepared);
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
    return std::make_unique<StreamAnswer>(core.model(), std::move(head), prepared.n_choices(), request.include_usage);
  }
  return std::make_unique<WholeAnswer>(core.model(), std::move(head), prepared.n_choices());
}

ApiStyle StyleOf(std::string_view path) {
  const bool is_anthropic = path.starts_with("/v1/messages") || path.starts_with("/anthropic/");
  return is_anthropic ? ApiStyle::kAnthropic : ApiStyle::kOpenAi;
}

HttpReply ErrorReply(const ApiError& error, ApiStyle style) {
  HttpReply reply;
  reply.status = ErrorStatus(error, style);
  reply.body = ErrorBody(error, style);
  if (error.retry_after_s > 0) reply.headers.emplace_back("Retry-After", absl::StrCat(error.retry_after_s));
  if (error.http_status == 401) reply.headers.emplace_back("WWW-Authenticate", "Bearer");
  return reply;
}

void AddRequestId(const std::string& request_id, ApiStyle style, HttpReply& reply) {
  reply.headers.emplace_back("x-request-id", request_id);
  if (style == ApiStyle::kAnthropic) reply.headers.emplace_back("request-id", request_id);
}

}  // namespace longshelf::router
