#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/comm/communicator.h"
#include "engine/comm/host_map.h"
#include "mapped_memory.h"

namespace longshelf::engine {

// `n_bytes` of shared memory for every shard, which the shards of its host see. By rank; empty for those of other
// hosts. Collective. The files are in `dir` and gone when this returns; the mappings stay. They are whole, so that a
// full /dev/shm is an error here and not a SIGBUS later. RESOURCE_EXHAUSTED, on every member: some shard has no room
// for its own, `what` in words; says what is needed.
absl::StatusOr<std::vector<MappedMemory>> ShareMemory(Communicator& communicator, const HostMap& hosts,
                                                      const std::string& dir, const std::string& what, size_t n_bytes);

}  // namespace longshelf::engine
