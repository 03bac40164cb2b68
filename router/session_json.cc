#include "session_json.h"

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "router/api_request.h"

namespace longshelf::router {
namespace {

using Json = nlohmann::ordered_json;

Json TimeJson(absl::Time time) { return time == absl::InfinitePast() ? Json() : Json(absl::ToUnixSeconds(time)); }

}  // namespace

nlohmann::ordered_json SessionJson(const SessionInfo& info) {
  Json kv;
  if (info.kv.has_value()) {
    kv = {
        {"tokens", info.kv->state.n_tokens}, {"objects", info.kv->state.n_objects}, {"bytes", info.kv->state.n_bytes}};
  }
  const bool is_parked = info.parked_at != absl::InfinitePast();
  Json out = {{"object", "session"},
              {"id", info.id},
              {"model", info.model},
              {"created", TimeJson(info.created)},
              {"status", info.is_running              ? "running"
                         : info.finish_reason.empty() ? "unfinished"
                                                      : "finished"},
              {"finish_reason", info.finish_reason.empty() ? Json() : Json(info.finish_reason)},
              {"prompt_tokens", info.n_prompt_tokens},
              {"output_tokens", info.n_output_tokens},
              {"parked_at", TimeJson(info.parked_at)},
              {"retain_until", TimeJson(info.retain_until)},
              {"durability", is_parked ? Json(std::string(DurabilityName(info.durability))) : Json()},
              {"kv", std::move(kv)}};
  if (!info.kv_missing.empty()) out["kv_missing"] = info.kv_missing;
  return out;
}

}  // namespace longshelf::router
