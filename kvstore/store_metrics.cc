#include "store_metrics.h"

namespace longshelf::kvstore {
namespace {

// The store counts; the metric follows.
void Follow(prometheus::Counter& counter, uint64_t value) {
  counter.Increment(static_cast<double>(value) - counter.Value());
}

prometheus::Counter& Gets(Metrics& metrics, const char* result) {
  return metrics.AddCounter("longshelf_kvstore_get_objects_total", "Objects asked for by Get", {{"result", result}});
}

}  // namespace

StoreMetrics::StoreMetrics(Metrics& metrics)
    : capacity_bytes_(metrics.AddGauge("longshelf_kvstore_capacity_bytes", "The limit set by --memory")),
      used_bytes_(metrics.AddGauge("longshelf_kvstore_used_bytes",
                                   "Memory of stored objects, with the index and what readers still hold")),
      reserved_bytes_(metrics.AddGauge("longshelf_kvstore_reserved_bytes", "Memory of puts that are under way")),
      parked_bytes_(metrics.AddGauge("longshelf_kvstore_parked_bytes", "Memory under an unexpired retention")),
      parked_limit_bytes_(metrics.AddGauge("longshelf_kvstore_parked_limit_bytes", "What may be parked at most")),
      objects_(metrics.AddGauge("longshelf_kvstore_objects", "Stored objects")),
      reservations_(metrics.AddGauge("longshelf_kvstore_reservations", "Puts that are under way")),
      hits_(Gets(metrics, "hit")),
      misses_(Gets(metrics, "miss")),
      evicted_(metrics.AddCounter("longshelf_kvstore_evicted_objects_total", "Objects removed to make room")),
      quarantined_(metrics.AddCounter("longshelf_kvstore_quarantined_objects_total",
                                      "Objects removed because their bytes no longer matched their digest")) {}

void StoreMetrics::Update(const StoreStats& stats) {
  capacity_bytes_.Set(static_cast<double>(stats.capacity_bytes));
  used_bytes_.Set(static_cast<double>(stats.used_bytes));
  reserved_bytes_.Set(static_cast<double>(stats.reserved_bytes));
  parked_bytes_.Set(static_cast<double>(stats.parked_bytes));
  parked_limit_bytes_.Set(static_cast<double>(stats.parked_limit_bytes));
  objects_.Set(static_cast<double>(stats.n_objects));
  reservations_.Set(static_cast<double>(stats.n_reservations));
  Follow(hits_, stats.n_hits);
  Follow(misses_, stats.n_misses);
  Follow(evicted_, stats.n_evicted);
  Follow(quarantined_, stats.n_quarantined);
}

}  // namespace longshelf::kvstore
