#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "engine/comm/mpi_session.h"
#include "engine/kv_copies.h"
#include "worker/home_store/home_store.h"
#include "worker/shard_config.h"
#include "worker/store_link/client.h"
#include "worker/store_link/server.h"

namespace longshelf::worker {

// How the shards of a group (R > 1) reach the KV store: each by itself, with a client of its own, for what lives on it.
// The leader says what, over a link to each. A shard whose link breaks ends its group.
class GroupStores {
 public:
  // Collective, on the engine thread. What is named must outlive it; `tls` is what config.tls names. UNAVAILABLE: the
  // leader cannot listen; INVALID_ARGUMENT: as ConnectStore.
  static absl::StatusOr<std::unique_ptr<GroupStores>> Join(const ShardConfig& config, engine::MpiSession& session,
                                                           engine::KvCopies& copies,
                                                           const std::shared_ptr<net::TlsIdentity>& tls,
                                                           const Clock& clock, Metrics& metrics);

  // The leader's: those of the other shards, from 1 on.
  std::vector<HomeStore*> others();
  // The leader's, when nothing is asked of them any more: the others' links end well.
  void End();

 private:
  GroupStores() = default;
  absl::Status Lead(const ShardConfig& config, engine::MpiSession& session,
                    const std::shared_ptr<net::TlsIdentity>& tls, const Clock& clock);
  absl::Status Follow(const ShardConfig& config, engine::MpiSession& session, engine::KvCopies& copies,
                      const std::shared_ptr<net::TlsIdentity>& tls, const Clock& clock, Metrics& metrics);

  int n_shards_ = 0;
  std::unique_ptr<StoreLinkServer> server_;  // the leader's
  // The others'.
  std::unique_ptr<kvstore::Client> store_;
  std::unique_ptr<HomeStore> home_;
  std::unique_ptr<StoreLinkClient> client_;
};

}  // namespace longshelf::worker
