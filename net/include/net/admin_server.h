#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/config.h"
#include "net/tls_identity.h"

namespace longshelf {

struct AdminOptions {
  std::string listen = "127.0.0.1:0";                 // an IP address and a port; port 0 takes a free one
  std::string token;                                  // when not empty, /metrics needs `Authorization: Bearer TOKEN`
  bool insecure_internal = false;                     // accept a non-loopback address without token or certificates
  std::string tls_mode = "auto";                      // "auto": with TLS if there is an identity; "off", "on", "mutual"
  std::shared_ptr<net::TlsIdentity> tls = {};         // not an option: what --tls-cert and its kin have given
  int connections_max = 64;                           // beyond that, new connections are closed at once
  absl::Duration request_timeout = absl::Seconds(5);  // to send a request whole, and to take the answer
};

// Binds --admin-listen, --admin-token-file and --admin-tls. --insecure-internal belongs to the binary, which shares it
// among listeners.
void AddAdminOptions(ConfigSpec& spec, AdminOptions* options);

struct Readiness {
  bool ready = false;
  std::string detail;  // one line for people and scripts: "loading weights 40 %"; no paths, no addresses
};

// Called on the server's thread; must be quick and thread safe.
struct AdminCallbacks {
  std::function<bool()> live;
  std::function<Readiness()> ready;
  std::function<std::string()> metrics;
};

// GET /livez, /readyz (also /healthz) and /metrics over HTTP/1.1, on a thread of its own, so that a probe is answered
// while everything else is busy. 200 or 503 for the first two. Headers above 8 KiB, bodies, slow and surplus
// connections are refused. On a loopback address without a token, a Host that is a name other than localhost, or any
// Origin, is refused with 403: a web page must not reach us through the user's browser. With mutual TLS /metrics needs
// the certificate of an operator; probes need none.
class AdminServer {
 private:
  struct State;

 public:
  // FAILED_PRECONDITION: the address is not loopback and there is neither token, mutual TLS nor insecure_internal, or
  // TLS is asked for and there is no certificate (exit 78).
  // INVALID_ARGUMENT: not an address. UNAVAILABLE: cannot listen (exit 69).
  static absl::StatusOr<std::unique_ptr<AdminServer>> Start(AdminOptions options, AdminCallbacks callbacks);
  explicit AdminServer(std::unique_ptr<State> state);  // for Start
  ~AdminServer();

  uint16_t port() const;
  std::string url() const;  // "http://127.0.0.1:9100", or https

 private:
  std::unique_ptr<State> state_;
};

}  // namespace longshelf
