#pragma once

#include <optional>

#include "json_fields.h"
#include "router/api_request.h"

namespace longshelf::router {

// `input`: a text, or a list of items. What an assistant said, thought and called between two messages of others is one
// turn. Every function_call is answered by a function_call_output before anybody else speaks.
std::optional<ApiError> ReadInput(const JsonValue& input, const SizeLimits& limits, ApiRequest& request);

}  // namespace longshelf::router
