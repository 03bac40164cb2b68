#pragma once

#include <string_view>
#include <variant>

#include "router/api_request.h"

// The OpenAI Responses API: what a client sends to /v1/responses.
namespace longshelf::router {

// Pure; any thread. Works in memory proportional to the body. Nothing is kept of a response, so what refers to an
// earlier one is refused by name.
std::variant<ApiRequest, ApiError> ParseResponsesBody(std::string_view body, const ParseLimits& limits);

}  // namespace longshelf::router
