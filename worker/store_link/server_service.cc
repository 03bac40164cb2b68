// The gRPC side of worker/store_link/server.h.
#include <grpcpp/grpcpp.h>

#include <future>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "attach_service.h"
#include "common/check.h"
#include "common/status.h"
#include "forms_service.h"
#include "net/tls_identity.h"
#include "proto/channel_settings.h"
#include "proto/credentials.h"
#include "worker/store_link/server.h"

namespace longshelf::worker {
namespace {

const net::RoleSet kShards = {net::Role::kWorker};
// A shard that does not take the end of its link is left behind.
constexpr std::chrono::seconds kShutdownGrace(2);

}  // namespace

struct StoreLinkServer::State {
  explicit State(std::shared_ptr<net::TlsIdentity> identity) : tls(std::move(identity)), service(hub) {}

  const std::shared_ptr<net::TlsIdentity> tls;  // the server's
  LinkHub hub;
  StoreLinkService service;
  int loopback_port = 0;
  int listen_port = 0;
  std::unique_ptr<grpc::Server> server;
  std::thread thread;  // turns the loop
};

absl::StatusOr<std::unique_ptr<StoreLinkServer>> StoreLinkServer::Start(const StoreLinkServerOptions& options,
                                                                        const Clock& clock) {
  if (options.key.empty()) return absl::InvalidArgumentError("a link between shards needs the key of the group");
  auto state = std::make_unique<State>(options.tls);
  ASSIGN_OR_RETURN(state->hub.callers, proto::CallerRules::Make(options.key, options.tls != nullptr, kShards));
  state->hub.generation = options.generation;
  state->hub.loop = std::make_shared<TaskLoop>(clock);
  for (int rank = 1; rank < options.n_shards; ++rank) {
    state->hub.stores.push_back(std::make_unique<RemoteStore>(rank, state->hub.loop));
  }
  grpc::ServerBuilder builder;
  // Of a shard that is silent the group's own watch decides: a busy machine is no broken link.
  proto::ApplyInternalServerSettings(builder, proto::kNoKeepalive);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(kMessageBytesMax);
  const auto credentials = proto::ListenerCredentials(options.tls, net::PeerCertificate::kRequired);
  builder.AddListeningPort("127.0.0.1:0", credentials, &state->loopback_port);
  if (!options.listen.empty()) builder.AddListeningPort(options.listen, credentials, &state->listen_port);
  builder.RegisterService(&state->service);
  state->server = builder.BuildAndStart();
  if (state->server == nullptr || state->loopback_port == 0 || (!options.listen.empty() && state->listen_port == 0)) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", options.listen.empty() ? "127.0.0.1" : options.listen));
  }
  state->thread = std::thread([loop = state->hub.loop] { loop->RunUntilClosed(); });
  return std::unique_ptr<StoreLinkServer>(new StoreLinkServer(std::move(state)));
}

StoreLinkServer::StoreLinkServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

StoreLinkServer::~StoreLinkServer() {
  Shutdown();
  state_->hub.loop->Close();
  state_->thread.join();
  state_->hub.loop->Abandon();
}

uint16_t StoreLinkServer::loopback_port() const { return static_cast<uint16_t>(state_->loopback_port); }
uint16_t StoreLinkServer::listen_port() const { return static_cast<uint16_t>(state_->listen_port); }

HomeStore& StoreLinkServer::shard(int rank) {
  LONGSHELF_CHECK(rank >= 1 && static_cast<size_t>(rank) <= state_->hub.stores.size());
  return *state_->hub.stores[static_cast<size_t>(rank) - 1];
}

void StoreLinkServer::Shutdown() {
  std::promise<void> closed;
  state_->hub.loop->Post([this, &closed] {
    for (const auto& store : state_->hub.stores) store->Close();
    closed.set_value();
  });
  closed.get_future().wait();
  state_->server->Shutdown(std::chrono::system_clock::now() + kShutdownGrace);
}

}  // namespace longshelf::worker
