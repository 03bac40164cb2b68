#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/kv_copy.h"

namespace longshelf::engine {

// Cached KV of one request's tokens that is elsewhere and comes in pieces, verified by whoever fetches it, into the
// copies of the shard where the sequence is at home. The sequence is admitted first and takes blocks into its own
// memory as they arrive, so that a prefix of any length needs no memory beside the sequence's own but for what is on
// its way. Whoever fills a feed posts Wake when something has arrived.
//
// Called by the engine thread; must not block. May outlive both sides.
class PrefixFeed {
 public:
  // How it ended. n_tokens 0: nothing can be resumed. Otherwise the blocks before n_tokens are held or were delivered,
  // and `state` and `tail` (null when n_tokens ends a block) are what a checkpoint holds there.
  struct End {
    int64_t n_tokens = 0;
    KvCopyPtr state;
    KvCopyPtr tail;
    std::string miss_reason;  // why it did not lead as far as it could have; empty when it did
  };
  struct Arrived {
    std::vector<KvCopyPtr> blocks;  // the next ones, in order
    std::optional<End> end;         // comes alone, after the last block was taken
  };

  virtual ~PrefixFeed() = default;
  // The position it hopes to lead to; at least 1.
  virtual int64_t n_tokens() const = 0;
  // The sequence was admitted to `shard` and holds its first n_blocks full blocks: what follows is wanted from there
  // on. After a Stop() it begins anew.
  virtual void Begin(uint16_t shard, int64_t n_blocks) = 0;
  // What has arrived, at most n_blocks_max. What was taken before is imported by now: its memory is free again.
  virtual Arrived Take(int64_t n_blocks_max) = 0;
  // Nothing more is wanted for now. Any number of times.
  virtual void Stop() = 0;
};

}  // namespace longshelf::engine
