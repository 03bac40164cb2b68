#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/cache_objects.h"
#include "engine/prefix_feed.h"
#include "kv_objects.h"

namespace longshelf::engine {

// A feed that has everything, made of what an engine exported. Knobs make it slow, short or wrong.
class FakeFeed final : public PrefixFeed {
 public:
  // As PrefixFeed::End.
  struct End {
    int64_t n_tokens = 0;
    std::vector<std::byte> state;
    std::vector<std::byte> tail;
    std::string miss_reason;
  };

  explicit FakeFeed(const std::vector<KvObject>& objects) {
    for (const KvObject& object : objects) {
      if (object.kind == ParkedObject::Kind::kBlock) blocks.push_back(*object.bytes);
      if (object.kind == ParkedObject::Kind::kTail) end.tail = *object.bytes;
      if (object.kind == ParkedObject::Kind::kCheckpoint) {
        n_hoped = end.n_tokens = object.n_tokens;
        end.state = *object.bytes;
      }
    }
  }

  // Where it puts what it brings. Before it begins.
  void Bind(const TestCopies& copies) { copies_ = copies; }

  int64_t n_tokens() const override { return n_hoped; }
  void Begin(uint16_t shard, int64_t n_blocks) override {
    ++n_begun;
    shard_ = shard;
    is_stopped = false;
    first_blocks.push_back(n_blocks);
    next_ = n_blocks;
  }
  Arrived Take(int64_t n_blocks_max) override {
    ++n_takes;
    n_takes.notify_all();
    if (on_take) on_take();
    Arrived out;
    const auto n_have = std::min<int64_t>(static_cast<int64_t>(blocks.size()), n_arrived.load());
    for (; next_ < n_have && n_blocks_max > 0; ++next_, --n_blocks_max) {
      out.blocks.push_back(copies_->Add(shard_, blocks[static_cast<size_t>(next_)]));
    }
    if (out.blocks.empty() && next_ >= static_cast<int64_t>(blocks.size()) && !withholds_end) out.end = Brought(end);
    if (out.blocks.empty() && breaks_at.has_value() && next_ >= *breaks_at) {
      out.end = Brought({.n_tokens = 0, .state = {}, .tail = {}, .miss_reason = "store_timeout"});
    }
    return out;
  }
  void Stop() override { is_stopped = true; }

  std::vector<std::vector<std::byte>> blocks;
  End end;
  int64_t n_hoped = 0;
  std::atomic<int64_t> n_arrived = std::numeric_limits<int64_t>::max();  // blocks; others may add
  std::optional<int64_t> breaks_at;                                      // block
  bool withholds_end = false;
  std::function<void()> on_take;
  int n_begun = 0;
  std::atomic<int> n_takes = 0;
  bool is_stopped = false;
  std::vector<int64_t> first_blocks;

 private:
  PrefixFeed::End Brought(const End& what) const {
    const auto add = [this](const std::vector<std::byte>& bytes) {
      return bytes.empty() ? nullptr : copies_->Add(shard_, bytes);
    };
    return {
        .n_tokens = what.n_tokens, .state = add(what.state), .tail = add(what.tail), .miss_reason = what.miss_reason};
  }

  std::optional<TestCopies> copies_;
  uint16_t shard_ = 0;
  int64_t next_ = 0;
};

}  // namespace longshelf::engine
