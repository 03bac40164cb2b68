#pragma once

#include <cstdint>
#include <vector>

#include "compressor.h"
#include "ops.h"
#include "rope.h"
#include "taps.h"

namespace longshelf::engine {

// Attention of one layer: window, compressed entries, sink, grouped output projection (model.py of the published
// inference: Attention).
class Attention {
 public:
  Attention(const AttentionWeights& weights, const KvLayout& layout, int64_t layer, int ratio, const RopeTable& rope)
      : weights_(weights), layout_(layout), layer_(layer), ratio_(ratio), rope_(rope) {}

  // x: [n, D], normed. Appends the chunk's KV to blocks and state; z: [n, D].
  void Run(Ops& ops, const float* x, int64_t n, const std::vector<SequenceRows>& parts, float* z,
           const Tapper& taps) const;

 private:
  struct PartKv;
  std::vector<float> Queries(Ops& ops, const float* qr, int64_t n, const std::vector<SequenceRows>& parts,
                             const Tapper& taps) const;
  std::vector<float> WindowRows(Ops& ops, const float* x, int64_t n, const std::vector<SequenceRows>& parts,
                                const Tapper& taps) const;
  void AppendEntries(Ops& ops, const Compressor& compressor, const SequenceRows& rows,
                     std::vector<float>* tapped) const;
  PartKv LoadPart(Ops& ops, const SequenceRows& rows, const float* kv) const;
  void SaveWindow(const SequenceRows& rows, const PartKv& part) const;
  void AttendRow(Ops& ops, const SequenceRows& rows, const PartKv& part, int64_t i, const std::vector<int32_t>* chosen,
                 const float* q, float* out) const;
  void Project(Ops& ops, const std::vector<float>& o, int64_t n, float* z) const;

  const AttentionWeights& weights_;
  const KvLayout& layout_;
  const int64_t layer_;
  const int ratio_;
  const RopeTable& rope_;
};

}  // namespace longshelf::engine
