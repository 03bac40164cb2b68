#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/model/kv_layout.h"
#include "ops.h"

namespace longshelf::engine {

// One sequence's rows inside the flattened batch: tokens [n_past, n_past + n_rows) are rows [row_begin, ...).
struct SequenceRows {
  int64_t row_begin = 0;
  int64_t n_rows = 0;
  int64_t n_past = 0;
  std::span<std::byte* const> blocks;
  std::byte* state = nullptr;

  int64_t n_total() const { return n_past + n_rows; }
};

// The pooled entries that became complete with this chunk, before norm, RoPE and quantisation (model.py: Compressor).
struct PooledEntries {
  int64_t first = 0;  // index of the first new entry
  int64_t count = 0;
  std::vector<float> values;  // [count, d], rounded
};

// Projects x (fp32 compute, no quantisation) and pools every window completed by `rows`, carrying unfinished windows in
// the state slot. Each entry depends on its own window's inputs only, so chunking cannot change it.
class Compressor {
 public:
  Compressor(const CompressorWeights& weights, int ratio, int64_t d) : weights_(weights), ratio_(ratio), d_(d) {}

  // a, g: [n, coff * d] for all rows of the batch.
  void Project(Ops& ops, const float* x, int64_t n);
  PooledEntries Pool(Ops& ops, const SequenceRows& rows, KvLayout::CarryOffsets carry) const;

 private:
  struct Source;
  void PoolWindow(const Source& source, int64_t entry, float* out) const;
  void SaveCarry(const Source& source, const SequenceRows& rows, KvLayout::CarryOffsets carry) const;

  const CompressorWeights& weights_;
  const int ratio_;
  const int64_t d_;
  std::vector<float> a_;
  std::vector<float> g_;
};

}  // namespace longshelf::engine
