#include "storage_reads.h"

#include <unistd.h>

#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "engine/comm/run_dir.h"

namespace longshelf::worker {

StorageReads::StorageReads(Metrics& metrics, std::filesystem::path run_dir)
    : total_(metrics.AddCounter("longshelf_worker_storage_read_bytes_total",
                                "Bytes read from storage by the shards: weights that were not in memory.")),
      run_dir_(std::move(run_dir)) {}

void StorageReads::Update() {
  if (run_dir_.empty()) return Count(getpid());
  for (const engine::RankProcess& process : engine::ReadRankPids(run_dir_)) Count(process.id.pid);
}

void StorageReads::Count(pid_t pid) {
  std::ifstream io(std::filesystem::path("/proc") / std::to_string(pid) / "io");
  std::string key;
  uint64_t value = 0;
  while (io >> key >> value) {
    if (key != "read_bytes:") continue;
    uint64_t& seen = seen_[pid];
    if (value > seen) total_.Increment(static_cast<double>(value - std::exchange(seen, value)));
  }
}

}  // namespace longshelf::worker
