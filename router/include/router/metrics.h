#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "absl/time/time.h"
#include "common/metrics.h"

namespace longshelf::router {

// Every number the router exports. Labels are bounded: routes and codes from our own tables, workers by their position
// in --workers. Owner: the router loop (the underlying objects may be scraped from any thread).
class RouterMetrics {
 public:
  // `metrics` must outlive this.
  explicit RouterMetrics(Metrics& metrics);

  void RequestFinished(std::string_view route, int http_status, absl::Duration elapsed);
  void TimeToFirstToken(absl::Duration elapsed);
  void InterTokenLatency(absl::Duration elapsed);
  // How many prompt tokens came from where, and why the first of those that were computed was not found anywhere.
  void PromptTokens(uint64_t n_tokens, uint64_t n_local, uint64_t n_store, std::string_view miss_reason);
  void OutputTokens(uint64_t n_tokens);

  void Picked(std::string_view reason);
  void Retried();     // before the first token
  void Resumed();     // after it
  void StaleEvent();  // dropped: an old epoch or a used index
  void WorkerRefused();
  void WorkerUp(size_t worker, bool up);
  void WorkerDied();     // unasked
  void RequestBlamed();  // and refused, for deaths of workers
  // Which namespaces were deleted; there may be no stores to read it from.
  void NamespacesRead(bool read);
  void QueueDepth(size_t n_streams);
  void QueueWait(absl::Duration waited);  // of a stream that a worker was found for
  void Shed(std::string_view reason);     // refused because others are before it
  void StreamRefused();                   // by a worker that had too much
  void BreakerOpened();
  void ConnectionsOpen(size_t n_connections);
  void ConnectionRefused();
  void TlsHandshakeFailed();
  void SlowClientDropped();
  void RateLimited(std::string_view limit);  // of a key
  // Any thread.
  void AuthFailed(std::string_view reason);
  void AuditLinesDropped(uint64_t n_lines);

 private:
  Metrics& metrics_;
  std::map<std::pair<std::string, int>, prometheus::Counter*, std::less<>> requests_;
  std::map<std::string, prometheus::Counter*, std::less<>> picks_;
  std::map<size_t, prometheus::Gauge*> workers_up_;
  prometheus::Histogram& request_seconds_;
  prometheus::Histogram& first_token_seconds_;
  prometheus::Histogram& inter_token_seconds_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& cached_tokens_;
  prometheus::Counter& local_tokens_;
  prometheus::Counter& store_tokens_;
  prometheus::Counter& computed_tokens_;
  std::map<std::string, prometheus::Counter*, std::less<>> misses_;
  prometheus::Counter& output_tokens_;
  prometheus::Counter& retries_;
  prometheus::Counter& resumes_;
  prometheus::Counter& stale_events_;
  prometheus::Counter& workers_refused_;
  prometheus::Counter& worker_deaths_;
  prometheus::Counter& requests_blamed_;
  prometheus::Gauge& namespaces_read_;
  prometheus::Gauge& queue_depth_;
  prometheus::Histogram& queue_seconds_;
  std::map<std::string, prometheus::Counter*, std::less<>> shed_;
  prometheus::Counter& streams_refused_;
  prometheus::Counter& breakers_opened_;
  prometheus::Gauge& connections_;
  prometheus::Counter& connections_refused_;
  prometheus::Counter& handshakes_failed_;
  prometheus::Counter& slow_clients_;
  std::map<std::string, prometheus::Counter*, std::less<>> rate_limited_;
  std::map<std::string, prometheus::Counter*, std::less<>> auth_failures_;  // none is added after construction
  prometheus::Counter& audit_lines_dropped_;
};

}  // namespace longshelf::router
