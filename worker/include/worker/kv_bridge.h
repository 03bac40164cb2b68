#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "common/clock.h"
#include "common/mailbox.h"
#include "engine/cache_objects.h"
#include "engine/messages.h"
#include "kvstore/client.h"
#include "worker/breaker.h"
#include "worker/metrics.h"
#include "worker/prefix_source.h"
#include "worker/task_pool.h"

namespace longshelf::worker {

struct KvBridgeOptions {
  kvstore::Fingerprint fingerprint{};
  // Sizes that a stored object must have, from the engine's layout. Anything else is refused before it is allocated.
  uint64_t block_bytes = 0;                               // full blocks and tails
  std::function<uint64_t(int64_t n_tokens)> state_bytes;  // checkpoint at a position

  uint64_t restore_memory_bytes = uint64_t{1} << 30;    // fetched and not yet imported, all sequences together
  uint64_t offload_memory_bytes = uint64_t{256} << 20;  // waiting to be put
  int n_restore_threads = 2;
  size_t n_restores_queued_max = 256;
  size_t n_parks_queued_max = 16;

  absl::Duration probe_timeout = absl::Seconds(5);  // the engine answers between two steps
  absl::Duration lookup_timeout = absl::Seconds(1);
  // A fetch that takes longer than this is given up and computed instead.
  absl::Duration fetch_timeout = absl::Seconds(2);
  absl::Duration fetch_timeout_per_block = absl::Milliseconds(15);
  absl::Duration put_timeout = absl::Seconds(20);
};

// Between one engine and the KV store: the engine knows what the bytes mean, the store knows where they are. Everything
// that blocks runs on threads of the bridge; the engine thread only posts to it. A store that is down, slow, full or
// wrong costs a recomputation and is counted; it never fails or blocks a sequence.
class KvBridge final : public PrefixSource {
 public:
  // Everything must outlive the bridge. The engine may still run while the bridge is destroyed.
  KvBridge(const KvBridgeOptions& options, Clock& clock, kvstore::Client& store,
           Mailbox<engine::EngineMessage>& engine_inbox, WorkerMetrics& metrics);
  // Puts what is queued (bounded by put_timeout when the store hangs), then joins.
  ~KvBridge() override;
  KvBridge(const KvBridge&) = delete;
  KvBridge& operator=(const KvBridge&) = delete;

  void Restore(RestoreRequest request, std::function<void(RestoreOutcome)> done) override;
  void Park(ParkCommand command, std::function<void(absl::StatusOr<ParkOutcome>)> done) override;

  // Engine thread. Takes the objects or drops them, at once.
  void Offload(std::string_view namespace_id, std::vector<engine::ParkedObject> objects);

  bool store_up() const { return !breaker_.is_open(clock_.Now()); }

 private:
  struct OffloadBatch {
    std::string namespace_id;
    std::vector<engine::ParkedObject> objects;
    uint64_t n_bytes = 0;
  };
  struct Chain;      // the keys of one prompt
  struct Candidate;  // a stored checkpoint that names our own tokens
  struct Fetched;    // what arrived so far

  Chain MakeChain(const RestoreRequest& request) const;
  RestoreOutcome RestoreNow(const RestoreRequest& request);
  int64_t ProbeLocal(const RestoreRequest& request);
  absl::StatusOr<kvstore::LookupResult> LookupChain(const Chain& chain, std::span<const uint32_t> tokens);
  std::vector<Candidate> UsableCheckpoints(const Chain& chain, const kvstore::LookupResult& found,
                                           std::span<const uint32_t> tokens, int64_t n_local);
  // Empty when the candidate's objects are all in `fetched`, else why not.
  std::string FetchCandidate(const Chain& chain, const Candidate& candidate, const RestoreRequest& request,
                             absl::Time deadline, Fetched& fetched);
  std::string FetchItems(std::span<const kvstore::GetItem> items, absl::Time deadline,
                         const std::function<void(size_t, std::vector<std::byte>)>& take);

  void ParkNow(const ParkCommand& command, const std::vector<engine::ParkedObject>& objects,
               const std::function<void(absl::StatusOr<ParkOutcome>)>& done);
  // Appends what was not in the store before to `created`, also when it fails.
  absl::Status PutParked(std::span<const kvstore::PutItem> items, absl::Time deadline,
                         std::vector<kvstore::ObjectKey>& created);
  void DropCreated(std::span<const kvstore::ObjectKey> created);
  kvstore::PutItem MakeItem(const engine::ParkedObject& object, std::string_view namespace_id) const;

  void OffloadLoop();
  void PutBatch(const OffloadBatch& batch);
  void ReportCall(const absl::Status& status);

  const KvBridgeOptions options_;
  Clock& clock_;
  kvstore::Client& store_;
  Mailbox<engine::EngineMessage>& engine_inbox_;
  WorkerMetrics& metrics_;
  Breaker breaker_;
  std::shared_ptr<std::atomic<uint64_t>> restore_bytes_;  // shared with leases that outlive the bridge
  std::atomic<uint64_t> offload_bytes_{0};
  std::atomic<size_t> offload_objects_{0};
  Mailbox<OffloadBatch> offload_inbox_;
  // Declared last: their threads use everything above.
  TaskPool restore_pool_;
  TaskPool park_pool_;
  std::thread offload_thread_;
};

}  // namespace longshelf::worker
