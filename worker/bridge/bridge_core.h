#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "byte_budget.h"
#include "common/breaker.h"
#include "common/clock.h"
#include "common/mailbox.h"
#include "common/task_loop.h"
#include "engine/messages.h"
#include "engine/observer.h"
#include "homes.h"
#include "kvstore/client.h"
#include "worker/bridge/options.h"
#include "worker/metrics.h"
#include "worker/prefix_hasher.h"

namespace longshelf::worker {

// What fetching took lately, so that nothing is fetched that is computed faster. Owner: the loop.
//
// What a byte takes is known from those that brought enough bytes to tell. One that was given up tells that its time
// was too short, which says nothing to who can wait twice as long. Of those who are kept away somebody is let through
// now and then, and when his comes, it replaces what was known.
class FetchSpeed {
 public:
  // Fewer bytes tell of latency, not of speed.
  explicit FetchSpeed(uint64_t n_bytes_telling) : n_bytes_telling_(n_bytes_telling) {}

  // False: computing is faster.
  bool IsWorth(uint64_t n_bytes, absl::Duration compute_time, absl::Time now);
  // Zero while nothing is known.
  absl::Duration TimeOf(uint64_t n_bytes) const {
    return absl::Seconds(seconds_per_byte_ * static_cast<double>(n_bytes));
  }
  // All of it came.
  void Observe(uint64_t n_bytes, absl::Duration took);
  // It was given up after so many bytes and so long.
  void TooSlow(uint64_t n_bytes, absl::Duration took, absl::Time now);

 private:
  static constexpr absl::Duration kPause = absl::Seconds(5);

  void Learn(double seconds, bool replaces);  // of a byte

  const uint64_t n_bytes_telling_;
  double seconds_per_byte_ = 0.0;                         // 0: not known
  absl::Duration waited_in_vain_ = absl::ZeroDuration();  // since the last one that came
  absl::Time try_again_ = absl::InfinitePast();
  bool is_in_doubt_ = false;  // the next to come replaces what is known
};

// Namespaces that the store said are deleted: nothing of them is offered any more. Their ids never come back, so to
// forget the earliest costs a refusal, nothing else. Owner: the loop.
class DeletedNamespaces {
 public:
  static constexpr size_t kMax = 4096;

  void Add(const std::string& id);
  bool Has(const std::string& id) const { return ids_.contains(id); }

 private:
  std::set<std::string> ids_;
  std::deque<std::string> order_;
};

// What the machines of one bridge share. All but the breakers, the budget and the prefill speed belong to the loop.
struct BridgeCore {
  BridgeCore(const KvBridgeOptions& bridge_options, const Clock& bridge_clock, kvstore::Client& client,
             std::vector<HomeStore*> home_stores, std::shared_ptr<engine::KvCopyLedger> copies,
             Mailbox<engine::EngineMessage>& inbox, WorkerMetrics& worker_metrics)
      : options(bridge_options),
        clock(bridge_clock),
        store(client),
        homes(std::move(home_stores), std::move(copies)),
        engine_inbox(inbox),
        metrics(worker_metrics),
        loop(std::make_shared<TaskLoop>(bridge_clock)),
        hasher(options.hasher != nullptr ? options.hasher : std::make_shared<KvPrefixHasher>(options.fingerprint)),
        budget(options.memory_bytes, loop),
        fetch_speed(options.state_bytes_max + 2 * options.block_bytes) {}

  // The engine looks whether something has arrived. A full inbox wakes it anyway.
  void WakeEngine() { engine_inbox.Post(engine::Wake{}); }
  // What computing these tokens would take; infinite while nothing was measured.
  absl::Duration ComputeTime(int64_t n_past, int64_t n_tokens) const;

  const KvBridgeOptions options;
  const Clock& clock;
  kvstore::Client& store;  // for what has no bytes
  Homes homes;
  Mailbox<engine::EngineMessage>& engine_inbox;
  WorkerMetrics& metrics;
  const std::shared_ptr<TaskLoop> loop;
  const std::shared_ptr<const engine::PrefixHasher> hasher;
  ByteBudget budget;
  Breaker breaker_in;
  Breaker breaker_out;
  FetchSpeed fetch_speed;
  DeletedNamespaces deleted;
  // engine::PrefillSpeed; written by the engine thread.
  std::atomic<double> prefill_seconds_per_token{0.0};
  std::atomic<double> prefill_per_position{0.0};
};

// Label of a failure in metrics and in Started::miss_reason.
std::string ReasonOf(const absl::Status& status);
// The store is gone, as opposed to having an answer that helps nobody.
bool IsStoreDown(const absl::Status& status);

}  // namespace longshelf::worker
