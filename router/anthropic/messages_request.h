#pragma once

#include <string_view>
#include <variant>

#include "router/api_request.h"
#include "thinking_signature.h"

// The Anthropic Messages API: what a client sends to /v1/messages and /v1/messages/count_tokens.
namespace longshelf::router {

// `counts_only`: max_tokens may be missing. Pure; any thread. Works in memory proportional to the body.
//
// A first system line that begins with `x-anthropic-billing-header` is left out: Claude Code writes another one into
// every request, and all that follows would have to be read again.
std::variant<ApiRequest, ApiError> ParseMessagesBody(std::string_view body, const ParseLimits& limits,
                                                     const ThinkingSigner& signer, bool counts_only);

}  // namespace longshelf::router
