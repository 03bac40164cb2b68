#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/mailbox.h"
#include "engine/step_plan.h"

namespace longshelf::engine {

// Opaque to the engine: what names a prefix. Computed by a PrefixHasher that the worker injects.
using PrefixKey = std::array<uint8_t, 32>;

// Names prefixes. Pure; called on the engine thread.
class PrefixHasher {
 public:
  virtual ~PrefixHasher() = default;
  virtual PrefixKey Root(std::string_view namespace_salt) const = 0;
  // Key of a full block (kBlockTokens tokens) or of a shorter tail, given its parent's key.
  virtual PrefixKey Next(const PrefixKey& parent, std::span<const uint32_t> tokens) const = 0;
};

// KV that came from elsewhere, verified by whoever fetched it. Blocks [first_block, first_block + blocks.size()) of
// prompt + committed, and the state at n_tokens. A partly filled last block (tail) is the last element when n_tokens is
// not a multiple of the block size. Blocks before first_block must be held locally (ProbePrefix said so); one that does
// not fit (sizes, n_tokens beyond the last token but one, local blocks evicted meanwhile) is not used: the sequence is
// computed instead and Started says why.
struct RestoredPrefix {
  int64_t n_tokens = 0;
  int64_t first_block = 0;
  std::vector<std::vector<std::byte>> blocks;
  std::vector<std::byte> state;
};

// First event of an admitted sequence; not sent when it is refused or cancelled while it waits. Counts are of prompt
// tokens; committed tokens that were reused are not in them.
struct Started {
  uint32_t n_prompt_tokens = 0;
  uint32_t n_cached_local = 0;
  uint32_t n_cached_store = 0;
  // Why the rest was computed. Empty: all but the last token was reused. Otherwise SequenceRequest::store_miss_reason
  // when it is given, or "restore_refused" (restored did not fit), or what the local cache knows: "cold" (never seen),
  // "diverged" (seen up to there, then another continuation), "no_checkpoint" (blocks are held further on, but no
  // state), "evicted" (was held earlier), "disabled" (no_cache_read, or no checkpoint memory).
  std::string miss_reason;
};
struct PrefillProgress {
  uint32_t n_done = 0;
  uint32_t n_total = 0;
};
struct OutputToken {
  uint32_t index = 0;  // committed tokens included
  SampledToken token;
};
// kStop: the EOS token or one of stop_token_ids was sampled; that token is delivered as an OutputToken and counted.
// kLength: max_tokens or the context is full.
enum class FinishReason : uint8_t { kStop, kLength, kCancelled };
struct Finished {
  FinishReason reason = FinishReason::kStop;
  uint32_t n_output_tokens = 0;
};
struct Failed {
  absl::Status status;
};
using SequenceEvent = std::variant<Started, PrefillProgress, OutputToken, Finished, Failed>;

// Where a sequence's events go. When Finished arrives, its slot and blocks are free again and (kStop, kLength) its KV
// can be resumed or exported from the local cache. Called on the engine thread: must not block and must not call back
// into the engine. Exactly one Finished or Failed ends it.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void OnEvent(SequenceEvent event) = 0;
};

// Answered by Failed at once: INVALID_ARGUMENT names the field and the limit (also for a request that could never fit
// the KV arena); RESOURCE_EXHAUSTED: the waiting queue is full; UNAVAILABLE: draining, or the engine has ended.
struct SequenceRequest {
  uint64_t id = 0;  // unique per worker process
  std::vector<uint32_t> prompt;
  std::vector<uint32_t> committed;  // output tokens already delivered by an earlier run
  uint32_t max_tokens = 0;          // counts committed
  SamplingParams sampling;
  std::vector<uint32_t> stop_token_ids;
  std::string namespace_id;
  std::string namespace_salt;
  bool return_logits = false;
  bool no_cache_read = false;
  std::unique_ptr<RestoredPrefix> restored;  // null: only the local cache is used
  std::string store_miss_reason;             // why restored is null or short; reported in Started
  std::shared_ptr<EventSink> sink;
};

// Messages to the engine thread.
struct Submit {
  SequenceRequest request;
};
struct Cancel {
  uint64_t id = 0;
};
// How many leading tokens of `tokens` could be resumed locally right now; at most tokens.size() - 1, as the last token
// is always computed.
struct ProbePrefix {
  std::vector<uint32_t> tokens;
  std::string namespace_salt;
  std::function<void(int64_t n_tokens)> reply;
};
// kBlock: a full block; key = its chain key, parent = the block before (or the root). kTail: a partly filled block,
// zero past n_tokens; key = hasher.Next(parent, its tokens). kCheckpoint: the state at n_tokens; key = key of the block
// or tail that ends there; parent = key of the last full block at or before n_tokens (or the root), so the same as key
// when n_tokens is a multiple of the block size.
struct ParkedObject {
  enum class Kind : uint8_t { kBlock, kTail, kCheckpoint };
  Kind kind = Kind::kBlock;
  PrefixKey key{};
  PrefixKey parent{};
  int64_t n_tokens = 0;  // covered from position 0
  std::vector<std::byte> bytes;
};
// Copies out everything that resumes at the longest checkpoint at or before tokens.size(); replies with NOT_FOUND when
// the prefix is no longer held.
struct ExportPrefix {
  std::vector<uint32_t> tokens;
  std::string namespace_salt;
  std::function<void(absl::StatusOr<std::vector<ParkedObject>>)> reply;
};
// Admit nothing more: what waits gets Failed(UNAVAILABLE), what runs finishes.
struct DrainRequest {};
using EngineMessage = std::variant<Submit, Cancel, ProbePrefix, ExportPrefix, DrainRequest>;

struct Load {
  uint32_t n_running = 0;
  uint32_t n_waiting = 0;
  uint64_t n_tokens_queued = 0;
  uint32_t n_blocks_total = 0;
  uint32_t n_blocks_free = 0;
  uint64_t n_steps = 0;
  bool draining = false;
};

// A position the prefix cache can resume at; key and parent as a kCheckpoint ParkedObject's.
struct CachedCheckpoint {
  PrefixKey key{};
  PrefixKey parent{};
  int64_t n_tokens = 0;
};

// What the outside learns of the engine, on the engine thread; must not block.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void OnLoad(const Load& load) = 0;
  virtual void OnCheckpointsChanged(std::vector<CachedCheckpoint> gained, std::vector<PrefixKey> lost) = 0;
  // New cache objects, behind the step that made them: for the KV store. Dropping them is allowed.
  virtual void OnCacheObjects(std::string_view namespace_id, std::vector<ParkedObject> objects) = 0;
};

struct EngineConfig {
  int64_t n_context_max = 0;        // tokens of prompt plus output
  int64_t step_token_budget = 512;  // decode rows first, then prefill chunks up to this
  uint32_t n_sequences_max = 64;    // running
  uint32_t n_waiting_max = 1024;    // queued
  // Output tokens whose KV blocks a sequence is promised on admission, beyond what was given. Smaller: more sequences
  // at once, and more of them preempted (computed again later, with the same bits) when outputs turn out long.
  int64_t admission_headroom_tokens = 1024;
  int64_t checkpoint_interval_tokens = 256;  // multiple of the block size
  uint64_t checkpoint_memory_bytes = 0;      // budget of local checkpoints and tails (LRU); 0 = no prefix cache
  uint32_t eos_token_id = 1;
  uint32_t vocab_size = 0;
  bool export_cache_objects = false;  // feed OnCacheObjects
  bool self_check = false;            // abort when the books do not balance after a step; for tests, slow
};

// The one loop of a worker. Run() is the engine thread; everything else talks to it through `inbox`.
class Engine {
 public:
  Engine(const EngineConfig& config, Clock& clock, StepRunner& runner, const PrefixHasher& hasher,
         Mailbox<EngineMessage>& inbox, EngineObserver& observer);
  ~Engine();

  // Until the inbox is closed and drained of messages (remaining sequences get kCancelled), or a step fails: then every
  // sequence gets Failed(UNAVAILABLE) and the status is returned.
  absl::Status Run();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace longshelf::engine
