#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/config.h"
#include "common/log.h"
#include "net/admin_server.h"

namespace longshelf::router {

// Everything longshelf-router can be told.
struct RouterConfig {
  std::string model_dir;   // tokenizer.json and config.json; no weights are read
  std::string model_name;  // "" = the directory's name
  std::string chat_dialect = "preview";
  std::string control_tokens_in_text = "plain";
  std::vector<std::string> workers;  // host:port

  std::string listen = "127.0.0.1:8080";
  std::string grpc_listen = "127.0.0.1:8081";  // "" = no gRPC door
  bool grpc_reflection = true;
  bool insecure_public = false;
  std::string api_keys_file;
  std::string audit_log;  // "" = none
  std::string tenant_secret = "longshelf";
  std::string internal_token;
  net::TlsFiles tls;         // to workers, KV stores and the admin port
  net::TlsFiles public_tls;  // to clients, over HTTP and gRPC; with an authority, they need certificates

  std::vector<std::string> kvstores;  // as kvstore/members.h takes them, joined by commas; none: no sessions

  uint32_t queue_max = 1024;
  absl::Duration queue_timeout = absl::Seconds(10);
  absl::Duration wait_max = absl::Seconds(1);
  absl::Duration resume_timeout = absl::Seconds(30);
  absl::Duration stall_timeout = absl::Minutes(10);
  absl::Duration keep_alive_interval = absl::Seconds(5);
  absl::Duration drain_timeout = absl::Seconds(25);
  uint64_t body_bytes_max = uint64_t{16} << 20;
  uint64_t bodies_bytes_max = uint64_t{1} << 30;
  absl::Duration header_timeout = absl::Seconds(10);
  absl::Duration body_idle_timeout = absl::Seconds(30);
  absl::Duration body_timeout = absl::Hours(1);
  absl::Duration idle_timeout = absl::Seconds(75);
  uint32_t requests_per_connection_max = 10'000;
  std::vector<std::string> cors_origins;
  uint64_t session_bytes_max = uint64_t{512} << 20;
  uint64_t turns_bytes_max = uint64_t{64} << 20;
  uint32_t connections_max = 4096;
  uint32_t connections_per_address_max = 2048;
  uint32_t n_prepare_threads = 2;
  absl::Duration write_timeout = absl::Seconds(30);  // without anything taken, a client is dropped; not an option

  AdminOptions admin;
  LogConfig log;
};

// The options above, bound to `config`, which must outlive the returned spec.
ConfigSpec RouterOptions(RouterConfig* config);

}  // namespace longshelf::router
