#pragma once

#include <optional>

#include "common/metrics.h"
#include "engine/comm/direct_expert_transport.h"
#include "engine/placement/placement_control.h"

namespace longshelf::worker {

// What this shard's exchanges of expert rows cost, as counters. Owned by the thread that serves metrics.
class ExchangeMetrics {
 public:
  explicit ExchangeMetrics(Metrics& metrics);
  void Update(const engine::ExchangeTotals& totals);

 private:
  prometheus::Counter& layers_;
  prometheus::Counter& second_;
  prometheus::Counter& exposed_;
  prometheus::Counter& shared_;
  prometheus::Counter& sent_;
  engine::ExchangeTotals seen_;
};

// How shards that share a host or more wait for each other.
struct GroupWaiting {
  double barrier_seconds = 0;  // of a barrier when the group started
  bool yields = false;         // at once, without a look at the flag first
};

// What a group found out and chose when it started; once. `ways`: none without neighbours.
void ExportGroupStart(Metrics& metrics, const GroupWaiting& waiting, const std::optional<engine::WayTable>& ways,
                      const std::vector<engine::WayFigures>& figures);

// Where experts lie and how well that spreads the work. Owned by the thread that serves metrics.
class PlacementMetrics {
 public:
  explicit PlacementMetrics(Metrics& metrics);
  void Update(const engine::PlacementReport& report);

 private:
  Metrics& metrics_;
  prometheus::Gauge& epoch_;
  prometheus::Counter& moved_;
  prometheus::Counter& refused_;
  engine::PlacementReport seen_;
};

}  // namespace longshelf::worker
