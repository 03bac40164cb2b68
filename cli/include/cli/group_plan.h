#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "simulation/network.h"
#include "simulation/routing.h"

namespace longshelf::cli {

// A group of shards that is planned: where it would run, and what it would do.
struct GroupPlanRequest {
  int n_shards = 0;
  int n_hosts = 1;
  simulation::Network network;
  simulation::RoutingSpec routing;
  int cores_per_host = 32;
  int threads_per_shard = 0;         // 0: the cores of a host, spread over its shards
  double host_bytes_per_s = 0x3p36;  // of its memory
  int64_t host_memory_bytes = int64_t{512} << 30;
  int64_t context_tokens = 4096;
  std::vector<int> batches = {1, 8, 64};  // sequences of a decode step, spread over the shards
  int prefill_tokens = 512;               // of a step that reads prompts
  uint64_t seed = 1;
};

// One kind of step, simulated.
struct PlannedStep {
  int n_tokens = 0;  // of all shards
  double step_s = 0;
  double tokens_per_s = 0;
  double exposed_s_per_layer = 0;  // in an exchange and not computing, of the shard that waits least
  double exposed_share = 0;        // of the step
  // Sent by each host for a token of its own, all layers.
  double sent_bytes_per_token = 0;
  double minimum_bytes_per_token = 0;
  double nic_share = 0;  // of the step that the busiest interface is busy, one way
  // What makes the step shortest when there is twice as much of it, and the step's share that this saves.
  std::string limit;
  double limit_saves = 0;
};

// Of the host that holds most.
struct HostMemory {
  int64_t expert_bytes = 0;   // routed experts of its shards, those of the draft module too
  int64_t other_bytes = 0;    // every other weight, once for all shards of a host
  int64_t inbox_bytes = 0;    // of expert rows, and what neighbours read where it lies, in shared memory
  int64_t message_bytes = 0;  // buffers of messages to and from other hosts
  int64_t kv_bytes = 0;       // of the largest batch at the context
  int64_t total_bytes() const { return expert_bytes + other_bytes + inbox_bytes + message_bytes + kv_bytes; }
};

struct GroupPlan {
  std::string name;
  int threads_per_shard = 0;
  HostMemory memory;
  bool fits = false;
  int64_t sessions = 0;  // of the context that fit beside the weights, on all shards
  std::vector<PlannedStep> decode;
  PlannedStep prefill_one;  // of one prompt: all its tokens are at home on one shard
  PlannedStep prefill_all;  // of prompts on every shard, the same number of tokens together
};

// INVALID_ARGUMENT: the request is impossible, in the words of the command's flags.
absl::Status CheckGroup(const GroupPlanRequest& request);
// The same request gives the same plan.
absl::StatusOr<GroupPlan> PlanGroup(const std::string& name, const engine::ModelConfig& config,
                                    const GroupPlanRequest& request);

}  // namespace longshelf::cli
