// The gRPC side of worker/store_link/client.h.
#include <grpcpp/grpcpp.h>

#include <future>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "attach_client.h"
#include "common/status.h"
#include "forms_service.h"
#include "net/tls_identity.h"
#include "proto/channel_settings.h"
#include "proto/credentials.h"
#include "proto/internal_auth.h"
#include "shard_calls_client.h"
#include "worker/store_link/client.h"

namespace longshelf::worker {
namespace {

std::shared_ptr<grpc::Channel> MakeChannel(const StoreLinkClientOptions& options) {
  // Of a leader that is silent the group's own watch decides: a busy machine is no broken link.
  grpc::ChannelArguments args = proto::InternalChannelArguments(proto::kNoKeepalive);
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  proto::ExpectServerName(args, options.tls_name);
  return grpc::CreateCustomChannel(options.address, proto::ChannelCredentials(options.tls, net::Role::kWorker), args);
}

}  // namespace

struct StoreLinkClient::State {
  State(const StoreLinkClientOptions& options, HomeStore& local, const Clock& clock,
        std::function<void(const absl::Status&)> on_lost_callback)
      : tls(options.tls),
        loop(std::make_shared<TaskLoop>(clock)),
        on_lost(std::move(on_lost_callback)),
        channel(MakeChannel(options)),
        stub(v1::StoreLink::NewStub(channel)),
        calls(local, loop, [this](v1::StoreReport report) { Report(std::move(report)); }),
        attached(loop, {.on_orders = [this](const v1::StoreOrders& orders) { return calls.Execute(orders); },
                        .on_end = [this](const absl::Status& status) { OnEnd(status); }}) {}

  // These on the loop.
  void Report(v1::StoreReport report) {
    attached.Report(std::move(report));
    MaybeFinish();
  }
  void OnEnd(const absl::Status& status) {
    ended = status;
    calls.CancelAll();
    MaybeFinish();
  }
  void Close() {
    is_closing = true;
    attached.Cancel();
    calls.CancelAll();
  }
  void MaybeFinish() {
    if (!ended.has_value() || !calls.empty() || is_finished) return;
    is_finished = true;
    if (!ended->ok() && !is_closing) on_lost(*ended);
    finished.set_value();
  }

  const std::shared_ptr<net::TlsIdentity> tls;  // the channel's
  const std::shared_ptr<TaskLoop> loop;
  const std::function<void(const absl::Status&)> on_lost;
  const std::shared_ptr<grpc::Channel> channel;
  const std::unique_ptr<v1::StoreLink::Stub> stub;
  std::thread thread;           // turns the loop
  std::promise<void> finished;  // nothing happens any more

  // The loop's.
  ShardCalls calls;
  AttachCall attached;
  std::optional<absl::Status> ended;  // the link
  bool is_closing = false;
  bool is_finished = false;
};

absl::StatusOr<std::unique_ptr<StoreLinkClient>> StoreLinkClient::Start(
    const StoreLinkClientOptions& options, HomeStore& local, const Clock& clock,
    std::function<void(const absl::Status&)> on_lost) {
  RETURN_IF_ERROR(proto::SharedToken::FromString(options.key).status());
  auto state = std::make_unique<State>(options, local, clock, std::move(on_lost));
  v1::StoreHello hello;
  hello.set_rank(static_cast<uint32_t>(options.rank));
  hello.set_generation(options.generation);
  state->attached.Start(*state->stub, options.key, hello);
  state->thread = std::thread([loop = state->loop] { loop->RunUntilClosed(); });
  return std::unique_ptr<StoreLinkClient>(new StoreLinkClient(std::move(state)));
}

StoreLinkClient::StoreLinkClient(std::unique_ptr<State> state) : state_(std::move(state)) {}

StoreLinkClient::~StoreLinkClient() {
  state_->loop->Post([this] { state_->Close(); });
  state_->finished.get_future().wait();
  state_->loop->Close();
  state_->thread.join();
  state_->loop->Abandon();
}

}  // namespace longshelf::worker
