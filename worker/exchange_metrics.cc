#include "exchange_metrics.h"

namespace longshelf::worker {
namespace {

constexpr char kBytes[] = "longshelf_worker_expert_bytes_total";
constexpr char kBytesHelp[] = "Bytes of expert rows and results from shard 0 to others, by way.";
constexpr double kNsPerSecond = 1e9;

}  // namespace

ExchangeMetrics::ExchangeMetrics(Metrics& metrics)
    : layers_(metrics.AddCounter("longshelf_worker_expert_exchanges_total",
                                 "Layers whose rows went to the experts of other shards and came back.")),
      exposed_(metrics.AddCounter("longshelf_worker_expert_exposed_seconds_total",
                                  "Time that shard 0 spent in these exchanges and not computing.")),
      shared_(metrics.AddCounter(kBytes, kBytesHelp, {{"way", "shared_memory"}})),
      sent_(metrics.AddCounter(kBytes, kBytesHelp, {{"way", "messages"}})) {}

void ExchangeMetrics::Update(const engine::ExchangeTotals& totals) {
  layers_.Increment(static_cast<double>(totals.n_layers - seen_.n_layers));
  exposed_.Increment(static_cast<double>(totals.exposed_ns - seen_.exposed_ns) / kNsPerSecond);
  shared_.Increment(static_cast<double>(totals.shared_bytes - seen_.shared_bytes));
  sent_.Increment(static_cast<double>(totals.sent_bytes - seen_.sent_bytes));
  seen_ = totals;
}

}  // namespace longshelf::worker
