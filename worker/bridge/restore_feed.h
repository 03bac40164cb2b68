#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "engine/prefix_feed.h"

namespace longshelf::worker {

// Where a restore on the bridge's loop and the engine thread meet. The mutex guards what has arrived and was not taken.
// Each Begin starts an attempt with a number of its own; what an older one still delivers is dropped.
class RestoreFeed final : public engine::PrefixFeed {
 public:
  // What the engine does, as the restore hears of it; called on the engine thread, outside the mutex.
  struct Listener {
    std::function<void(uint32_t attempt, uint16_t shard, int64_t n_blocks)> on_begin;
    std::function<void(uint32_t attempt, uint64_t n_bytes)> on_taken;  // and imported: the memory is free
    std::function<void()> on_stop;
  };
  // `ring` wakes the engine; any thread.
  RestoreFeed(int64_t n_tokens, Listener listener, std::function<void()> ring)
      : n_tokens_(n_tokens), listener_(std::move(listener)), ring_(std::move(ring)) {}
  ~RestoreFeed() override { listener_.on_stop(); }

  // The restore's side.
  void Deliver(uint32_t attempt, engine::KvCopyPtr block);
  // `lease`: the memory of what was delivered; let go when all of it is taken.
  void Finish(uint32_t attempt, End end, std::shared_ptr<void> lease);

  // The engine's side.
  int64_t n_tokens() const override { return n_tokens_; }
  void Begin(uint16_t shard, int64_t n_blocks) override;
  Arrived Take(int64_t n_blocks_max) override;
  void Stop() override;

 private:
  void ForgetLocked();

  const int64_t n_tokens_;
  const Listener listener_;
  const std::function<void()> ring_;

  std::mutex mutex_;
  uint32_t attempt_ = 0;
  bool is_stopped_ = true;
  std::deque<engine::KvCopyPtr> blocks_;
  std::optional<End> end_;
  std::shared_ptr<void> lease_;
  uint64_t n_bytes_taken_ = 0;  // by the last Take
};

}  // namespace longshelf::worker
