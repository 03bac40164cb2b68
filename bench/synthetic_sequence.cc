#include "synthetic_sequence.h"

#include <cstring>

namespace longshelf::bench {
namespace {

using engine::KvComponent;
using engine::KvLayout;
using engine::ModelConfig;
using engine::Numerics;

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  // SplitMix64.
  uint64_t Word() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }
  void Fill(std::byte* to, int64_t n_bytes, uint64_t keep, uint64_t fixed) {
    for (int64_t i = 0; i < n_bytes; i += 8) {
      const uint64_t word = (Word() & keep) | fixed;
      std::memcpy(to + i, &word, static_cast<size_t>(n_bytes - i < 8 ? n_bytes - i : 8));
    }
  }

 private:
  uint64_t state_;
};

constexpr uint64_t kAll = ~0ULL;
constexpr uint64_t kOneExponent = 0x7F7F7F7F7F7F7F7FULL;  // UE8M0: 2^0

// +-[1, 2) / 2 each.
void FillF32(Random& random, std::byte* to, int64_t n_values) {
  random.Fill(to, 4 * n_values, 0x807FFFFF807FFFFFULL, 0x3F0000003F000000ULL);
}

// FP8 [nope] | BF16 [rope] | UE8M0 [ceil(nope / 64)] | padding
void FillEntry(Random& random, const ModelConfig& config, Numerics numerics, std::byte* row) {
  if (numerics == Numerics::kFp32) return FillF32(random, row, config.head_dim);
  const int64_t nope = config.nope_dim();
  random.Fill(row, nope, 0x9F9F9F9F9F9F9F9FULL, 0x2020202020202020ULL);                        // +-[1/8, 2)
  random.Fill(row + nope, 2 * config.rope_dim, 0x807F807F807F807FULL, 0x3F003F003F003F00ULL);  // +-[1/2, 1)
  random.Fill(row + nope + 2 * config.rope_dim, (nope + 63) / 64, 0, kOneExponent);
}

// FP4 [d / 2] | UE8M0 [d / 32]
void FillIndexKey(Random& random, const ModelConfig& config, Numerics numerics, std::byte* row) {
  const int64_t d = config.index_head_dim;
  if (numerics == Numerics::kFp32) return FillF32(random, row, d);
  random.Fill(row, d / 2, kAll, 0);
  random.Fill(row + d / 2, d / 32, 0, kOneExponent);
}

}  // namespace

SyntheticSequence::SyntheticSequence(const ModelConfig& config, const KvLayout& layout, int64_t n_past, int64_t n_room,
                                     uint64_t seed)
    : n_past_(n_past), state_(std::make_unique<std::byte[]>(layout.state_bytes())) {
  Random random(seed);
  const int64_t n_blocks = (n_past + n_room + engine::kBlockTokens - 1) / engine::kBlockTokens;
  for (int64_t b = 0; b < n_blocks; ++b) {
    storage_.push_back(std::make_unique<std::byte[]>(layout.block_bytes()));
    blocks_.push_back(storage_.back().get());
    for (const KvComponent& component : layout.components()) {
      for (int64_t row = 0; row < component.rows; ++row) {
        std::byte* at = blocks_.back() + component.offset + row * component.row_bytes;
        if (component.id == engine::kEntries) {
          FillEntry(random, config, layout.numerics(), at);
        } else {
          FillIndexKey(random, config, layout.numerics(), at);
        }
      }
    }
  }
  layout.ResetState(state_.get());
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    const engine::RecordRing ring = layout.Window(layer);
    for (int64_t row = 0; row < ring.n_rows; ++row) {
      FillEntry(random, config, layout.numerics(), state_.get() + ring.offset + row * layout.entry_bytes());
    }
  }
}

engine::SequenceChunk SyntheticSequence::Next(std::span<const uint32_t> tokens) {
  engine::SequenceChunk chunk;
  chunk.n_past = n_past_;
  chunk.tokens = tokens;
  chunk.blocks = blocks_;
  chunk.state = state_.get();
  return chunk;
}

}  // namespace longshelf::bench
