#pragma once

#include <memory>
#include <string>
#include <vector>

#include "router/session.h"

namespace longshelf::router::testing {

// A session as it is parked.
inline SessionInfo ParkedCard() {
  SessionInfo info;
  info.id = "refactor-7:main";
  info.model = "demo";
  info.created = absl::FromUnixMillis(1'000'000);
  info.parked_at = absl::FromUnixMillis(2'000'000);
  info.retain_until = absl::FromUnixMillis(9'000'000);
  info.n_prompt_tokens = 70'000;
  info.n_output_tokens = 12;
  info.durability = Durability::kDisk;
  info.fingerprint = std::string(32, 'f');
  info.body_key = std::string(32, 'b');
  info.body_bytes = 500;
  info.kv = ParkedKv{.state = {69'888, 300, 1 << 20, std::string(32, 'c')},
                     .block_tokens = 256,
                     .trail = {std::string(32, '1'), std::string(32, '2')}};
  return info;
}

inline Session ParkedBody() {
  Session session;
  session.is_chat = false;
  session.body = std::make_shared<const std::string>(R"({"prompt":"x"})");
  session.prompt = std::make_shared<const std::vector<uint32_t>>(std::vector<uint32_t>{1, 2, 3});
  session.output = {4, 5};
  session.seed = ~uint64_t{0};
  session.request_id = "req-1";
  session.namespace_id = "alice";
  return session;
}

}  // namespace longshelf::router::testing
