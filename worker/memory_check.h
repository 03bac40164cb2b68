#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace longshelf::worker {

// What one shard is about to allocate or map, in bytes.
struct MemoryNeed {
  uint64_t weights = 0;         // of the checkpoint's files
  bool weights_copied = false;  // into memory; mapped files may stay on disk instead
  uint64_t kv_blocks = 0;
  uint64_t states = 0;         // slots of running sequences
  uint64_t exchange = 0;       // buffers of what goes to and comes from other shards
  uint64_t checkpoints = 0;    // local prefix cache, of all shards together
  uint64_t store_buffers = 0;  // the same
};

// Bytes that this process can still get.
struct MemoryRoom {
  uint64_t available = 0;     // the least of the machine's and the control groups'
  std::string bound_by = "";  // which of them
  uint64_t huge_free = 0;     // in reserved huge pages, which are no part of it
};
MemoryRoom ReadMemoryRoom();

// RESOURCE_EXHAUSTED: n_processes of such shards on this machine need more than there is; names every part and which
// options make it smaller. Mapped weights need not fit.
absl::Status CheckMemory(const MemoryNeed& need, int n_processes, const MemoryRoom& room);

// All of the weights can be in memory beside everything else. Otherwise mapped ones are read from disk again and again.
bool WeightsFit(const MemoryNeed& need, int n_processes, const MemoryRoom& room);

}  // namespace longshelf::worker
