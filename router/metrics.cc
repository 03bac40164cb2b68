#include "router/metrics.h"

#include <vector>

#include "absl/strings/str_cat.h"

namespace longshelf::router {
namespace {

constexpr char kRequests[] = "longshelf_router_requests_total";
constexpr char kPicks[] = "longshelf_router_picks_total";
constexpr char kWorkerUp[] = "longshelf_router_worker_up";

constexpr char kMisses[] = "longshelf_router_prompt_misses_total";

prometheus::Counter& SourceCounter(Metrics& metrics, const char* source) {
  return metrics.AddCounter("longshelf_router_prompt_source_tokens_total",
                            "Prompt tokens by where they came from: the worker's memory, the KV store, or computed.",
                            {{"source", source}});
}

using ByLabel = std::map<std::string, prometheus::Counter*, std::less<>>;

void AddByLabel(Metrics& metrics, const char* name, const char* help, const char* label,
                const std::vector<const char*>& values, ByLabel& to) {
  for (const char* value : values) to[value] = &metrics.AddCounter(name, help, {{label, value}});
}

std::string RequestsHelp() { return "Requests answered, by route and status."; }
std::string PicksHelp() { return "Streams given to a worker, by why it was picked."; }

}  // namespace

RouterMetrics::RouterMetrics(Metrics& metrics)
    : metrics_(metrics),
      request_seconds_(metrics.AddHistogram("longshelf_router_request_duration_seconds",
                                            "From the request's last byte to its answer's last byte.",
                                            Metrics::SecondsBounds())),
      first_token_seconds_(metrics.AddHistogram("longshelf_router_time_to_first_token_seconds",
                                                "From the prompt being ready to its first output token.",
                                                Metrics::SecondsBounds())),
      inter_token_seconds_(metrics.AddHistogram("longshelf_router_inter_token_latency_seconds",
                                                "Between two output tokens of one choice.", Metrics::SecondsBounds())),
      prompt_tokens_(metrics.AddCounter("longshelf_router_prompt_tokens_total", "Prompt tokens of served requests.")),
      cached_tokens_(metrics.AddCounter("longshelf_router_prompt_cached_tokens_total",
                                        "Prompt tokens that were not computed again.")),
      local_tokens_(SourceCounter(metrics, "worker")),
      store_tokens_(SourceCounter(metrics, "store")),
      computed_tokens_(SourceCounter(metrics, "computed")),
      output_tokens_(metrics.AddCounter("longshelf_router_output_tokens_total", "Output tokens relayed.")),
      retries_(metrics.AddCounter("longshelf_router_retries_total", "Second attempts before the first token.")),
      resumes_(metrics.AddCounter("longshelf_router_resumes_total", "Begun streams moved to another worker.")),
      stale_events_(metrics.AddCounter("longshelf_router_stale_events_total",
                                       "Events dropped because of an old epoch or a used index.")),
      workers_refused_(
          metrics.AddCounter("longshelf_router_workers_refused_total",
                             "Times a worker was refused because it is not ready or serves another model.")),
      worker_deaths_(metrics.AddCounter("longshelf_router_worker_deaths_total",
                                        "Times a worker that served ended without having drained.")),
      requests_blamed_(metrics.AddCounter("longshelf_router_requests_blamed_total",
                                          "Requests refused because workers died under them.")),
      namespaces_read_(metrics.AddGauge("longshelf_router_namespaces_read",
                                        "Whether the KV stores have said which namespaces were deleted. 0 while ready: "
                                        "they did not, and deleted names are in use.")),
      queue_depth_(metrics.AddGauge("longshelf_router_queue_depth", "Streams that wait for a worker.")),
      queue_seconds_(metrics.AddHistogram("longshelf_router_queue_wait_seconds",
                                          "How long streams waited for a worker that could begin them.",
                                          Metrics::SecondsBounds())),
      streams_refused_(metrics.AddCounter("longshelf_router_worker_refusals_total",
                                          "Streams that a worker refused because it had too much; they wait on.")),
      breakers_opened_(metrics.AddCounter("longshelf_router_breakers_opened_total",
                                          "Times a worker got no streams for a while because it had failed several.")),
      connections_(metrics.AddGauge("longshelf_router_http_connections", "Open client connections.")),
      connections_refused_(metrics.AddCounter("longshelf_router_http_connections_refused_total",
                                              "Connections closed at once because of a cap.")),
      handshakes_failed_(metrics.AddCounter("longshelf_router_tls_handshakes_failed_total",
                                            "HTTP connections that ended before TLS was agreed on.")),
      slow_clients_(metrics.AddCounter("longshelf_router_slow_clients_dropped_total",
                                       "Streams cancelled because their client stopped reading.")),
      audit_lines_dropped_(metrics.AddCounter("longshelf_router_audit_lines_dropped_total",
                                              "Lines of the audit log that could not be written.")) {
  AddByLabel(metrics, kMisses,
             "Requests whose prompt was not all reused, by why the first computed token was not found.", "reason",
             {"cold", "diverged", "evicted", "no_checkpoint", "no_tail", "bad_size", "missing", "digest_mismatch",
              "token_mismatch", "store_unreachable", "store_timeout", "slower_than_computing", "disabled",
              "restore_refused", "other"},
             misses_);
  AddByLabel(metrics, "longshelf_router_shed_total",
             "Streams refused for what is before them: at once because of the expected wait or the full queue, late "
             "when that became known late, or by their tenant's limits.",
             "reason", {"wait", "late", "queue_full", "tenant"}, shed_);
  for (const char* reason : {"cold", "prefix", "load"}) {
    picks_[reason] = &metrics.AddCounter(kPicks, PicksHelp(), {{"reason", reason}});
  }
  AddByLabel(metrics, "longshelf_router_rate_limited_total",
             "Requests refused with 429 because of a limit of their key, by limit.", "limit",
             {"requests_at_once", "requests_per_minute", "tokens_per_minute"}, rate_limited_);
  AddByLabel(metrics, "longshelf_router_auth_failures_total",
             "Requests refused with 401 or 403: without a key, with an unknown or expired one, or one that lacks the "
             "scope.",
             "reason", {"missing", "unknown", "expired", "scope"}, auth_failures_);
}

void RouterMetrics::RequestFinished(std::string_view route, int http_status, absl::Duration elapsed) {
  prometheus::Counter*& counter = requests_[{std::string(route), http_status}];
  if (counter == nullptr) {
    counter = &metrics_.AddCounter(kRequests, RequestsHelp(),
                                   {{"route", std::string(route)}, {"code", absl::StrCat(http_status)}});
  }
  counter->Increment();
  request_seconds_.Observe(absl::ToDoubleSeconds(elapsed));
}
void RouterMetrics::TimeToFirstToken(absl::Duration elapsed) {
  first_token_seconds_.Observe(absl::ToDoubleSeconds(elapsed));
}
void RouterMetrics::InterTokenLatency(absl::Duration elapsed) {
  inter_token_seconds_.Observe(absl::ToDoubleSeconds(elapsed));
}
void RouterMetrics::PromptTokens(uint64_t n_tokens, uint64_t n_local, uint64_t n_store, std::string_view miss_reason) {
  prompt_tokens_.Increment(static_cast<double>(n_tokens));
  cached_tokens_.Increment(static_cast<double>(n_local + n_store));
  local_tokens_.Increment(static_cast<double>(n_local));
  store_tokens_.Increment(static_cast<double>(n_store));
  computed_tokens_.Increment(static_cast<double>(n_tokens - n_local - n_store));
  if (miss_reason.empty()) return;
  // A reason that this router does not know is a newer worker's.
  const auto it = misses_.find(miss_reason);
  (it == misses_.end() ? misses_.at("other") : it->second)->Increment();
}
void RouterMetrics::OutputTokens(uint64_t n_tokens) { output_tokens_.Increment(static_cast<double>(n_tokens)); }
void RouterMetrics::Picked(std::string_view reason) {
  if (const auto it = picks_.find(reason); it != picks_.end()) it->second->Increment();
}
void RouterMetrics::Retried() { retries_.Increment(); }
void RouterMetrics::Resumed() { resumes_.Increment(); }
void RouterMetrics::StaleEvent() { stale_events_.Increment(); }
void RouterMetrics::WorkerRefused() { workers_refused_.Increment(); }
void RouterMetrics::WorkerDied() { worker_deaths_.Increment(); }
void RouterMetrics::RequestBlamed() { requests_blamed_.Increment(); }
void RouterMetrics::WorkerUp(size_t worker, bool up) {
  prometheus::Gauge*& gauge = workers_up_[worker];
  if (gauge == nullptr) {
    gauge = &metrics_.AddGauge(kWorkerUp, "1 while the worker is connected and serves our model.",
                               {{"worker", absl::StrCat(worker)}});
  }
  gauge->Set(up ? 1 : 0);
}
void RouterMetrics::NamespacesRead(bool read) { namespaces_read_.Set(read ? 1 : 0); }
void RouterMetrics::QueueDepth(size_t n_streams) { queue_depth_.Set(static_cast<double>(n_streams)); }
void RouterMetrics::QueueWait(absl::Duration waited) { queue_seconds_.Observe(absl::ToDoubleSeconds(waited)); }
void RouterMetrics::Shed(std::string_view reason) {
  if (const auto it = shed_.find(reason); it != shed_.end()) it->second->Increment();
}
void RouterMetrics::StreamRefused() { streams_refused_.Increment(); }
void RouterMetrics::BreakerOpened() { breakers_opened_.Increment(); }
void RouterMetrics::ConnectionsOpen(size_t n_connections) { connections_.Set(static_cast<double>(n_connections)); }
void RouterMetrics::TlsHandshakeFailed() { handshakes_failed_.Increment(); }
void RouterMetrics::ConnectionRefused() { connections_refused_.Increment(); }
void RouterMetrics::SlowClientDropped() { slow_clients_.Increment(); }
void RouterMetrics::RateLimited(std::string_view limit) {
  if (const auto it = rate_limited_.find(limit); it != rate_limited_.end()) it->second->Increment();
}
void RouterMetrics::AuthFailed(std::string_view reason) {
  if (const auto it = auth_failures_.find(reason); it != auth_failures_.end()) it->second->Increment();
}
void RouterMetrics::AuditLinesDropped(uint64_t n_lines) {
  audit_lines_dropped_.Increment(static_cast<double>(n_lines));
}

}  // namespace longshelf::router
