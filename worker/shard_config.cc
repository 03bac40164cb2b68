#include "worker/shard_config.h"

#include "absl/status/status.h"

namespace longshelf::worker {

void AddShardOptions(ConfigSpec& spec, ShardConfig* config) {
  spec.Group("Model");
  spec.Add(&config->model, "model", "checkpoint directory in the official format");
  spec.Require("model");
  spec.Add(&config->model_name, "model-name", "name that clients use; the directory's name when not given");
  spec.AddChoice(&config->numerics, "numerics", "native: as trained and published; fp32: to compare",
                 {"native", "fp32"});
  spec.AddChoice(&config->weights, "weights",
                 "mapped: the files, through the page cache; huge: copied once into huge pages that the shards share",
                 {"mapped", "huge"});
  spec.Add(&config->n_threads, "threads", "threads of each shard's kernels", {1, 1024});

  spec.Group("Endpoint");
  spec.Add(&config->listen, "listen", "address and port of the internal gRPC service");
  spec.Add(&config->worker_id, "worker-id", "stable name of this worker; made up when not given");
  spec.AddSecretFile(&config->token, "token-file", "file with the token that internal callers and the KV store share");
  spec.Add(&config->insecure_internal, "insecure-internal",
           "accept internal callers from the network without token and TLS");
  spec.Add(&config->allow_logits, "allow-logits", "answer requests for whole logits (tests, debugging)");
  AddAdminOptions(spec, &config->admin);
  spec.Add(&config->drain_timeout, "drain-timeout", "how long running sequences may go on after SIGTERM");

  net::AddTlsOptions(spec, &config->tls);

  spec.Group("Engine");
  spec.Add(&config->n_context_max, "context", "tokens of prompt plus output of one sequence; 0 = what memory allows",
           {0, int64_t{1} << 31});
  spec.Add(&config->step_token_budget, "step-tokens", "tokens of one engine step: decode rows, then prefill chunks",
           {1, 65536});
  spec.Add(&config->step_time_budget, "step-budget",
           "how long an engine step should last: prompts are read in pieces of that, so that streams beside them go on",
           {absl::Milliseconds(1), absl::Seconds(60)});
  spec.AddChoice(
      &config->drafts, "drafts",
      "who guesses tokens ahead: lookup (from what the text repeats), model (the checkpoint's draft module), auto "
      "(both, if it has one) or none; answers do not depend on it",
      {"auto", "none", "lookup", "model"});
  spec.Add(&config->n_draft_max, "draft-tokens", "guessed tokens that one step may check for a sequence",
           {1, kDraftTokensMax});
  spec.Add(&config->n_sequences_max, "sequences", "sequences that run at once on each shard", {1, 4096});
  spec.Add(&config->n_waiting_max, "waiting", "sequences that may wait for a place", {1, 1 << 20});
  spec.AddBytes(&config->kv_memory_bytes, "kv-memory", "memory for KV blocks of each shard",
                {uint64_t{1} << 20, uint64_t{1} << 44});
  spec.Add(&config->checkpoint_interval_tokens, "checkpoint-interval",
           "tokens between resumable positions inside a long prompt or answer", {256, int64_t{1} << 24});
  spec.AddBytes(&config->checkpoint_memory_bytes, "checkpoint-memory", "memory for checkpoints of the prefix cache",
                {0, uint64_t{1} << 44});

  spec.Group("KV store");
  spec.Add(&config->kvstores, "kvstore",
           "KV stores: all of them as HOST:PORT[;weight=2][;zone=a], the same everywhere, or dns:HOST:PORT; none: only "
           "this worker's own cache");
  spec.Add(&config->n_replicas, "replicas", "stores that hold a parked session, if there are so many", {1, 7});
  spec.AddBytes(&config->store_memory_bytes, "store-memory",
                "memory for what is on its way from and to the KV store: restores, parks and offloads together",
                {uint64_t{1} << 16, uint64_t{1} << 44});

  spec.Group("Shard group");
  spec.Add(&config->n_shards, "shards", "expert-parallel processes of this worker", {1, 64});
  spec.Add(&config->step_deadline, "step-deadline", "no exchange between shards for longer, in a step, ends the group",
           {absl::Seconds(1), absl::Hours(1)});
  spec.AddChoice(&config->expert_transport, "expert-transport",
                 "how rows get to experts of other shards: direct measures at the start what is fastest between shards "
                 "of a host; streamed, pushed and pulled through shared memory, messages without it; baseline is the "
                 "plain collectives to compare with",
                 {"direct", "streamed", "pushed", "pulled", "messages", "baseline"});
  spec.AddChoice(&config->microbatches, "microbatches",
                 "whether one half of a large step computes while the other half's rows are on their way: 1, never; 2, "
                 "always; auto, in a group of several hosts, as what was faster so far; answers do not depend on it",
                 {"auto", "1", "2"});
  spec.AddChoice(&config->expert_placement, "expert-placement",
                 "where experts lie: even, in equal shares, or balanced, moved to where they spread the work by what "
                 "was asked of them; answers do not depend on it",
                 {"even", "balanced"});
  spec.Add(&config->n_redundant_experts, "redundant-experts",
           "with balanced: copies of busy experts on every layer, over all shards", {0, 4096});
  spec.Add(&config->host_silence, "host-silence", "a host of the group that says nothing for longer ends the group",
           {absl::Seconds(1), absl::Hours(1)});
  spec.Add(&config->run_dir, "run-dir", "private directory of the group; set by longshelf-worker");
  spec.Add(&config->generation, "generation", "number of the group's start; set by longshelf-worker",
           {0, uint64_t{1} << 62});
  spec.Add(&config->supervisor_pid, "supervisor-pid", "process to end with; set by longshelf-worker",
           {0, int64_t{1} << 31});
  spec.Add(&config->mpi_shm_dir, "mpi-shm-dir", "for MPI's shared segments; set by longshelf-worker");
  spec.Add(&config->link_listen, "link-listen", "shard 0's address for other hosts; set by longshelf-worker");
  spec.Add(&config->store_link_listen, "store-link-listen",
           "shard 0's address for what shards of other hosts do with the KV store; set by longshelf-worker");

  spec.Group("Log");
  AddLogOptions(spec, &config->log);

  spec.Check([config]() -> absl::Status {
    if (config->checkpoint_interval_tokens % 256 == 0) return absl::OkStatus();
    return absl::InvalidArgumentError("checkpoint-interval must be a multiple of 256, the size of a KV block");
  });
  spec.Check([config]() -> absl::Status {
    if (config->expert_placement == "even" && config->n_redundant_experts > 0) {
      return absl::InvalidArgumentError("redundant-experts are copies that expert-placement=balanced makes; give both");
    }
    if (config->expert_placement == "even") return absl::OkStatus();
    if (config->weights == "huge") {
      return absl::InvalidArgumentError(
          "expert-placement=balanced fetches experts from the mapped checkpoint; it cannot be had with weights=huge");
    }
    return absl::OkStatus();
  });
  spec.Check([config]() -> absl::Status {
    config->admin.insecure_internal = config->insecure_internal;
    return absl::OkStatus();
  });
}

}  // namespace longshelf::worker
