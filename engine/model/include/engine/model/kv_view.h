#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/model/kv_layout.h"

namespace longshelf::engine {

// Reads a sequence's KV back as values. For verify, tests and debugging; not on any hot path.
class KvView {
 public:
  // All four must outlive the view.
  KvView(const ModelConfig& config, const KvLayout& layout, std::span<std::byte* const> blocks, const std::byte* state)
      : config_(config), layout_(layout), blocks_(blocks), state_(state) {}

  // [min(n_tokens, window), head_dim] in the order of a ring of window rows: position p is row p % window.
  std::vector<float> WindowRing(int64_t layer, int64_t n_tokens) const;
  std::vector<float> Entries(int64_t layer, int64_t n_entries) const;    // [n_entries, head_dim]
  std::vector<float> IndexKeys(int64_t layer, int64_t n_entries) const;  // [n_entries, index_head_dim]

 private:
  const ModelConfig& config_;
  const KvLayout& layout_;
  std::span<std::byte* const> blocks_;
  const std::byte* state_;
};

}  // namespace longshelf::engine
