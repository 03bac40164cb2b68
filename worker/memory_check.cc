#include "memory_check.h"

#include <fstream>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "process/available_memory.h"

namespace longshelf::worker {
namespace {

// /proc/meminfo: sizes in KiB, counts of huge pages as they are.
std::map<std::string, uint64_t> ReadMeminfo() {
  std::map<std::string, uint64_t> values;
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  uint64_t value = 0;
  std::string unit;
  while (meminfo >> key >> value) {
    std::getline(meminfo, unit);
    values[key] = value;
  }
  return values;
}

uint64_t RequiredBeside(const MemoryNeed& need, int n_processes) {
  const uint64_t of_each = need.kv_blocks + need.states + need.exchange;
  // All of what the group shares may come to lie here.
  return static_cast<uint64_t>(n_processes) * of_each + need.checkpoints + need.store_buffers;
}

}  // namespace

MemoryRoom ReadMemoryRoom() {
  AvailableMemory available = FindAvailableMemory();
  MemoryRoom room{.available = available.bytes, .bound_by = std::move(available.bound_by)};
  std::map<std::string, uint64_t> meminfo = ReadMeminfo();
  const uint64_t n_free = meminfo["HugePages_Free:"];
  const uint64_t n_promised = meminfo["HugePages_Rsvd:"];
  room.huge_free = (n_free > n_promised ? n_free - n_promised : 0) * meminfo["Hugepagesize:"] * 1024;
  return room;
}

bool WeightsFit(const MemoryNeed& need, int n_processes, const MemoryRoom& room) {
  // The shards of one machine share the weights.
  const bool in_reserved_pages = need.weights_copied && need.weights <= room.huge_free;
  return RequiredBeside(need, n_processes) + (in_reserved_pages ? 0 : need.weights) <= room.available;
}

absl::Status CheckMemory(const MemoryNeed& need, int n_processes, const MemoryRoom& room) {
  const uint64_t beside = RequiredBeside(need, n_processes);
  if (need.weights_copied ? WeightsFit(need, n_processes, room) : beside <= room.available) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "this needs ", beside + (need.weights_copied ? need.weights : 0), " bytes of memory and ", room.available,
      " are available in ", room.bound_by, " (and ", room.huge_free, " in reserved huge pages): weights ", need.weights,
      need.weights_copied ? " (with --weights mapped they need not fit)" : " (mapped: not counted)", ", and for ",
      n_processes, " shard(s) each KV blocks ", need.kv_blocks, " (--kv-memory), sequence states ", need.states,
      " (--sequences), exchange with other shards ", need.exchange, " (--step-tokens); for all together checkpoints ",
      need.checkpoints, " (--checkpoint-memory), on the way from and to the KV store ", need.store_buffers,
      " (--store-memory)"));
}

}  // namespace longshelf::worker
