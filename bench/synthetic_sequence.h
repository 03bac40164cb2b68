#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/model/kv_layout.h"
#include "engine/model/model.h"

namespace longshelf::bench {

// A sequence that looks as if n_past tokens had been processed: every record of its blocks and windows is random but
// well formed, so that a step at any context costs what it costs in service, without the prefill before it.
class SyntheticSequence {
 public:
  // n_room: tokens that may still be appended.
  SyntheticSequence(const engine::ModelConfig& config, const engine::KvLayout& layout, int64_t n_past, int64_t n_room,
                    uint64_t seed);

  int64_t n_past() const { return n_past_; }
  // The next `tokens` of the sequence. They must outlive the chunk.
  engine::SequenceChunk Next(std::span<const uint32_t> tokens);
  void Advance(int64_t n_tokens) { n_past_ += n_tokens; }

 private:
  int64_t n_past_;
  std::vector<std::unique_ptr<std::byte[]>> storage_;
  std::vector<std::byte*> blocks_;
  std::unique_ptr<std::byte[]> state_;
};

}  // namespace longshelf::bench
