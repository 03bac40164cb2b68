#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "json_fields.h"
#include "router/api_request.h"
#include "thinking_signature.h"

// The messages of the Messages API, block by block.
namespace longshelf::router {

// {"type": "text", "text": ...}, each with or without cache_control. `where` is the list's place in the body.
std::optional<ApiError> ReadTextBlocks(const JsonArray& blocks, const std::string& where, const SizeLimits& limits,
                                       std::vector<std::string>& texts);

// Neighbours of one role become one. Every tool_use is answered by a tool_result in the message behind it, and every
// tool_result answers one; thinking must be signed by `signer`.
std::optional<ApiError> ReadMessageBlocks(const JsonValue& messages, const SizeLimits& limits,
                                          const ThinkingSigner& signer, size_t id_bytes_max, ApiRequest& request);

}  // namespace longshelf::router
