#pragma once

#include <cstdint>
#include <vector>

#include "compressor.h"
#include "kv_records.h"
#include "ops.h"
#include "rope.h"
#include "taps.h"

namespace longshelf::engine {

// The lightning indexer of a CSA layer: which compressed entries each query attends to (model.py:
// Indexer).
class Indexer {
 public:
  Indexer(const IndexerWeights& weights, const KvLayout& layout, int64_t layer, const RopeTable& rope)
      : weights_(weights), layout_(layout), layer_(layer), rope_(rope) {}

  // x: [n, D] attention input; qr: [n, q_lora_rank]. Appends index keys to the blocks, then fills chosen[row] with
  // ascending entry indices: the index_topk best, ties to the lower index.
  void Run(Ops& ops, const float* x, const float* qr, int64_t n, const std::vector<SequenceRows>& parts,
           std::vector<std::vector<int32_t>>& chosen, const Tapper& taps);

 private:
  std::vector<float> Queries(Ops& ops, const float* qr, int64_t n, const std::vector<SequenceRows>& parts,
                             const Tapper& taps) const;
  void AppendKeys(Ops& ops, const Compressor& compressor, const SequenceRows& rows, std::vector<float>* tapped) const;
  void Score(Ops& ops, const SequenceRows& rows, int64_t first_row, int64_t n_rows, const float* q,
             const float* head_weights, std::vector<std::vector<int32_t>>& chosen) const;

  const IndexerWeights& weights_;
  const KvLayout& layout_;
  const int64_t layer_;
  const RopeTable& rope_;
};

}  // namespace longshelf::engine
