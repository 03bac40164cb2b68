#include "memory_check.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"

namespace longshelf::worker {
namespace {

constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

// A file with one number; "max" or no file means no limit.
uint64_t ReadNumber(const char* path, uint64_t fallback) {
  std::ifstream file(path);
  uint64_t value = 0;
  return file >> value ? value : fallback;
}

uint64_t GroupHeadroom(const char* limit_path, const char* usage_path) {
  const uint64_t limit = ReadNumber(limit_path, kUnlimited);
  if (limit == kUnlimited) return kUnlimited;
  const uint64_t usage = ReadNumber(usage_path, 0);
  return limit > usage ? limit - usage : 0;
}

uint64_t MachineAvailable() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  uint64_t kib = 0;
  std::string unit;
  while (meminfo >> key >> kib) {
    std::getline(meminfo, unit);
    if (key == "MemAvailable:") return kib * 1024;
  }
  return kUnlimited;
}

}  // namespace

uint64_t AvailableMemoryBytes() {
  return std::min(
      {MachineAvailable(), GroupHeadroom("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
       GroupHeadroom("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes")});
}

absl::Status CheckMemory(const MemoryNeed& need, int n_processes, uint64_t available) {
  // The shards of one machine share the pages of the weights.
  const uint64_t required = need.weights + static_cast<uint64_t>(n_processes) * (need.total() - need.weights);
  if (required <= available) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("this needs ", required, " bytes of memory and ", available, " are available: weights ",
                   need.weights, ", and for ", n_processes, " shard(s) each KV blocks ", need.kv_blocks,
                   " (--kv-memory), sequence states ", need.states, " (--sequences), checkpoints ", need.checkpoints,
                   " (--checkpoint-memory), KV store buffers ", need.store_buffers));
}

}  // namespace longshelf::worker
