#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "worker/home_store/home_store.h"

namespace longshelf::net {
class TlsIdentity;
}

namespace longshelf::worker {

struct StoreLinkClientOptions {
  std::string address;  // of the leader, host:port
  std::string key;      // of the group
  // To connect with, to a leader with the certificate of a worker; null: without TLS.
  std::shared_ptr<net::TlsIdentity> tls = {};
  // What that certificate is for; empty: the host in `address`.
  std::string tls_name = {};
  int rank = 1;
  uint64_t generation = 0;
};

// One shard's end of the link to its leader: runs on `local` what the leader orders.
class StoreLinkClient {
 public:
  // Connects on its own. `on_lost` is called at most once, when the link ends and the leader did not mean it to, or
  // never began; the calls on `local` have ended by then. When the leader ends it they end likewise, and nobody is
  // told. INVALID_ARGUMENT: the key. `local` and `clock` must outlive it.
  static absl::StatusOr<std::unique_ptr<StoreLinkClient>> Start(const StoreLinkClientOptions& options, HomeStore& local,
                                                                const Clock& clock,
                                                                std::function<void(const absl::Status&)> on_lost);
  // Cancels what still runs and waits for its end. `on_lost` is not called any more. Not from `on_lost`.
  ~StoreLinkClient();

 private:
  struct State;
  explicit StoreLinkClient(std::unique_ptr<State> state);
  const std::unique_ptr<State> state_;
};

}  // namespace longshelf::worker
