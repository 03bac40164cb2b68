#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "worker/home_store/home_store.h"

namespace longshelf::net {
class TlsIdentity;
}

namespace longshelf::worker {

struct StoreLinkServerOptions {
  // Shards of this host dial 127.0.0.1. ADDRESS:PORT for those of others; empty: there are none.
  std::string listen = {};
  std::string key;  // of the group, at least 16 characters: whoever has it is one of the shards
  // With it every shard needs a certificate of a worker.
  std::shared_ptr<net::TlsIdentity> tls = {};
  int n_shards = 2;
  uint64_t generation = 0;
};

// The leader's end of the links to its other shards, over which their part of the KV store's traffic is ordered. A
// shard attaches once: when its link breaks its calls end with UNAVAILABLE, and so does every later one.
class StoreLinkServer {
 public:
  // INVALID_ARGUMENT: the key. UNAVAILABLE: cannot listen there.
  static absl::StatusOr<std::unique_ptr<StoreLinkServer>> Start(const StoreLinkServerOptions& options,
                                                                const Clock& clock);
  ~StoreLinkServer();

  uint16_t loopback_port() const;
  uint16_t listen_port() const;  // 0 without options.listen

  // The store of shard `rank`, 1 .. n_shards - 1. Calls wait for the shard to attach until their timeout. One that has
  // reached the shard ends when the shard says so, so nothing is added to its copies afterwards: also one that is
  // cancelled or late. At most 4096 at once, then RESOURCE_EXHAUSTED. All callbacks come from
  // one thread, and never within the method that asked.
  HomeStore& shard(int rank);

  // Ends the links with OK, and every call, which its shard then cancels, with CANCELLED. Not from a callback.
  void Shutdown();

 private:
  struct State;
  explicit StoreLinkServer(std::unique_ptr<State> state);
  const std::unique_ptr<State> state_;
};

}  // namespace longshelf::worker
