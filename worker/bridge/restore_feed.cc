#include "restore_feed.h"

#include <utility>

namespace longshelf::worker {

void RestoreFeed::ForgetLocked() {
  blocks_.clear();
  end_.reset();
  lease_.reset();
  n_bytes_taken_ = 0;
}

void RestoreFeed::Deliver(uint32_t attempt, engine::KvCopyPtr block) {
  {
    const std::lock_guard lock(mutex_);
    if (attempt != attempt_ || is_stopped_) return;
    blocks_.push_back(std::move(block));
    if (blocks_.size() > 1) return;  // the engine has been told of others that it has not taken yet
  }
  ring_();
}

void RestoreFeed::Finish(uint32_t attempt, End end, std::shared_ptr<void> lease) {
  {
    const std::lock_guard lock(mutex_);
    if (attempt != attempt_ || is_stopped_) return;
    end_ = std::move(end);
    lease_ = std::move(lease);
  }
  ring_();
}

void RestoreFeed::Begin(uint16_t shard, int64_t n_blocks) {
  uint32_t attempt = 0;
  {
    const std::lock_guard lock(mutex_);
    ForgetLocked();
    is_stopped_ = false;
    attempt = ++attempt_;
  }
  listener_.on_begin(attempt, shard, n_blocks);
}

engine::PrefixFeed::Arrived RestoreFeed::Take(int64_t n_blocks_max) {
  Arrived out;
  uint64_t n_bytes_imported = 0;
  uint32_t attempt = 0;
  {
    const std::lock_guard lock(mutex_);
    attempt = attempt_;
    n_bytes_imported = std::exchange(n_bytes_taken_, 0);
    for (; n_blocks_max > 0 && !blocks_.empty(); --n_blocks_max) {
      n_bytes_taken_ += blocks_.front()->n_bytes();
      out.blocks.push_back(std::move(blocks_.front()));
      blocks_.pop_front();
    }
    if (out.blocks.empty() && blocks_.empty() && end_.has_value()) {
      out.end = std::move(end_);
      ForgetLocked();
    }
  }
  if (n_bytes_imported > 0) listener_.on_taken(attempt, n_bytes_imported);
  return out;
}

void RestoreFeed::Stop() {
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(is_stopped_, true)) return;
    ForgetLocked();
  }
  listener_.on_stop();
}

}  // namespace longshelf::worker
