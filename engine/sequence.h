#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "block_table.h"
#include "checkpoint_store.h"
#include "draft_policy.h"
#include "engine/events.h"
#include "engine/model/kv_layout.h"
#include "engine/request.h"
#include "engine/sampling.h"
#include "engine/step_plan.h"
#include "fair_share.h"
#include "prefix_chain.h"
#include "prompt_lookup.h"

namespace longshelf::engine {

constexpr int64_t BlocksFor(int64_t n_tokens) { return (n_tokens + kBlockTokens - 1) / kBlockTokens; }

// A request inside the engine. Waiting: no slot, no blocks. Running: both. A running one that is preempted waits again,
// with what it has sampled so far as part of what is given.
struct Sequence {
  uint64_t id = 0;
  SamplingParams sampling;
  std::vector<uint32_t> stop_token_ids;
  std::string output_spec;
  std::vector<uint32_t> end_token_ids;  // of output_spec, the end of sequence too
  std::string tenant;
  ServiceTier tier = ServiceTier::kDefault;
  Flow* flow = nullptr;  // its share of the engine; the scheduler's
  std::string namespace_id;
  bool return_logits = false;
  bool no_cache_read = false;
  bool samples = true;               // false: it ends when all its prompt tokens are scored
  std::shared_ptr<PrefixFeed> feed;  // until it has ended, or turned out to be of no use
  std::string store_miss_reason;
  int64_t n_shared_elsewhere = 0;
  std::shared_ptr<EventSink> sink;

  std::vector<uint32_t> tokens;  // prompt, committed, then sampled ones
  int64_t n_prompt = 0;
  int64_t n_given = 0;       // prompt and committed (and output before a preemption): what prefill covers
  int64_t n_tokens_max = 0;  // ends with kLength when tokens.size() is this
  // Leading prompt tokens that are scored, or need not be. While others are left, nothing was sampled, and what is
  // computed is computed from just before the first of them on.
  int64_t n_scored = 0;
  PrefixChain chain;

  uint64_t arrival = 0;  // place in the order of requests
  bool started = false;  // was running before: Started is out
  bool has_sampled = false;

  // While waiting.
  uint32_t n_bypassed = 0;  // later requests admitted before this one

  // While running.
  SlotId slot;
  int64_t n_past = 0;                             // tokens in blocks and state; while it is restoring, in blocks
  BlockTable blocks;                              // home shard's, held
  uint32_t n_promised = 0;                        // blocks it may still allocate
  bool lacks_room = false;                        // its next token waits for a block
  int64_t n_published = 0;                        // leading blocks that are in the index
  bool publishes = true;                          // its blocks and checkpoints go into the cache
  int64_t common_prefix = 0;                      // others share this many tokens: worth a checkpoint; 0 = no
  bool is_restoring = false;                      // blocks come from its feed
  int64_t n_blocks_found = 0;                     // of those, held when it was admitted
  std::string_view feed_refusal;                  // why its feed was left
  std::shared_ptr<const Checkpoint> resume_from;  // still to be sent
  bool restored_from_store = false;               // resume_from is not in the cache yet
  int64_t replay_begin = 0;                       // its state is rebuilt from here ..
  int64_t replay_end = 0;                         // .. up to here; nothing to rebuild: 0
  std::optional<PrefixKey> last_checkpoint;       // that it left or went on from
  std::vector<PrefixKey> periodic_checkpoints;    // that it left on its way, oldest first

  // Guesses. Those in `draft` follow the last token and came with it; empty = none.
  PromptLookup lookup;
  std::vector<uint32_t> draft;
  std::vector<float> draft_confidence;
  std::array<DraftRecord, kDraftSources> draft_records;
  uint32_t n_drafts_accepted = 0;
  uint32_t n_drafts_rejected = 0;

  explicit Sequence(PrefixChain prefix_chain) : chain(std::move(prefix_chain)) {}
  ~Sequence() { LeaveFeed(); }
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  void LeaveFeed() {
    if (feed != nullptr) feed->Stop();
  }

  int64_t n_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t n_pending() const { return n_tokens() - n_past; }
  bool is_scoring() const { return n_scored < n_prompt; }
  // Leading tokens that need not be computed, if they are held; the last one always is.
  int64_t n_reusable() const { return (is_scoring() ? n_scored : n_given) - 1; }
  bool may_run() const { return !is_importing() && !lacks_room; }
  bool is_replaying() const { return n_past < replay_end; }
  bool is_importing() const { return is_restoring || resume_from != nullptr; }
  int64_t n_blocks_taken() const { return static_cast<int64_t>(blocks.size()) + n_promised; }
  uint32_t n_output() const { return static_cast<uint32_t>(n_tokens() - n_prompt); }
  // Blocks of the longest it can get: the last token is sampled but never processed.
  int64_t n_blocks_max() const { return BlocksFor(n_tokens_max - 1); }
  void Emit(SequenceEvent event) { sink->OnEvent(std::move(event)); }
};

}  // namespace longshelf::engine
