#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/model/model.h"

namespace longshelf::engine {

// A whole sequence's KV in plain memory, for running the model without an engine: verify and the model's tests do.
// Used by one thread.
class SequenceMemory {
 public:
  SequenceMemory(const KvLayout& layout, int64_t n_tokens) : state_(layout.state_bytes()) {
    const auto n_blocks = static_cast<size_t>((n_tokens + kBlockTokens - 1) / kBlockTokens);
    storage_.resize(n_blocks * layout.block_bytes());
    for (size_t i = 0; i < n_blocks; ++i) blocks_.push_back(storage_.data() + i * layout.block_bytes());
    layout.ResetState(state_.data());
  }
  // The blocks point into this object.
  SequenceMemory(const SequenceMemory&) = delete;
  SequenceMemory& operator=(const SequenceMemory&) = delete;

  std::byte* state() { return state_.data(); }
  const std::byte* state() const { return state_.data(); }
  // Every block's bytes, one after the other.
  const std::vector<std::byte>& storage() const { return storage_; }
  std::span<std::byte* const> blocks() const { return blocks_; }
  // `tokens` must outlive the chunk.
  SequenceChunk Chunk(int64_t n_past, std::span<const uint32_t> tokens, WantLogits want) {
    return {n_past, tokens, blocks_, state_.data(), want};
  }

 private:
  std::vector<std::byte> state_;
  std::vector<std::byte> storage_;
  std::vector<std::byte*> blocks_;
};

}  // namespace longshelf::engine
