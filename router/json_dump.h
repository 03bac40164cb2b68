#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace longshelf::router {

// As it is sent: on one line, and whatever is not UTF-8 replaced, as text may come from anywhere.
inline std::string DumpJson(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace longshelf::router
