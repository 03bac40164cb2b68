#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grammar/output_spec.h"
#include "router/prefix_index.h"

// What the router needs of a worker, free of any RPC library. Everything here happens on the router loop: an
// implementation brings its own threads' news there before it calls an observer.
namespace longshelf::router {

// What is added to one token's logit.
struct TokenBias {
  uint32_t token = 0;
  float bias = 0;
};

struct Sampling {
  double temperature = 1;
  double top_p = 1;
  uint32_t top_k = 0;  // 0 = off
  double min_p = 0;
  uint64_t seed = 0;
  double presence_penalty = 0;
  double frequency_penalty = 0;
  bool logprobs = false;
  uint32_t n_top_logprobs = 0;
  std::vector<TokenBias> logit_bias = {};  // in ascending order of tokens, each once
};

// Shares of a worker, not precedence.
enum class ServiceTier : uint8_t { kDefault, kFlex, kPriority };

struct WorkerRequest {
  std::string request_id;
  uint32_t epoch = 0;
  std::shared_ptr<const std::vector<uint32_t>> prompt;
  std::vector<uint32_t> committed;  // output the client already has
  uint32_t max_tokens = 0;          // counts committed; 0: nothing is sampled
  Sampling sampling;
  std::vector<uint32_t> stop_token_ids;
  bool prompt_logprobs = false;                                      // of every prompt token but the first
  uint32_t n_prompt_scored = 0;                                      // leading prompt tokens of which that is known
  std::shared_ptr<const grammar::OutputSpec> output_form = nullptr;  // null: any output
  std::string tenant;
  ServiceTier tier = ServiceTier::kDefault;
  std::string namespace_id;
  std::string namespace_salt;
};

// What a park is answered after. Each holds what those before it do.
enum class Durability : uint8_t { kMemory, kDisk, kDiskAll };

struct ParkTerms {
  absl::Duration retention;
  Durability durability = Durability::kMemory;
};

// A prefix that is to outlive its worker.
struct ParkOrder {
  std::vector<uint32_t> tokens;
  std::string namespace_id;
  std::string namespace_salt;
  ParkTerms terms;
  absl::Time retain_until;  // wall clock
};
struct ParkedState {
  uint32_t n_tokens = 0;  // position that was parked
  uint32_t n_objects = 0;
  uint64_t n_bytes = 0;
  std::string checkpoint_key;
};

struct TokenAlternative {
  uint32_t token = 0;
  float logprob = 0;
};
struct OutputToken {
  uint32_t index = 0;  // 0-based output index, committed tokens included
  uint32_t token = 0;
  float logprob = 0;
  std::vector<TokenAlternative> top;
};
struct ScoredToken {
  uint32_t token = 0;
  float logprob = 0;
  std::vector<TokenAlternative> top;
};
// Of prompt tokens first, first + 1, ...
struct PromptLogprobs {
  uint32_t first = 0;
  std::vector<ScoredToken> tokens;
};
struct StreamStarted {
  uint32_t n_prompt_tokens = 0;
  uint32_t n_cached_local = 0;
  uint32_t n_cached_store = 0;
  std::string miss_reason;
};
struct PrefillProgress {
  uint32_t n_done = 0;
  uint32_t n_total = 0;
};
enum class FinishReason : uint8_t { kStop, kLength, kCancelled };
// Tokens that were guessed ahead.
struct DraftTokens {
  uint32_t n_accepted = 0;
  uint32_t n_rejected = 0;
};
struct WorkerFinished {
  FinishReason reason = FinishReason::kStop;
  DraftTokens drafts;  // of this worker's part of the answer
};
struct WorkerEvent {
  uint32_t epoch = 0;
  std::variant<StreamStarted, PrefillProgress, PromptLogprobs, OutputToken, WorkerFinished> body;
};

// One sequence on one worker. Destroying it cancels the sequence; no call reaches the observer after that.
class WorkerCall {
 public:
  virtual ~WorkerCall() = default;
  // Asks for one more event. At most one request may be outstanding: a slow reader slows the worker's stream.
  virtual void RequestNext() = 0;
};
class WorkerCallObserver {
 public:
  virtual ~WorkerCallObserver() = default;
  virtual void OnEvent(WorkerEvent event) = 0;
  // The end of the call; OK only after a WorkerFinished.
  virtual void OnClosed(const absl::Status& status) = 0;
};

// What a worker said about itself.
struct WorkerInfo {
  std::string id;
  std::string model_name;
  BlockKey fingerprint{};
  uint32_t vocab_size = 0;
  uint32_t block_tokens = 0;
  uint32_t n_context_max = 0;
  uint64_t generation = 0;
  std::vector<int64_t> pids;  // of its shards
  // The same processes as `other`, not the next ones of the same worker.
  bool IsSameGroup(const WorkerInfo& other) const {
    return id == other.id && generation == other.generation && pids == other.pids;
  }
};
struct WorkerLoad {
  uint32_t n_running = 0;
  uint32_t n_waiting = 0;
  uint64_t n_tokens_queued = 0;
  uint32_t n_sequences_max = 0;
  uint64_t n_steps = 0;
  bool draining = false;
  uint32_t n_prefilling = 0;     // whose prompt tokens n_tokens_queued is
  double tokens_per_second = 0;  // of prompts, as measured; 0: not known yet
  uint32_t n_blocks_total = 0;   // 0: not known
  uint32_t n_blocks_free = 0;    // and not promised to what runs
};
struct WorkerUpdate {
  uint64_t generation = 0;
  bool snapshot = false;
  WorkerLoad load;
  std::vector<IndexedCheckpoint> gained;
  std::vector<BlockKey> lost;
};

// The worker's group has failed and is ending; `words` are what it says of that, for whoever may read a PublicText.
absl::Status GroupFailure(std::string_view words);
bool IsGroupFailure(const absl::Status& status);

class WorkerLinkObserver {
 public:
  virtual ~WorkerLinkObserver() = default;
  // Connected and ready. False when it cannot be used: it serves something else.
  virtual bool OnWorkerUp(size_t worker, const WorkerInfo& info) = 0;
  virtual void OnWorkerUpdate(size_t worker, const WorkerUpdate& update) = 0;
  // Unreachable, or its watch stream ended. The link keeps trying on its own. Comes before the OnClosed of calls that
  // ended with it.
  virtual void OnWorkerDown(size_t worker, const absl::Status& why) = 0;
};

class WorkerLink {
 public:
  virtual ~WorkerLink() = default;
  // Begins connecting; `observer` outlives this and hears of it as worker number `worker`.
  virtual void Start(size_t worker, WorkerLinkObserver& observer) = 0;
  virtual std::unique_ptr<WorkerCall> Generate(const WorkerRequest& request, WorkerCallObserver& observer) = 0;
  // `done` is called once, on the loop, unless the link goes before. NOT_FOUND: the worker does not hold the prefix.
  virtual void Park(const ParkOrder& order, std::function<void(absl::StatusOr<ParkedState>)> done) = 0;
};

}  // namespace longshelf::router
