#pragma once

#include "common/metrics.h"
#include "kvstore/queries.h"

namespace longshelf::kvstore {

// The store's own numbers as metrics. Update is called by one thread at a time, when somebody looks.
class StoreMetrics {
 public:
  explicit StoreMetrics(Metrics& metrics);
  void Update(const StoreStats& stats);

 private:
  prometheus::Gauge& capacity_bytes_;
  prometheus::Gauge& used_bytes_;
  prometheus::Gauge& reserved_bytes_;
  prometheus::Gauge& parked_bytes_;
  prometheus::Gauge& parked_limit_bytes_;
  prometheus::Gauge& objects_;
  prometheus::Gauge& reservations_;
  prometheus::Counter& hits_;
  prometheus::Counter& misses_;
  prometheus::Counter& evicted_;
  prometheus::Counter& quarantined_;
};

}  // namespace longshelf::kvstore
