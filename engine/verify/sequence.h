#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/model/model.h"

namespace longshelf::engine {

// A whole sequence's KV in plain memory: what verify and model tests run the model on.
class SequenceMemory {
 public:
  SequenceMemory(const KvLayout& layout, int64_t n_tokens)
      : state_(layout.state_bytes()), n_blocks_(static_cast<size_t>((n_tokens + kBlockTokens - 1) / kBlockTokens)) {
    storage_.resize(n_blocks_ * layout.block_bytes());
    for (size_t i = 0; i < n_blocks_; ++i) blocks_.push_back(storage_.data() + i * layout.block_bytes());
    layout.ResetState(state_.data());
  }

  std::byte* state() { return state_.data(); }
  std::span<std::byte* const> blocks() const { return blocks_; }
  SequenceChunk Chunk(int64_t n_past, std::span<const uint32_t> tokens, WantLogits want) {
    return {n_past, tokens, blocks_, state_.data(), want};
  }

 private:
  std::vector<std::byte> state_;
  size_t n_blocks_;
  std::vector<std::byte> storage_;
  std::vector<std::byte*> blocks_;
};

}  // namespace longshelf::engine
