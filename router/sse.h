#pragma once

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "router/worker_link.h"

// Server-sent events, and the comments between them that no client's code sees (WHATWG HTML, 9.2).
namespace longshelf::router {

inline constexpr std::string_view kKeepAliveComment = ": keep-alive\n\n";

// REQUIRES: no line break in the data, nor in the name.
inline std::string DataEvent(std::string_view data) {
  return absl::StrCat("data: ", absl::string_view(data.data(), data.size()), "\n\n");
}
inline std::string NamedEvent(std::string_view name, std::string_view data) {
  return absl::StrCat("event: ", absl::string_view(name.data(), name.size()), "\n", DataEvent(data));
}
inline std::string ProgressComment(const PrefillProgress& progress) {
  return absl::StrCat(": prefill ", progress.n_done, "/", progress.n_total, "\n\n");
}

}  // namespace longshelf::router
