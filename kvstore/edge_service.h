#pragma once

// What all calls of the store's edge share. Private to the service.

#include <grpcpp/server_context.h>

#include <atomic>
#include <chrono>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "kvstore/server.h"
#include "kvstore/store.h"
#include "proto/internal_auth.h"

namespace longshelf::kvstore {

inline constexpr auto kLongestDeadline = std::chrono::minutes(10);
inline constexpr uint32_t kBusyRetryMs = 50;

// Counters that calls feed; safe from any thread.
struct EdgeMetrics {
  explicit EdgeMetrics(Metrics& metrics);

  prometheus::Counter& lookups;
  prometheus::Counter& lookup_keys_present;
  prometheus::Counter& lookup_keys_absent;
  prometheus::Counter& put_committed;
  prometheus::Counter& put_existed;
  prometheus::Counter& put_busy;
  prometheus::Counter& put_refused;
  prometheus::Counter& put_corrupt;
  prometheus::Counter& put_broken;  // reservations given back by a stream that ended
  prometheus::Counter& get_corrupt;
  prometheus::Counter& bytes_in;
  prometheus::Counter& bytes_out;
  prometheus::Counter& unauthenticated;
};

// Owned by the server, used by every call; immutable but for the counters.
struct Edge {
  Edge(const ServerOptions& server_options, proto::CallerRules caller_rules, Store& the_store, const Clock& the_clock,
       Metrics& metrics)
      : options(server_options),
        callers(std::move(caller_rules)),
        store(the_store),
        clock(the_clock),
        counters(metrics) {}

  // UNAUTHENTICATED without the token, PERMISSION_DENIED with the certificate of another role than kCallersOfKvstore.
  absl::Status CheckCaller(const grpc::CallbackServerContext& context);
  // The same for streams, which also need a deadline.
  absl::Status CheckStream(const grpc::CallbackServerContext& context);

  const ServerOptions options;
  const proto::CallerRules callers;
  Store& store;
  const Clock& clock;
  EdgeMetrics counters;
  std::atomic<int> n_streams = 0;
};

// Counts a stream while it lives.
class StreamSlot {
 public:
  explicit StreamSlot(Edge& edge) : edge_(edge), n_before_(edge.n_streams.fetch_add(1)) {}
  ~StreamSlot() { edge_.n_streams.fetch_sub(1); }
  StreamSlot(const StreamSlot&) = delete;
  StreamSlot& operator=(const StreamSlot&) = delete;
  absl::Status Check() const;

 private:
  Edge& edge_;
  const int n_before_;
};

}  // namespace longshelf::kvstore
