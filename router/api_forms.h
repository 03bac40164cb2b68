#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <variant>

#include "router/answer_writer.h"
#include "router/http_api.h"
#include "router/http_server.h"
#include "router/request_core.h"

// What tells one API over HTTP from another. Everything else is common to them.
namespace longshelf::router {

// Runs on any thread.
using BodyParser = std::function<std::variant<ApiRequest, ApiError>(std::string_view body)>;
// REQUIRES: a route that generates.
BodyParser ParserFor(const Route& route, const RequestCore& core, const Tenant& tenant);
// `core` must outlive it.
std::unique_ptr<AnswerWriter> MakeAnswerWriter(RequestCore& core, const PreparedRequest& prepared);

// Of what is asked for at this path.
ApiStyle StyleOf(std::string_view path);
HttpReply ErrorReply(const ApiError& error, ApiStyle style = ApiStyle::kOpenAi);
void AddRequestId(const std::string& request_id, ApiStyle style, HttpReply& reply);

}  // namespace longshelf::router
