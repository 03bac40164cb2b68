#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "compressor.h"
#include "indexer.h"
#include "ops.h"
#include "rope.h"
#include "taps.h"

namespace longshelf::engine {

// The rotations of a step's rows in a layer: [n, n_pairs] each.
struct StepRotations {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int64_t n_pairs = 0;

  Rotation at(int64_t row) const { return {cos + row * n_pairs, sin + row * n_pairs}; }
};

// What a layer is beside its weights.
struct LayerPlace {
  int64_t layer = 0;     // its components in blocks and carries; a draft layer has none
  uint32_t experts = 0;  // the place of its experts in the transport's placement: draft layers come last
  int ratio = 0;         // of its compression
  bool hash_routed = false;
  RecordRing window;
};

// Attention of one layer for one step: window, compressed entries, sink, grouped output projection (model.py of the
// published inference: Attention).
class Attention {
 public:
  Attention(const AttentionWeights& weights, const KvLayout& layout, const LayerPlace& place, const RopeTable& rope,
            const StepRotations& rotations);

  // Appends the rows' KV to blocks and state; z: [n, D].
  void Run(Ops& ops, const SublayerInput& input, std::span<const SequenceRows> parts, float* z, const Tapper& taps);

 private:
  // Queries of one sequence that share decoded key tiles, and the heads taken together.
  struct Group {
    const SequenceRows* rows;
    int64_t first;  // of rows
    int64_t n;
    int64_t first_head;
    int64_t n_heads;
  };
  struct Item;

  void Project(Ops& ops, const SublayerInput& input, std::span<const SequenceRows> parts, const Tapper& taps);
  void FinishRow(Ops& ops, const SequenceRows& rows, int64_t i, int thread);
  void AppendEntries(Ops& ops, std::span<const SequenceRows> parts);
  void Queries(Ops& ops, int64_t n, std::span<const SequenceRows> parts, const Tapper& taps);
  void FinishQueryHeads(const Ops& ops, int64_t row, int64_t first_head, int64_t n_heads) const;
  void Attend(Ops& ops, std::span<const SequenceRows> parts);
  void AttendGroup(Ops& ops, const Group& group, int thread) const;
  void AttendWindow(Ops& ops, const Group& group, Item& item) const;
  void AttendEntries(Ops& ops, const Group& group, Item& item) const;
  void AttendChosen(Ops& ops, const Group& group, int64_t i, Item& item) const;
  void AttendTile(const Ops& ops, const Group& group, int64_t i, int64_t begin, int64_t end, Item& item) const;
  void FinishHeads(const Ops& ops, const Group& group, Item& item) const;
  void ProjectOutput(Ops& ops, int64_t n, float* z);
  void TapEntries(Ops& ops, std::span<const SequenceRows> parts, const Tapper& taps) const;

  const AttentionWeights& weights_;
  const KvLayout& layout_;
  const int64_t layer_;
  const int ratio_;
  const RecordRing window_;
  const RopeTable& rope_;
  const StepRotations rotations_;
  std::optional<Compressor> compressor_;
  std::optional<Indexer> indexer_;

  // Of the step, in its workspace.
  float* qr_ = nullptr;           // [n, q_lora_rank]
  OperandRows qr_rows_;           // [n]
  float* kv_ = nullptr;           // [n, head_dim]
  std::byte* records_ = nullptr;  // [n, entry_bytes]: this step's window rows, packed
  float* q_ = nullptr;            // [n, n_heads, head_dim]
  OperandRows q_rows_;            // [n * n_heads]
  OperandRows o_rows_;            // [n * o_groups]
  ChosenEntries chosen_;          // ratio 4
};

// Window rows of positions that no query is run for, as a layer of these weights stores them. input: rows of D.
void StoreWindowRows(Ops& ops, const AttentionWeights& weights, const KvLayout& layout, RecordRing window,
                     const SublayerInput& input, std::span<const SequenceRows> parts, const StepRotations& rotations);

// Scratch of one work item of attention.
int64_t AttentionScratchBytes(const ModelConfig& config);

}  // namespace longshelf::engine
