#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
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

// KV that came from elsewhere, verified by whoever fetched it. Blocks [first_block, first_block + blocks.size()) of the
// prompt, and the state at n_tokens. A partly filled last block (tail) is the last element when n_tokens is not a
// multiple of the block size.
struct RestoredPrefix {
  int64_t n_tokens = 0;
  int64_t first_block = 0;
  std::vector<std::vector<std::byte>> blocks;
  std::vector<std::byte> state;
};

struct Started {
  uint32_t n_prompt_tokens = 0;
  uint32_t n_cached_local = 0;
  uint32_t n_cached_store = 0;
  std::string miss_reason;
};
struct PrefillProgress { uint32_t n_done = 0; uint32_t n_total = 0; };
struct OutputToken { uint32_t index = 0; SampledToken token; };
enum class FinishReason : uint8_t { kStop, kLength, kCancelled };
struct Finished { FinishReason reason = FinishReason::kStop; uint32_t n_output_tokens = 0; };
struct Failed { absl::Status status; };
using SequenceEvent = std::variant<Started, PrefillProgress, OutputToken, Finished, Failed>;

// Where a sequence's events go. Called on the engine thread: must not block and must not call back into the engine.
// Exactly one Finished or Failed ends it.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void OnEvent(SequenceEvent event) = 0;
};

struct SequenceRequest {
  uint64_t id = 0;                             // unique per worker process
  std::vector<uint32_t> prompt;
  std::vector<uint32_t> committed;             // output tokens already delivered by an earlier run
  uint32_t max_tokens = 0;                     // counts committed
  SamplingParams sampling;
  std::vector<uint32_t> stop_token_ids;
  std::string namespace_id;
  std::string namespace_salt;
  bool return_logits = false;
  bool no_cache_read = false;
  std::unique_ptr<RestoredPrefix> restored;    // null: only the local cache is used
  std::string store_miss_reason;               // why restored is null or short; reported in Started
  std::shared_ptr<EventSink> sink;
};

// Messages to the engine thread.
struct Submit { SequenceRequest request; };
struct Cancel { uint64_t id = 0; };
// How many leading tokens of `tokens` could be resumed locally right now, and at which keys.
struct ProbePrefix {
  std::vector<uint32_t> tokens;
  std::string namespace_salt;
  std::function<void(int64_t n_tokens)> reply;
};
struct ParkedObject {
  enum class Kind : uint8_t { kBlock, kTail, kCheckpoint };
  Kind kind = Kind::kBlock;
  PrefixKey key{};
  PrefixKey parent{};
  int64_t n_tokens = 0;                        // covered from position 0
  std::vector<std::byte> bytes;
};
// Copies out everything that resumes at the longest checkpoint at or before tokens.size(); replies with NOT_FOUND when
// the prefix is no longer held.
struct ExportPrefix {
  std::vector<uint32_t> tokens;
  std::string namespace_salt;
  std::function<void(absl::StatusOr<std::vector<ParkedObject>>)> reply;
};
struct DrainRequest {};                         // admit nothing more
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

// A position the prefix cache can resume at.
struct CachedCheckpoint { PrefixKey key{}; PrefixKey parent{}; int64_t n_tokens = 0; };

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
  int64_t n_context_max = 0;                // tokens of prompt plus output
  int64_t step_token_budget = 512;          // decode rows first, then prefill chunks up to this
  uint32_t n_sequences_max = 64;            // running
  uint32_t n_waiting_max = 1024;            // queued
  int64_t checkpoint_interval_tokens = 256; // multiple of the block size
  uint64_t checkpoint_memory_bytes = 0;     // budget of local checkpoints (LRU)
  uint32_t eos_token_id = 1;
  uint32_t vocab_size = 0;
  bool export_cache_objects = false;        // feed OnCacheObjects
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
