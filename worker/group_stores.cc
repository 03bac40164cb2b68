#include "group_stores.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/ids.h"
#include "common/status.h"
#include "net/tls_identity.h"
#include "worker/node_service.h"

namespace longshelf::worker {
namespace {

// What its certificate is for: shards of its host dial it by an address that need not be there.
std::string NameOf(const std::shared_ptr<net::TlsIdentity>& tls) {
  if (tls == nullptr) return "";
  const std::vector<std::string> hosts = tls->certificate().hosts;
  return hosts.empty() ? "" : hosts.front();
}

}  // namespace

absl::StatusOr<std::unique_ptr<GroupStores>> GroupStores::Join(const ShardConfig& config, engine::MpiSession& session,
                                                               engine::KvCopies& copies,
                                                               const std::shared_ptr<net::TlsIdentity>& tls,
                                                               const Clock& clock, Metrics& metrics) {
  auto stores = std::unique_ptr<GroupStores>(new GroupStores());
  stores->n_shards_ = session.communicator().size();
  RETURN_IF_ERROR(session.communicator().rank() == 0 ? stores->Lead(config, session, tls, clock)
                                                     : stores->Follow(config, session, copies, tls, clock, metrics));
  return stores;
}

// Broadcasts the port for the shards of this host, a key that nobody else has, and a name.
absl::Status GroupStores::Lead(const ShardConfig& config, engine::MpiSession& session,
                               const std::shared_ptr<net::TlsIdentity>& tls, const Clock& clock) {
  StoreLinkServerOptions options;
  options.listen = config.store_link_listen;
  options.key = RandomId();
  options.tls = tls;
  options.n_shards = n_shards_;
  options.generation = session.generation();
  ASSIGN_OR_RETURN(server_, StoreLinkServer::Start(options, clock));
  std::string told = absl::StrCat(server_->loopback_port(), " ", options.key, " ", NameOf(tls));
  return session.communicator().Broadcast(told);
}

absl::Status GroupStores::Follow(const ShardConfig& config, engine::MpiSession& session, engine::KvCopies& copies,
                                 const std::shared_ptr<net::TlsIdentity>& tls, const Clock& clock, Metrics& metrics) {
  std::string told;
  RETURN_IF_ERROR(session.communicator().Broadcast(told));
  const std::vector<std::string> port_key_name = absl::StrSplit(told, ' ');
  if (port_key_name.size() != 3) return absl::InternalError("the leader does not say where its store link is");
  const int rank = session.communicator().rank();
  const bool is_beside = session.hosts().host_of(rank) == session.hosts().host_of(0);
  StoreLinkClientOptions options;
  options.address = is_beside ? absl::StrCat("127.0.0.1:", port_key_name[0]) : config.store_link_listen;
  options.key = port_key_name[1];
  options.tls = tls;
  options.tls_name = port_key_name[2];
  options.rank = rank;
  options.generation = session.generation();
  ASSIGN_OR_RETURN(store_, ConnectStore(config, tls, clock, &metrics));
  home_ = MakeHomeStore(*store_, copies);
  ASSIGN_OR_RETURN(client_, StoreLinkClient::Start(options, *home_, clock, [&session](const absl::Status& why) {
                     session.watch().Break(absl::StrCat("the link to shard 0 for the KV store broke: ", why.message()));
                   }));
  return absl::OkStatus();
}

std::vector<HomeStore*> GroupStores::others() {
  std::vector<HomeStore*> out;
  for (int rank = 1; rank < n_shards_; ++rank) out.push_back(&server_->shard(rank));
  return out;
}

void GroupStores::End() { server_->Shutdown(); }

}  // namespace longshelf::worker
