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

DiskMetrics::DiskMetrics(Metrics& metrics)
    : quota_bytes_(metrics.AddGauge("longshelf_kvstore_disk_quota_bytes", "Space that is set aside on disk")),
      live_bytes_(metrics.AddGauge("longshelf_kvstore_disk_live_bytes", "Records of objects that are on disk")),
      objects_(metrics.AddGauge("longshelf_kvstore_disk_objects", "Objects on disk")),
      retained_bytes_(metrics.AddGauge("longshelf_kvstore_disk_parked_bytes", "On disk under an unexpired retention")),
      retained_limit_bytes_(
          metrics.AddGauge("longshelf_kvstore_disk_parked_limit_bytes", "What may be parked on disk at most")),
      queued_bytes_(metrics.AddGauge("longshelf_kvstore_disk_queued_bytes", "Records that wait to be written")),
      fenced_(metrics.AddGauge("longshelf_kvstore_disk_fenced", "1 when the device failed and is only read")),
      hits_(metrics.AddCounter("longshelf_kvstore_disk_hits_total", "Objects read from disk for a Get")),
      put_(metrics.AddCounter("longshelf_kvstore_disk_put_objects_total", "Objects written to disk")),
      payload_bytes_(metrics.AddCounter("longshelf_kvstore_disk_payload_bytes_total", "Their payloads")),
      written_bytes_(metrics.AddCounter("longshelf_kvstore_disk_written_bytes_total",
                                        "Everything written to disk; by payload bytes, the write amplification")),
      evicted_(
          metrics.AddCounter("longshelf_kvstore_disk_evicted_objects_total", "Objects that went with their segment")),
      kept_(metrics.AddCounter("longshelf_kvstore_disk_kept_objects_total",
                               "Objects that were retained or used, and written anew when their segment went")),
      dropped_(metrics.AddCounter("longshelf_kvstore_disk_dropped_objects_total",
                                  "Cache objects that the disk was too slow or too full for")),
      quarantined_(metrics.AddCounter("longshelf_kvstore_disk_quarantined_objects_total",
                                      "Objects removed because the disk gave other bytes or none")),
      damaged_(metrics.AddCounter("longshelf_kvstore_disk_damaged_total",
                                  "Segments and records that could not be read at the start or when they were moved")),
      scrubbed_(metrics.AddCounter("longshelf_kvstore_disk_scrubbed_objects_total", "Objects read again and checked")),
      encrypted_namespaces_(metrics.AddGauge("longshelf_kvstore_disk_encrypted_namespaces",
                                             "Namespaces with a data key; 0 when nothing is encrypted")) {}

void DiskMetrics::Update(const disk::DiskStats& stats) {
  quota_bytes_.Set(static_cast<double>(stats.quota_bytes));
  live_bytes_.Set(static_cast<double>(stats.live_bytes));
  objects_.Set(static_cast<double>(stats.n_objects));
  retained_bytes_.Set(static_cast<double>(stats.retained_bytes));
  retained_limit_bytes_.Set(static_cast<double>(stats.retained_limit_bytes));
  queued_bytes_.Set(static_cast<double>(stats.queued_bytes));
  fenced_.Set(stats.fenced ? 1 : 0);
  Follow(hits_, stats.n_hits);
  Follow(put_, stats.n_put);
  Follow(payload_bytes_, stats.payload_bytes);
  Follow(written_bytes_, stats.log.bytes_written);
  Follow(evicted_, stats.log.n_evicted);
  Follow(kept_, stats.log.n_kept);
  Follow(dropped_, stats.n_dropped);
  Follow(quarantined_, stats.n_quarantined);
  Follow(damaged_, stats.log.n_damaged);
  Follow(scrubbed_, stats.n_scrubbed);
  encrypted_namespaces_.Set(static_cast<double>(stats.n_data_keys));
}

}  // namespace longshelf::kvstore
