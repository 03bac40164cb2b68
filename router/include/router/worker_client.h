#pragma once

#include <boost/asio/io_context.hpp>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "net/tls_identity.h"
#include "router/worker_link.h"

namespace grpc {
class Channel;
}

namespace longshelf::router {

struct WorkerClientConfig {
  std::string token = {};                      // shared with the workers; may be empty
  std::shared_ptr<net::TlsIdentity> tls = {};  // to connect with, to certificates of workers; null: without TLS
  absl::Duration status_timeout = absl::Seconds(2);
  absl::Duration park_timeout = absl::Minutes(2);
  absl::Duration call_timeout = absl::Hours(24);  // of one Generate or Watch; both are renewed by their owners
  absl::Duration backoff_min = absl::Milliseconds(100);
  absl::Duration backoff_max = absl::Seconds(1);
};

// A worker over gRPC. `loop` outlives it and everything it started; see WorkerLink for the threads.
std::unique_ptr<WorkerLink> MakeWorkerClient(const WorkerClientConfig& config, const std::string& address,
                                             boost::asio::io_context& loop);
// Over a channel that exists already.
std::unique_ptr<WorkerLink> MakeWorkerClient(const WorkerClientConfig& config, std::shared_ptr<grpc::Channel> channel,
                                             boost::asio::io_context& loop);

}  // namespace longshelf::router
