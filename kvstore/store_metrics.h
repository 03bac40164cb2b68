#pragma once

#include "common/metrics.h"
#include "disk/disk_tier.h"
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

// The same of the disk tier.
class DiskMetrics {
 public:
  explicit DiskMetrics(Metrics& metrics);
  void Update(const disk::DiskStats& stats);

 private:
  prometheus::Gauge& quota_bytes_;
  prometheus::Gauge& live_bytes_;
  prometheus::Gauge& objects_;
  prometheus::Gauge& retained_bytes_;
  prometheus::Gauge& retained_limit_bytes_;
  prometheus::Gauge& queued_bytes_;
  prometheus::Gauge& fenced_;
  prometheus::Counter& hits_;
  prometheus::Counter& put_;
  prometheus::Counter& payload_bytes_;
  prometheus::Counter& written_bytes_;
  prometheus::Counter& evicted_;
  prometheus::Counter& kept_;
  prometheus::Counter& dropped_;
  prometheus::Counter& quarantined_;
  prometheus::Counter& damaged_;
  prometheus::Counter& scrubbed_;
  prometheus::Gauge& encrypted_namespaces_;
};

}  // namespace longshelf::kvstore
