#pragma once

#include <nlohmann/json_fwd.hpp>

#include "router/session.h"

namespace longshelf::router {

// {"object":"session",...}: what clients of HTTP are told of a session.
nlohmann::ordered_json SessionJson(const SessionInfo& info);

}  // namespace longshelf::router
