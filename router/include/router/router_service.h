#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "router/router_config.h"
#include "router/worker_link.h"

namespace boost::asio {
class io_context;
}

namespace longshelf::router {

// A whole router: every part, wired, on its own loop thread.
class RouterService {
 public:
  using MakeLinks = std::function<std::vector<std::unique_ptr<WorkerLink>>(boost::asio::io_context& loop)>;

  // FAILED_PRECONDITION: a listen address that needs a flag (exit 78). INVALID_ARGUMENT: an option or a file is wrong
  // (78). UNAVAILABLE: cannot listen (69). `clock` must outlive the service. Tests bring their own workers.
  static absl::StatusOr<std::unique_ptr<RouterService>> Start(const RouterConfig& config, Clock& clock,
                                                              const MakeLinks& make_links = nullptr);
  class Impl;
  explicit RouterService(std::unique_ptr<Impl> impl);
  // Open answers break off; those that are to be parked at their end are, for kCutOffAtMost, unless a drain was begun:
  // then it is over.
  ~RouterService();

  uint16_t http_port() const;
  uint16_t grpc_port() const;  // 0 = no gRPC door
  uint16_t admin_port() const;
  static constexpr absl::Duration kCutOffAtMost = absl::Seconds(5);
  // As /livez and /readyz answer. Any thread.
  bool live() const;
  Readiness readiness() const;
  // In the Prometheus text format.
  std::string Metrics() const;
  // Not ready from now on; `on_drained` is called once, on the loop's thread, when nothing is being answered or parked
  // any more. What is still answered after the drain timeout is broken off, and kCutOffAtMost later it is called
  // anyway.
  void BeginDrain(std::function<void()> on_drained);

 private:
  std::unique_ptr<Impl> impl_;
};

// sysexits code of a failed Start.
int ExitCodeOf(const absl::Status& status);

}  // namespace longshelf::router
