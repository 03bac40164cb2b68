#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/config.h"
#include "common/log.h"
#include "net/admin_server.h"

namespace longshelf::worker {

// Of --draft-tokens; what the model allows (engine::kDraftTokensLimit).
inline constexpr int64_t kDraftTokensMax = 64;

// Everything longshelf-shard can be told. longshelf-worker knows the same options, checks them before it starts
// anything, and passes on the ones that were given.
struct ShardConfig {
  // Model.
  std::string model;                // checkpoint directory
  std::string model_name;           // as clients know it; empty = the directory's name
  std::string numerics = "native";  // or "fp32"
  std::string weights = "mapped";   // or "huge"
  int n_threads = 1;                // of each shard's kernels

  // Endpoint (rank 0).
  std::string listen = "127.0.0.1:0";
  std::string worker_id;  // empty = made up at start
  std::string token;      // of internal callers and of the KV store
  net::TlsFiles tls;      // the same
  bool insecure_internal = false;
  bool allow_logits = false;
  AdminOptions admin;
  absl::Duration drain_timeout = absl::Seconds(10);

  // Engine.
  int64_t n_context_max = 0;  // 0 = what the model and the KV memory allow
  int64_t step_token_budget = 512;
  absl::Duration step_time_budget = absl::Milliseconds(200);
  std::string drafts = "auto";  // or "none", "lookup", "model"
  int64_t n_draft_max = 8;
  uint32_t n_sequences_max = 16;
  uint32_t n_waiting_max = 1024;
  uint64_t kv_memory_bytes = uint64_t{256} << 20;  // of each shard
  int64_t checkpoint_interval_tokens = 2048;
  uint64_t checkpoint_memory_bytes = uint64_t{64} << 20;

  // KV store.
  std::vector<std::string> kvstores;                  // as kvstore/members.h takes them, joined by commas
  uint32_t n_replicas = 2;                            // stores that hold a parked session
  uint64_t store_memory_bytes = uint64_t{256} << 20;  // on its way from and to them

  // Group; all but the deadlines set by longshelf-worker.
  int n_shards = 1;
  std::string run_dir;
  uint64_t generation = 0;
  int64_t supervisor_pid = 0;
  std::string mpi_shm_dir;
  std::string expert_transport = "direct";  // or a way that it would choose, "messages", "baseline"
  std::string microbatches = "auto";        // or "1", "2"
  std::string expert_placement = "even";    // or "balanced"
  uint32_t n_redundant_experts = 0;         // on every layer
  std::string link_listen;                  // shard 0's ADDRESS:PORT for other hosts
  std::string store_link_listen;            // another, for what their shards do with the KV store
  absl::Duration step_deadline = absl::Seconds(30);
  absl::Duration host_silence = absl::Seconds(5);

  LogConfig log;
};

// Binds every option. `config` must outlive Parse.
void AddShardOptions(ConfigSpec& spec, ShardConfig* config);

}  // namespace longshelf::worker
