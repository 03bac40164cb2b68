#pragma once

#include <boost/asio/io_context.hpp>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "net/tls_identity.h"
#include "router/auth.h"
#include "router/request_core.h"

namespace longshelf::router {

// The public gRPC service (inference.proto), health v1 and reflection on one port, over the same RequestCore, limits
// table and keys as the HTTP door.
class InferenceServer {
 public:
  struct Options {
    std::string listen;
    std::shared_ptr<net::TlsIdentity> tls = {};  // as in HttpServerConfig
    bool reflection = true;
    absl::Duration keep_alive_interval = absl::Seconds(5);  // silence, then the progress is said again
    size_t body_bytes_max = kSizeLimits.body_bytes;         // of one message
    size_t calls_per_connection_max = 2048;                 // more wait in the client
    size_t memory_bytes_max = size_t{1} << 30;              // of all that is being received and sent
    absl::Duration write_timeout = absl::Seconds(30);       // so long without taking a message, and the call is ended
  };
  // UNAVAILABLE: cannot listen. Everything must outlive the server; all sinks run on `loop`.
  static absl::StatusOr<std::unique_ptr<InferenceServer>> Start(const Options& options, const KeyRing& keys,
                                                                RequestCore& core, boost::asio::io_context& loop);
  class Impl;
  explicit InferenceServer(std::unique_ptr<Impl> impl);
  // The loop must still be running, or be run until it is idle afterwards.
  ~InferenceServer();

  int port() const;
  // Loop only; call at least every 100 ms.
  void Tick();
  // Ends the answers that are being made. Loop only.
  void CutOff();
  // What the health service says, for the service and for "".
  void SetServing(bool serving);
  // Refuses new calls and cancels those still open after `grace`. Blocks that long at most; never on the loop's thread.
  void Shutdown(absl::Duration grace);

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace longshelf::router
