#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "kvstore/store.h"
#include "net/tls_identity.h"

namespace longshelf::kvstore {

struct ServerOptions {
  std::string listen = "127.0.0.1:0";  // host:port; port 0 takes a free one
  std::string token = {};              // shared token of the callers; empty: none is asked for
  // With it callers need the certificate of a router, worker, KV store or operator.
  std::shared_ptr<net::TlsIdentity> tls = {};
  bool insecure_internal = false;  // listen beyond loopback with neither
  // Put and Get calls at once; one more is refused with RESOURCE_EXHAUSTED. A stream holds about a frame and an object.
  // What gRPC holds for all calls together, begun requests included, is bounded by a frame and a window for each of so
  // many: then connections are read more slowly, and at last calls are ended with RESOURCE_EXHAUSTED.
  int streams_max = 256;
  // Objects that one Put stream may have open; one more is answered Busy.
  int open_objects_max = 64;
};

// The gRPC edge of a store node: kvstore.proto, health v1 and reflection (both for who has neither token nor
// role: they say nothing of objects). Every Put and Get must carry a deadline of at most ten minutes, so that a client
// that hangs gives its memory back. Threads are gRPC's.
class Server {
 private:
  struct State;

 public:
  // The store, the clock and the metrics must outlive the server.
  // FAILED_PRECONDITION: not loopback and neither token, TLS nor insecure_internal (exit 78). INVALID_ARGUMENT: a token
  // that cannot be one. UNAVAILABLE: cannot listen there.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options, Store& store, const Clock& clock,
                                                       Metrics& metrics);
  explicit Server(std::unique_ptr<State> state);  // through Start
  ~Server();                                      // ends what still runs at once

  uint16_t port() const;
  // Answers health with NOT_SERVING; calls still work.
  void SetNotServing();
  // Refuses new calls, lets running ones end until the timeout, then cancels them. Blocks.
  void Shutdown(absl::Duration timeout);

 private:
  std::unique_ptr<State> state_;
};

}  // namespace longshelf::kvstore
