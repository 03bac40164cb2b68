#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>

#include "convert_service.h"
#include "open_calls.h"
#include "stream_pump.h"
#include "worker/prefix_hasher.h"
#include "worker/worker_service.h"

namespace longshelf::worker {

// What the calls of one service share.
struct ServiceCore {
  ServiceCore(WorkerServiceOptions service_options, Clock& service_clock, Mailbox<engine::EngineMessage>& inbox,
              WatchHub& watch_hub, WorkerMetrics& worker_metrics, PrefixSource* prefix_source)
      : options(std::move(service_options)),
        hasher(options.fingerprint),
        limits{options.vocab_size, options.n_context_max, options.allow_logits},
        clock(service_clock),
        engine_inbox(inbox),
        hub(watch_hub),
        metrics(worker_metrics),
        prefixes(prefix_source),
        pump(2 * options.n_streams_max + 1024, inbox) {}

  // OK, or UNAUTHENTICATED or PERMISSION_DENIED (counted).
  grpc::Status Authorize(const grpc::CallbackServerContext& context) {
    grpc::Status status = options.callers.Check(context);
    if (!status.ok()) metrics.AuthRefused();
    return status;
  }

  void StreamClosed() {
    if (n_streams.fetch_sub(1) != 1 || !draining.load()) return;
    CallOnDrained();
  }

  void CallOnDrained() {
    std::function<void()> callback;
    {
      std::lock_guard lock(drain_mutex);
      callback = on_drained;
    }
    if (callback) callback();
  }

  const WorkerServiceOptions options;
  const KvPrefixHasher hasher;
  const RequestLimits limits;
  Clock& clock;
  Mailbox<engine::EngineMessage>& engine_inbox;
  WatchHub& hub;
  WorkerMetrics& metrics;
  PrefixSource* const prefixes;
  std::atomic<bool> ready{false};
  std::atomic<bool> draining{false};
  std::atomic<uint64_t> next_sequence_id{1};
  std::atomic<size_t> n_streams{0};
  std::mutex drain_mutex;  // guards on_drained: it is set once while streams end on other threads
  std::function<void()> on_drained;
  OpenCalls calls;
  StreamPump pump;  // last: its thread uses the rest
};

}  // namespace longshelf::worker
