#include "worker/bridge/kv_bridge.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge_core.h"
#include "common/check.h"
#include "common/status.h"
#include "engine/model/kv_layout.h"
#include "offload_queue.h"
#include "put_item.h"
#include "restore.h"
#include "session_keeper.h"
#include "upload.h"

namespace longshelf::worker {
namespace {

constexpr size_t kParksMax = 64;

absl::Status ShuttingDown() { return absl::UnavailableError("the worker is shutting down"); }
absl::Status StoreSilent() { return absl::UnavailableError("the KV store does not answer; try again later"); }

}  // namespace

// All but the core belong to the loop.
struct KvBridge::Impl {
  Impl(const KvBridgeOptions& options, const Clock& clock, kvstore::Client& store, std::vector<HomeStore*> homes,
       std::shared_ptr<engine::KvCopyLedger> copies, Mailbox<engine::EngineMessage>& engine_inbox,
       WorkerMetrics& metrics)
      : core(options, clock, store, std::move(homes), std::move(copies), engine_inbox, metrics),
        offloads(std::make_shared<OffloadQueue>(core)),
        sessions(std::make_shared<SessionKeeper>(core)) {}

  void StartRestore(const std::shared_ptr<worker::Restore>& restore, std::vector<uint32_t> tokens);
  void StartPark(ParkCommand command, const engine::FoundPrefix& found,
                 const std::function<void(absl::StatusOr<ParkOutcome>)>& done);
  void Abandon();

  BridgeCore core;
  const std::shared_ptr<OffloadQueue> offloads;
  const std::shared_ptr<SessionKeeper> sessions;
  std::vector<std::weak_ptr<worker::Restore>> restores;
  std::vector<std::weak_ptr<Upload>> parks;
  bool is_abandoned = false;
};

namespace {

template <typename T>
void Forget(std::vector<std::weak_ptr<T>>& gone) {
  std::erase_if(gone, [](const std::weak_ptr<T>& one) { return one.expired(); });
}

// Answers exactly once, also when what was to answer goes away.
class ParkAnswer {
 public:
  explicit ParkAnswer(std::function<void(absl::StatusOr<ParkOutcome>)> done, WorkerMetrics& metrics)
      : done_(std::move(done)), metrics_(metrics) {}
  ~ParkAnswer() { Give(absl::UnavailableError("the worker stopped before it had parked the prefix")); }
  ParkAnswer(const ParkAnswer&) = delete;
  ParkAnswer& operator=(const ParkAnswer&) = delete;
  void Give(absl::StatusOr<ParkOutcome> outcome) {
    const auto done = std::exchange(done_, nullptr);
    if (done == nullptr) return;
    metrics_.ParkDone(outcome.ok() ? "ok" : absl::IsNotFound(outcome.status()) ? "not_found" : "failed");
    done(std::move(outcome));
  }

 private:
  std::function<void(absl::StatusOr<ParkOutcome>)> done_;
  WorkerMetrics& metrics_;
};

}  // namespace

void KvBridge::Impl::StartRestore(const std::shared_ptr<worker::Restore>& restore, std::vector<uint32_t> tokens) {
  Forget(restores);
  if (is_abandoned) return restore->Abandon();
  restores.push_back(restore);
  restore->Start(std::move(tokens));
}

void KvBridge::Impl::StartPark(ParkCommand command, const engine::FoundPrefix& found,
                               const std::function<void(absl::StatusOr<ParkOutcome>)>& done) {
  Forget(parks);
  if (is_abandoned) return done(ShuttingDown());
  if (parks.size() >= kParksMax) {
    return done(
        absl::UnavailableError(absl::StrCat(kParksMax, " parks are already under way, the limit; try again later")));
  }
  if (!core.breaker_out.MayCall(core.clock.Now())) return done(StoreSilent());
  UploadOrder order;
  order.namespace_id = std::move(command.namespace_id);
  order.root = found.root;
  order.blocks = found.blocks;
  order.at = found.at;
  order.object_class = kvstore::ObjectClass::kParked;
  order.retain_until = command.retain_until;
  order.ack = command.ack;
  order.n_replicas = command.n_replicas == 0 ? core.options.n_replicas : command.n_replicas;
  order.timeout = command.timeout;
  auto upload = std::make_shared<Upload>(core, std::move(order),
                                         [done, at = found.at](const absl::StatusOr<UploadResult>& result) {
                                           if (!result.ok()) return done(Annotate(result.status(), "parking"));
                                           done(ParkOutcome{.n_tokens = at.n_tokens,
                                                            .n_objects = static_cast<uint32_t>(result->n_objects),
                                                            .n_bytes = result->n_bytes,
                                                            .checkpoint_key = at.key});
                                         });
  parks.push_back(upload);
  upload->Start();
}

void KvBridge::Impl::Abandon() {
  is_abandoned = true;
  for (const auto& weak : restores) {
    if (const auto restore = weak.lock()) restore->Abandon();
  }
  for (const auto& weak : parks) {
    if (const auto park = weak.lock()) park->Abandon(ShuttingDown());
  }
  sessions->Abandon(ShuttingDown());
}

KvBridge::KvBridge(const KvBridgeOptions& options, const Clock& clock, kvstore::Client& store,
                   std::vector<HomeStore*> homes, std::shared_ptr<engine::KvCopyLedger> copies,
                   Mailbox<engine::EngineMessage>& engine_inbox, WorkerMetrics& metrics)
    : impl_(std::make_unique<Impl>(options, clock, store, std::move(homes), std::move(copies), engine_inbox, metrics)) {
  LONGSHELF_CHECK(options.memory_bytes >= options.MemoryMin());
  metrics.SetStoreUp(true);  // until a call says otherwise
  impl_->core.loop->Post([sessions = impl_->sessions] { sessions->Start(); });
}

KvBridge::~KvBridge() { impl_->core.loop->Abandon(); }

void KvBridge::Run() { impl_->core.loop->RunUntilClosed(); }

void KvBridge::RunReady() { impl_->core.loop->RunReady(); }

void KvBridge::Abandon() {
  impl_->core.loop->Post([impl = impl_.get()] { impl->Abandon(); });
}

void KvBridge::Stop() {
  impl_->core.loop->Post([impl = impl_.get(), loop = impl_->core.loop] {
    impl->Abandon();
    impl->offloads->WhenIdle([loop] { loop->Close(); });
    loop->At(loop->Now() + impl->core.options.put_timeout, [loop] { loop->Close(); });
  });
}

void KvBridge::Restore(RestoreRequest request, std::function<void(RestoreOutcome)> done) {
  const absl::Time arrived_at = impl_->core.clock.Now();
  // Hashing is done here, on the caller's thread.
  Chain chain(*impl_->core.hasher, request.namespace_salt, request.tokens, std::move(request.prefix_keys));
  if (chain.n_usable() < 1 || chain.blocks().size() > kvstore::kMaxChainKeys) return done({});
  auto restore = std::make_shared<worker::Restore>(impl_->core, arrived_at, std::move(chain), std::move(done),
                                                   std::move(request.cancelled));
  impl_->core.loop->Post([impl = impl_.get(), restore, tokens = std::move(request.tokens)]() mutable {
    impl->StartRestore(restore, std::move(tokens));
  });
}

void KvBridge::Park(ParkCommand command, std::function<void(absl::StatusOr<ParkOutcome>)> done) {
  BridgeCore& core = impl_->core;
  auto answer = std::make_shared<ParkAnswer>(std::move(done), core.metrics);
  // The turn of who may try a store that was down is taken when it is used.
  if (core.breaker_out.is_open(core.clock.Now())) return answer->Give(StoreSilent());
  auto shared = std::make_shared<ParkCommand>(std::move(command));
  engine::FindPrefix message;
  message.tokens = std::move(shared->tokens);
  message.namespace_salt = shared->namespace_salt;
  message.prefix_keys = std::move(shared->prefix_keys);
  message.reply = [impl = impl_.get(), loop = core.loop, shared, answer](absl::StatusOr<engine::FoundPrefix> found) {
    if (!found.ok()) return answer->Give(found.status());
    found->state.reset();  // asked for again when there is memory for it
    found->tail.reset();
    loop->Post([impl, shared, answer, found = *std::move(found)] {
      impl->StartPark(std::move(*shared), found,
                      [answer](absl::StatusOr<ParkOutcome> outcome) { answer->Give(std::move(outcome)); });
    });
  };
  if (!core.engine_inbox.Post(std::move(message))) {
    answer->Give(absl::UnavailableError("the engine's inbox is full; try again later"));
  }
}

void KvBridge::Offload(const engine::CacheChain& chain, std::vector<engine::ParkedObject> objects) {
  const auto checkpoint = std::find_if(objects.begin(), objects.end(), [](const engine::ParkedObject& object) {
    return object.kind == engine::ParkedObject::Kind::kCheckpoint;
  });
  OffloadQueue::OnSettled settled;
  if (checkpoint != objects.end()) {
    auto order = std::make_shared<UploadOrder>();
    order->namespace_id = std::string(chain.namespace_id);
    order->root = chain.root;
    const auto n_blocks = static_cast<std::ptrdiff_t>(checkpoint->n_tokens / engine::kBlockTokens);
    order->blocks.assign(chain.blocks.begin(), chain.blocks.begin() + n_blocks);
    order->at = {checkpoint->key, checkpoint->parent, checkpoint->n_tokens};
    settled = [sessions = impl_->sessions, order, continues = chain.continues] {
      sessions->Note(std::move(*order), continues);
    };
  }
  std::vector<Homes::PutItem> items;
  for (const engine::ParkedObject& object : objects) {
    items.push_back(MakePutItem(impl_->core.options.fingerprint, object, chain.namespace_id,
                                kvstore::ExtentOf(chain.root, chain.blocks, static_cast<uint64_t>(object.n_tokens))));
  }
  impl_->offloads->Offer(std::move(items), std::move(settled));
}

void KvBridge::DropCheckpoints(const engine::CacheChain& chain, const std::vector<engine::PrefixKey>& keys) {
  std::vector<kvstore::PlacedKey> placed;
  for (size_t i = 0; i < chain.blocks.size() && placed.size() < keys.size(); ++i) {
    if (chain.blocks[i] != keys[placed.size()]) continue;
    placed.push_back({.key = {chain.blocks[i], kvstore::ObjectKind::kCheckpoint},
                      .extent = kvstore::ExtentOf(chain.root, chain.blocks, (i + 1) * engine::kBlockTokens)});
  }
  impl_->offloads->Drop(std::move(placed));
}

void KvBridge::SetPrefillSpeed(const engine::PrefillSpeed& speed) {
  impl_->core.prefill_seconds_per_token.store(speed.seconds_per_token);
  impl_->core.prefill_per_position.store(speed.per_position);
}

bool KvBridge::store_up() const { return !impl_->core.breaker_in.is_open(impl_->core.clock.Now()); }

uint64_t KvBridge::n_bytes_used() const { return impl_->core.budget.n_used(); }

}  // namespace longshelf::worker
