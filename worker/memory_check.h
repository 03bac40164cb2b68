#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace longshelf::worker {

// What one shard is about to allocate or map, in bytes.
struct MemoryNeed {
  uint64_t weights = 0;  // of the checkpoint's files, mapped
  uint64_t kv_blocks = 0;
  uint64_t states = 0;       // slots of running sequences
  uint64_t checkpoints = 0;  // local prefix cache
  uint64_t store_buffers = 0;
  uint64_t total() const { return weights + kv_blocks + states + checkpoints + store_buffers; }
};

// Bytes this process can still get: the smaller of the machine's and the control group's.
uint64_t AvailableMemoryBytes();

// RESOURCE_EXHAUSTED: n_processes of such shards on this machine need more than `available`; names every part and which
// options make it smaller.
absl::Status CheckMemory(const MemoryNeed& need, int n_processes, uint64_t available);

}  // namespace longshelf::worker
