#include "router/router_config.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace longshelf::router {
namespace {

absl::Status CheckWorkers(const std::vector<std::string>& workers) {
  for (const std::string& worker : workers) {
    const size_t colon = worker.rfind(':');
    int port = 0;
    if (colon == std::string::npos || colon == 0 || !absl::SimpleAtoi(worker.substr(colon + 1), &port) || port < 1 ||
        port > 65535) {
      return absl::InvalidArgumentError(absl::StrCat("workers: `", worker, "` is not HOST:PORT"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckBodies(const RouterConfig& config) {
  if (config.bodies_bytes_max / 2 >= config.body_bytes_max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("bodies-max: must be at least twice body-max, which is ", config.body_bytes_max, " bytes"));
}

// As browsers spell them, so that they can be compared byte for byte.
absl::Status CheckOrigins(const std::vector<std::string>& origins) {
  for (const std::string& origin : origins) {
    if (origin == "*" || origin == "null") continue;
    const size_t host = origin.find("://") == std::string::npos ? 0 : origin.find("://") + 3;
    const bool is_lower = std::none_of(origin.begin(), origin.end(), absl::ascii_isupper);
    const bool is_text = std::all_of(origin.begin(), origin.end(), absl::ascii_isgraph);
    if (host <= 3 || host == origin.size() || origin.find('/', host) != std::string::npos || !is_lower || !is_text) {
      return absl::InvalidArgumentError(absl::StrCat(
          "cors-origin: `", origin, "` is not an origin as browsers send it: SCHEME://HOST[:PORT] in small letters"));
    }
  }
  return absl::OkStatus();
}

// Of connections and of what comes over them.
void AddBodyOptions(ConfigSpec& spec, RouterConfig* config) {
  spec.AddBytes(&config->body_bytes_max, "body-max", "largest request body", {1024, uint64_t{1} << 30});
  spec.AddBytes(&config->bodies_bytes_max, "bodies-max",
                "memory for request bodies, all together, until they are prepared; more are told to come back",
                {1 << 20, uint64_t{1} << 40});
  spec.Add(&config->header_timeout, "header-timeout", "a request's headers may take this long",
           {absl::Milliseconds(100), absl::Hours(1)});
  spec.Add(&config->body_idle_timeout, "body-idle-timeout",
           "a request whose body stands still for this long is refused; a slow one is not",
           {absl::Milliseconds(100), absl::Hours(1)});
  spec.Add(&config->body_timeout, "body-timeout", "a request's whole body may take this long",
           {absl::Milliseconds(100), absl::Hours(24)});
  spec.Add(&config->idle_timeout, "idle-timeout", "a connection without a request is closed after this",
           {absl::Milliseconds(100), absl::Hours(24)});
  spec.Add(&config->requests_per_connection_max, "requests-per-connection-max",
           "a connection is closed after so many requests", {1, 1'000'000'000});
  spec.Add(&config->cors_origins, "cors-origin",
           "origin (https://app.example.com) whose pages may use the API from a browser; * for all; none: none may");
}

}  // namespace

ConfigSpec RouterOptions(RouterConfig* config) {
  ConfigSpec spec("longshelf-router", "The public edge of a longshelf cluster: HTTP and gRPC in, workers behind.");
  spec.Group("Model");
  spec.Add(&config->model_dir, "model", "directory with tokenizer.json and config.json");
  spec.Add(&config->model_name, "model-name", "name clients ask for; the directory's name if empty");
  spec.AddChoice(&config->chat_dialect, "chat-dialect", "checkpoint revision whose effort texts are used",
                 {"preview", "0731"});
  spec.AddChoice(&config->control_tokens_in_text, "control-tokens-in-text",
                 "what control tokens are that the texts of a chat spell: text, or tokens as in DeepSeek's reference",
                 {"plain", "tokens"});
  spec.Group("Workers");
  spec.Add(&config->workers, "workers", "HOST:PORT of every worker");
  spec.AddSecretFile(&config->internal_token, "internal-token-file", "file with the token shared with the workers");
  spec.Add(&config->kvstores, "kvstore",
           "KV stores that parked sessions are kept in: as the workers are told; none: sessions cannot be parked");
  net::AddTlsOptions(spec, &config->tls);
  spec.Group("Queue");
  spec.Add(&config->queue_max, "queue-max", "requests that may wait while no worker can take them", {1, 1'000'000});
  spec.Add(&config->queue_timeout, "queue-timeout", "a request that no worker could take for this long is refused");
  spec.Add(
      &config->wait_max, "wait-max",
      "a request that would wait longer than this for its turn is refused at once; where requests take long, it may "
      "wait longer",
      {absl::Milliseconds(10), absl::Hours(1)});
  spec.Add(&config->resume_timeout, "resume-timeout", "a begun answer without a worker for this long fails");
  spec.Add(&config->stall_timeout, "stall-timeout", "a worker silent for this long on a request is left");
  spec.Group("Clients");
  spec.Add(&config->listen, "listen", "IP address and port for HTTP");
  spec.Add(&config->grpc_listen, "grpc-listen", "IP address and port for gRPC; empty for none");
  spec.Add(&config->grpc_reflection, "grpc-reflection", "serve gRPC reflection");
  spec.Add(&config->public_tls.certificate, "public-tls-cert", "PEM file with the certificate that clients see");
  spec.Add(&config->public_tls.key, "public-tls-key", "PEM file with its key");
  spec.Add(&config->public_tls.authority, "public-tls-client-ca",
           "PEM file with the authority that has signed the certificates that clients need; none: they need none");
  spec.Add(&config->insecure_public, "insecure-public",
           "listen beyond loopback although there are neither API keys nor client certificates, or gRPC without TLS");
  spec.Add(&config->api_keys_file, "api-keys",
           "file of NAME:KEY lines, or YAML with scopes, limits and expiry; with it every request needs a key");
  spec.Add(&config->audit_log, "audit-log",
           "file that gets a line for each request: who, what, when and how much, never text or keys; none: no file");
  spec.AddSecretFile(&config->tenant_secret, "tenant-secret-file",
                     "file with the secret that tenants' cache keys are salted with; the same on every router");
  AddBodyOptions(spec, config);
  spec.AddBytes(&config->session_bytes_max, "session-bytes-max",
                "bodies and prompts of sessions that are being answered, parked or read back, all together",
                {1 << 20, uint64_t{1} << 40});
  spec.AddBytes(&config->turns_bytes_max, "turns-bytes-max",
                "for the tokens of recent turns, which are used again when a client sends such a turn back in words of "
                "its own; 0 for none");
  spec.Add(&config->connections_max, "connections-max", "open HTTP connections", {1, 1'000'000});
  spec.Add(&config->connections_per_address_max, "connections-per-address-max",
           "open HTTP connections of one address; also calls of one gRPC connection", {1, 1'000'000});
  spec.Add(&config->keep_alive_interval, "keep-alive-interval",
           "silence before a stream gets a comment and another answer a blank line",
           {absl::Milliseconds(100), absl::Seconds(10)});
  spec.Add(&config->n_prepare_threads, "prepare-threads", "threads that parse, render and tokenize", {1, 64});
  spec.Group("Process");
  spec.Add(&config->drain_timeout, "drain-timeout", "after SIGTERM, answers may take this long to finish");
  AddAdminOptions(spec, &config->admin);
  spec.Add(&config->admin.insecure_internal, "insecure-internal",
           "let the admin port listen beyond loopback without token and certificates");
  AddLogOptions(spec, &config->log);
  spec.Require("model");
  spec.Require("workers");
  spec.Check([config] { return CheckWorkers(config->workers); });
  spec.Check([config] { return CheckBodies(*config); });
  spec.Check([config] { return CheckOrigins(config->cors_origins); });
  spec.Check([config] { return CheckTlsFiles(config->public_tls, "public-tls", /*needs_authority=*/false); });
  return spec;
}

}  // namespace longshelf::router
