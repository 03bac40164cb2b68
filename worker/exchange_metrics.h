#pragma once

#include "common/metrics.h"
#include "engine/comm/direct_expert_transport.h"

namespace longshelf::worker {

// What this shard's exchanges of expert rows cost, as counters. Owned by the thread that serves metrics.
class ExchangeMetrics {
 public:
  explicit ExchangeMetrics(Metrics& metrics);
  void Update(const engine::ExchangeTotals& totals);

 private:
  prometheus::Counter& layers_;
  prometheus::Counter& exposed_;
  prometheus::Counter& shared_;
  prometheus::Counter& sent_;
  engine::ExchangeTotals seen_;
};

}  // namespace longshelf::worker
