#include "worker/kv_bridge.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace longshelf::worker {
namespace {

using engine::ParkedObject;
using kvstore::ObjectKind;

constexpr size_t kOffloadBatchesMax = 4096;
constexpr size_t kItemsPerPut = 256;
// Namespace of requests that name none; the store wants one on every object.
constexpr std::string_view kDefaultNamespace = "default";

ObjectKind KindOf(ParkedObject::Kind kind) {
  switch (kind) {
    case ParkedObject::Kind::kTail:
      return ObjectKind::kTail;
    case ParkedObject::Kind::kCheckpoint:
      return ObjectKind::kCheckpoint;
    case ParkedObject::Kind::kBlock:
      break;
  }
  return ObjectKind::kBlock;
}

// Answers exactly once, also when the engine goes away without replying.
class ParkAnswer {
 public:
  explicit ParkAnswer(std::function<void(absl::StatusOr<ParkOutcome>)> done) : done_(std::move(done)) {}
  ~ParkAnswer() { Give(absl::UnavailableError("the engine stopped before it exported the prefix")); }
  ParkAnswer(const ParkAnswer&) = delete;
  ParkAnswer& operator=(const ParkAnswer&) = delete;
  void Give(absl::StatusOr<ParkOutcome> outcome) {
    if (const auto done = std::exchange(done_, nullptr)) done(std::move(outcome));
  }

 private:
  std::function<void(absl::StatusOr<ParkOutcome>)> done_;
};

}  // namespace

KvBridge::KvBridge(const KvBridgeOptions& options, Clock& clock, kvstore::Client& store,
                   Mailbox<engine::EngineMessage>& engine_inbox, WorkerMetrics& metrics)
    : options_(options),
      clock_(clock),
      store_(store),
      engine_inbox_(engine_inbox),
      metrics_(metrics),
      restore_bytes_(std::make_shared<std::atomic<uint64_t>>(0)),
      offload_inbox_(kOffloadBatchesMax),
      restore_pool_(options.n_restore_threads, options.n_restores_queued_max),
      park_pool_(1, options.n_parks_queued_max),
      offload_thread_([this] { OffloadLoop(); }) {}

KvBridge::~KvBridge() {
  offload_inbox_.Close();
  offload_thread_.join();
}

void KvBridge::ReportCall(const absl::Status& status) {
  const bool down = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsUnauthenticated(status);
  if (down) {
    breaker_.Failed(clock_.Now());
  } else {
    breaker_.Succeeded();
  }
  metrics_.SetStoreUp(!down);
}

kvstore::PutItem KvBridge::MakeItem(const ParkedObject& object, std::string_view namespace_id) const {
  kvstore::PutItem item;
  item.head.key = {object.key, KindOf(object.kind)};
  item.head.parent = object.parent;
  item.head.depth_tokens = static_cast<uint32_t>(object.n_tokens);
  item.head.fingerprint = options_.fingerprint;
  item.head.namespace_id = namespace_id.empty() ? kDefaultNamespace : namespace_id;
  item.payload = object.bytes;
  return item;
}

void KvBridge::Offload(std::string_view namespace_id, std::vector<ParkedObject> objects) {
  if (objects.empty()) return;
  OffloadBatch batch{std::string(namespace_id), std::move(objects), 0};
  for (const ParkedObject& object : batch.objects) batch.n_bytes += object.bytes.size();
  const size_t n_objects = batch.objects.size();
  const uint64_t n_bytes = batch.n_bytes;
  const bool fits = offload_bytes_.fetch_add(n_bytes) + n_bytes <= options_.offload_memory_bytes;
  offload_objects_.fetch_add(n_objects);
  if (!fits || !offload_inbox_.Post(std::move(batch))) {
    offload_bytes_.fetch_sub(n_bytes);
    offload_objects_.fetch_sub(n_objects);
    metrics_.OffloadDropped(n_objects);
  }
  metrics_.SetOffloadQueue(offload_objects_.load(), offload_bytes_.load());
}

void KvBridge::OffloadLoop() {
  while (true) {
    // Long: a message or Close() ends the wait.
    std::vector<OffloadBatch> batches = offload_inbox_.Drain(std::chrono::minutes(1));
    if (batches.empty() && offload_inbox_.closed()) return;
    for (OffloadBatch& batch : batches) {
      PutBatch(batch);
      offload_bytes_.fetch_sub(batch.n_bytes);
      offload_objects_.fetch_sub(batch.objects.size());
      batch.objects.clear();
      batch.objects.shrink_to_fit();
      metrics_.SetOffloadQueue(offload_objects_.load(), offload_bytes_.load());
    }
  }
}

void KvBridge::PutBatch(const OffloadBatch& batch) {
  for (size_t begin = 0; begin < batch.objects.size(); begin += kItemsPerPut) {
    const size_t end = std::min(batch.objects.size(), begin + kItemsPerPut);
    if (!breaker_.MayCall(clock_.Now())) {
      metrics_.OffloadDropped(batch.objects.size() - begin);
      return;
    }
    std::vector<kvstore::PutItem> items;
    for (size_t i = begin; i < end; ++i) items.push_back(MakeItem(batch.objects[i], batch.namespace_id));
    const auto outcomes = store_.PutMany(items, options_.put_timeout);
    absl::Status call;
    bool answered = false;  // a store that took or refused one object is up, however busy it is for the others
    for (size_t i = 0; i < outcomes.size(); ++i) {
      if (outcomes[i].ok()) {
        answered = true;
        const bool existed = outcomes[i]->existed;
        metrics_.OffloadDone(existed ? "existed" : "stored", items[i].payload.size());
        if (existed && outcomes[i]->digest != kvstore::DigestOf(items[i].payload)) metrics_.DigestConflict();
        continue;
      }
      const bool refused = absl::IsResourceExhausted(outcomes[i].status());
      metrics_.OffloadDone(refused ? "refused" : "failed", items[i].payload.size());
      answered = answered || refused;
      if (!refused) call = outcomes[i].status();
    }
    ReportCall(answered ? absl::OkStatus() : call);
  }
}

void KvBridge::Park(ParkCommand command, std::function<void(absl::StatusOr<ParkOutcome>)> done) {
  auto answer = std::make_shared<ParkAnswer>(std::move(done));
  if (!breaker_.MayCall(clock_.Now())) {
    metrics_.ParkDone("failed");
    answer->Give(absl::UnavailableError("the KV store does not answer; try again later"));
    return;
  }
  auto shared = std::make_shared<ParkCommand>(std::move(command));
  engine::ExportPrefix message;
  message.tokens = std::move(shared->tokens);
  message.namespace_salt = shared->namespace_salt;
  message.prefix_keys = std::move(shared->prefix_keys);
  message.reply = [this, shared, answer](absl::StatusOr<std::vector<ParkedObject>> objects) {
    if (!objects.ok()) {
      metrics_.ParkDone(absl::IsNotFound(objects.status()) ? "not_found" : "failed");
      answer->Give(objects.status());
      return;
    }
    auto kept = std::make_shared<std::vector<ParkedObject>>(std::move(objects).value());
    const bool posted = park_pool_.Post([this, shared, answer, kept] {
      ParkNow(*shared, *kept, [&answer](absl::StatusOr<ParkOutcome> outcome) { answer->Give(std::move(outcome)); });
    });
    if (!posted) {
      metrics_.ParkDone("failed");
      answer->Give(absl::ResourceExhaustedError(
          absl::StrCat(options_.n_parks_queued_max, " parks are already waiting, the limit; try again later")));
    }
  };
  engine::EngineMessage posted = std::move(message);
  if (!engine_inbox_.Post(std::move(posted))) {
    metrics_.ParkDone("failed");
    answer->Give(absl::ResourceExhaustedError("the engine's inbox is full; try again later"));
  }
}

void KvBridge::ParkNow(const ParkCommand& command, const std::vector<ParkedObject>& objects,
                       const std::function<void(absl::StatusOr<ParkOutcome>)>& done) {
  const absl::Time deadline = clock_.Now() + command.timeout;
  ParkOutcome outcome;
  std::vector<kvstore::PutItem> items;
  for (const ParkedObject& object : objects) {
    kvstore::PutItem item = MakeItem(object, command.namespace_id);
    item.head.object_class = kvstore::ObjectClass::kParked;
    item.head.retain_until = command.retain_until;
    items.push_back(std::move(item));
    outcome.n_bytes += object.bytes.size();
    if (object.kind == ParkedObject::Kind::kCheckpoint && object.n_tokens >= outcome.n_tokens) {
      outcome.n_tokens = object.n_tokens;
      outcome.checkpoint_key = object.key;
    }
  }
  outcome.n_objects = static_cast<uint32_t>(objects.size());
  absl::Status status =
      outcome.n_tokens > 0 ? absl::OkStatus() : absl::NotFoundError("no checkpoint at or before the given tokens");
  std::vector<kvstore::ObjectKey> created;
  for (size_t begin = 0; status.ok() && begin < items.size(); begin += kItemsPerPut) {
    const size_t n = std::min(kItemsPerPut, items.size() - begin);
    status = PutParked(std::span<const kvstore::PutItem>(items).subspan(begin, n), deadline, created);
  }
  if (!status.ok()) DropCreated(created);
  metrics_.ParkDone(status.ok() ? "ok" : "failed");
  if (status.ok()) {
    done(outcome);
  } else {
    done(Annotate(status, "parking"));
  }
}

// Half a park is of no use, and its retention would keep others out of the parked share.
void KvBridge::DropCreated(std::span<const kvstore::ObjectKey> created) {
  for (size_t begin = 0; begin < created.size(); begin += kvstore::kMaxKeysPerCall) {
    const auto part = created.subspan(begin, std::min(kvstore::kMaxKeysPerCall, created.size() - begin));
    const auto dropped = store_.Drop(part, options_.lookup_timeout);
    if (!dropped.ok()) return ReportCall(dropped.status());
  }
}

absl::Status KvBridge::PutParked(std::span<const kvstore::PutItem> items, absl::Time deadline,
                                 std::vector<kvstore::ObjectKey>& created) {
  std::vector<kvstore::PutItem> left(items.begin(), items.end());
  // UNAVAILABLE for an object says that the store has no memory right now; what is left is offered again.
  while (!left.empty()) {
    const absl::Duration time_left = deadline - clock_.Now();
    if (time_left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError("the KV store did not acknowledge every object in time");
    }
    const auto outcomes = store_.PutMany(left, std::min(time_left, options_.put_timeout));
    std::vector<kvstore::PutItem> retry;
    absl::Status transient;
    absl::Status refused;
    for (size_t i = 0; i < outcomes.size(); ++i) {
      if (outcomes[i].ok()) {
        if (!outcomes[i]->existed) created.push_back(left[i].head.key);
        if (outcomes[i]->existed && outcomes[i]->digest != kvstore::DigestOf(left[i].payload))
          metrics_.DigestConflict();
        continue;
      }
      if (!absl::IsUnavailable(outcomes[i].status())) {
        refused = outcomes[i].status();
        continue;
      }
      transient = outcomes[i].status();
      retry.push_back(left[i]);
    }
    if (!refused.ok()) {
      ReportCall(refused);
      return refused;
    }
    // No progress at all is a store that is gone, not one that is busy.
    if (retry.size() == left.size()) {
      ReportCall(transient);
      return transient;
    }
    ReportCall(absl::OkStatus());
    left = std::move(retry);
  }
  return absl::OkStatus();
}

}  // namespace longshelf::worker
