#pragma once

#include <cstdint>
#include <span>

#include "compressor.h"
#include "kv_records.h"
#include "ops.h"
#include "rope.h"
#include "taps.h"

namespace longshelf::engine {

// Scores held at a time: rows of a long context are taken in portions.
inline constexpr int64_t kIndexScores = int64_t{1} << 24;

// Which compressed entries each row of a step attends to: all it sees, or the index_topk best, ascending.
struct ChosenEntries {
  int32_t* entries = nullptr;  // [n, topk]; set for rows that see more than topk
  int64_t topk = 0;

  static int64_t Visible(int64_t position) { return (position + 1) / 4; }
  bool All(int64_t position) const { return Visible(position) <= topk; }
  const int32_t* row(int64_t i) const { return entries + i * topk; }
};

// The lightning indexer of a CSA layer (model.py: Indexer), for one step. Called in the order of its members.
class Indexer {
 public:
  Indexer(const IndexerWeights& weights, const KvLayout& layout, int64_t layer, const RopeTable& rope)
      : weights_(weights),
        layout_(layout),
        layer_(layer),
        rope_(rope),
        compressor_(weights.compressor, 4, layout.index_head_dim()) {}

  static constexpr int kProjections = Compressor::kProjections + 1;
  void Project(Ops& ops, const SublayerInput& input, DotJob* jobs);
  void FinishProjection(const Ops& ops, int64_t row, int64_t position);
  const Compressor& compressor() const { return compressor_; }
  // Pools, rotates and packs one key into its block.
  void AppendKey(const Ops& ops, const SequenceRows& rows, int64_t entry, int thread) const;
  void SaveCarry(const SequenceRows& rows) const { compressor_.SaveCarry(rows, layout_.IndexCarry(layer_)); }

  DotJob ProjectQueries(Ops& ops, const OperandRows& qr, int64_t n);
  // One row's query: RoPE, rotation, quantisation.
  void FinishQuery(Ops& ops, int64_t row, Rotation rotation);
  ChosenEntries Choose(Ops& ops, std::span<const SequenceRows> parts, int64_t n);

  // For `verify`, when what they show is there.
  void TapWeights(const Tapper& taps, const ModelConfig& config, int64_t n) const;
  void TapQueries(const Tapper& taps, const ModelConfig& config, int64_t n) const;
  void TapKeys(const Tapper& taps, std::span<const SequenceRows> parts, const Ops& ops) const;

 private:
  void ScoreRange(Ops& ops, const SequenceRows& rows, int64_t first_row, int64_t n_rows, int64_t first_key,
                  int64_t n_keys, float* scores, int64_t stride, int thread) const;
  void ScoreRangeFp32(Ops& ops, const SequenceRows& rows, int64_t first_row, int64_t n_rows, int64_t first_key,
                      int64_t n_keys, float* scores, int64_t stride, int thread) const;

  const IndexerWeights& weights_;
  const KvLayout& layout_;
  const int64_t layer_;
  const RopeTable& rope_;
  Compressor compressor_;
  float* head_weights_ = nullptr;  // [n, heads]
  float* q_ = nullptr;             // [n, heads, width]
  IndexQuery* queries_ = nullptr;  // [n], native
  OperandRows operands_;           // [n * heads], fp32
};

}  // namespace longshelf::engine
