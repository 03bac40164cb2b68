#include "exchange_metrics.h"

#include <string>

namespace longshelf::worker {
namespace {

constexpr char kBytes[] = "longshelf_worker_expert_bytes_total";
constexpr char kBytesHelp[] = "Bytes of expert rows and results from shard 0 to others, by way.";
constexpr double kNsPerSecond = 1e9;

}  // namespace

ExchangeMetrics::ExchangeMetrics(Metrics& metrics)
    : layers_(metrics.AddCounter("longshelf_worker_expert_exchanges_total",
                                 "Layers whose rows went to the experts of other shards and came back; of a step in "
                                 "two microbatches each of them twice.")),
      second_(metrics.AddCounter("longshelf_worker_expert_second_exchanges_total",
                                 "Of these, those of second microbatches.")),
      exposed_(metrics.AddCounter("longshelf_worker_expert_exposed_seconds_total",
                                  "Time that shard 0 spent in these exchanges and not computing.")),
      shared_(metrics.AddCounter(kBytes, kBytesHelp, {{"way", "shared_memory"}})),
      sent_(metrics.AddCounter(kBytes, kBytesHelp, {{"way", "messages"}})) {}

void ExchangeMetrics::Update(const engine::ExchangeTotals& totals) {
  layers_.Increment(static_cast<double>(totals.n_layers - seen_.n_layers));
  second_.Increment(static_cast<double>(totals.n_second - seen_.n_second));
  exposed_.Increment(static_cast<double>(totals.exposed_ns - seen_.exposed_ns) / kNsPerSecond);
  shared_.Increment(static_cast<double>(totals.shared_bytes - seen_.shared_bytes));
  sent_.Increment(static_cast<double>(totals.sent_bytes - seen_.sent_bytes));
  seen_ = totals;
}

void ExportGroupStart(Metrics& metrics, const GroupWaiting& waiting, const std::optional<engine::WayTable>& ways,
                      const std::vector<engine::WayFigures>& figures) {
  metrics
      .AddGauge("longshelf_worker_expert_barrier_seconds",
                "A barrier of all shards when the group started, on the slowest one.")
      .Set(waiting.barrier_seconds);
  metrics
      .AddGauge("longshelf_worker_expert_yield",
                "1: a shard that waits for another gives its processor away at once; 0: it looks a while first.")
      .Set(waiting.yields ? 1 : 0);
  if (!ways.has_value()) return;
  for (const engine::RowWay way : engine::kRowWays) {
    for (const engine::WayTable::SizedWays& sized : ways->sizes()) {
      const auto chosen = [&](const char* phase, engine::RowWay taken) {
        metrics
            .AddGauge("longshelf_worker_expert_way",
                      "1: how rows get from shard to shard on a host, by about how many tokens of each.",
                      {{"phase", phase}, {"tokens", std::to_string(sized.n_tokens)}, {"way", engine::RowWayName(way)}})
            .Set(taken == way ? 1 : 0);
      };
      chosen("dispatch", sized.ways.dispatch);
      chosen("combine", sized.ways.combine);
    }
    for (const engine::WayFigures& one : figures) {
      const auto measured = [&](const char* phase, double seconds) {
        metrics
            .AddGauge("longshelf_worker_expert_measured_seconds",
                      "What an exchange took when the way was chosen, on the slowest shard, by tokens of each.",
                      {{"phase", phase}, {"way", engine::RowWayName(way)}, {"tokens", std::to_string(one.n_tokens)}})
            .Set(seconds);
      };
      measured("dispatch", one.dispatch_seconds[static_cast<size_t>(way)]);
      measured("combine", one.combine_seconds[static_cast<size_t>(way)]);
    }
  }
}

PlacementMetrics::PlacementMetrics(Metrics& metrics)
    : metrics_(metrics),
      epoch_(metrics.AddGauge("longshelf_worker_expert_placement_epoch",
                              "How often experts were placed anew since the group started.")),
      moved_(metrics.AddCounter("longshelf_worker_experts_moved_total", "Experts that shard 0 fetched to hold them.")),
      refused_(metrics.AddCounter("longshelf_worker_expert_moves_refused_total",
                                  "Placements given up because a fetched expert had wrong bytes.")) {}

// Labels are shards, at most 64, and layers, as many as the model has.
void PlacementMetrics::Update(const engine::PlacementReport& report) {
  epoch_.Set(static_cast<double>(report.epoch));
  moved_.Increment(static_cast<double>(report.n_moved - seen_.n_moved));
  refused_.Increment(static_cast<double>(report.n_refused - seen_.n_refused));
  for (size_t r = 0; r < report.rank_rows.size(); ++r) {
    metrics_
        .AddGauge("longshelf_worker_expert_rows", "Rows for the experts of each shard in the steps last counted.",
                  {{"shard", std::to_string(r)}})
        .Set(report.rank_rows[r]);
  }
  constexpr const char* kPhases[engine::kStepPhases] = {"decode", "prefill"};
  for (size_t p = 0; p < engine::kStepPhases; ++p) {
    for (size_t l = 0; l < report.balance[p].size(); ++l) {
      metrics_
          .AddGauge("longshelf_worker_expert_balance_ratio",
                    "Rows of the mean shard by those of the busiest one, by layer; 1 is even.",
                    {{"layer", std::to_string(l)}, {"phase", kPhases[p]}})
          .Set(report.balance[p][l]);
    }
  }
  seen_ = report;
}

}  // namespace longshelf::worker
