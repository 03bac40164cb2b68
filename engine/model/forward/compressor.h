#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/model/kv_layout.h"
#include "hyper_connection.h"
#include "ops.h"

namespace longshelf::engine {

// One sequence's rows inside the flattened batch: tokens [n_past, n_past + n_rows) are rows [row_begin, ...).
struct SequenceRows {
  int64_t row_begin = 0;
  int64_t n_rows = 0;
  int64_t n_past = 0;
  std::span<std::byte* const> blocks = {};
  std::byte* state = nullptr;
  int64_t first_key = 0;        // the window has no positions before
  bool keeps_entries = false;   // blocks hold the entries of these rows already
  bool is_draft_block = false;  // every row sees the window before the block and all rows of it; nothing is stored

  int64_t n_total() const { return n_past + n_rows; }
};

// Pools windows of `ratio` positions into entries (model.py: Compressor), for one step: projections of all rows of the
// batch, then every window that a sequence completed, then its carry. An entry depends on its own window's inputs only,
// so chunking cannot change it.
class Compressor {
 public:
  Compressor(const CompressorWeights& weights, int ratio, int64_t d) : weights_(weights), ratio_(ratio), d_(d) {}

  // The two products that make a and g: [n, coff * d], fp32 compute, no quantisation, no rounding.
  void Project(Ops& ops, const SublayerInput& input, DotJob* jobs);
  static constexpr int kProjections = 2;
  // g carries the position embedding from here on, also in saved state.
  void AddPosition(const Ops& ops, int64_t row, int64_t position);

  // Windows that `rows` completed: entries [first, first + count).
  int64_t FirstEntry(const SequenceRows& rows) const { return rows.n_past / ratio_; }
  int64_t CountEntries(const SequenceRows& rows) const { return rows.n_total() / ratio_ - FirstEntry(rows); }
  // out: [d], rounded; before norm, RoPE and quantisation.
  void Pool(const Ops& ops, const SequenceRows& rows, CarryRing carry, int64_t entry, float* out) const;
  // After every entry was pooled.
  void SaveCarry(const SequenceRows& rows, CarryRing carry) const;

 private:
  int64_t width() const { return weights_.wkv.rows; }
  // The (a, g) row of a position: this step's, or the carry's.
  const float* A(const SequenceRows& rows, CarryRing carry, int64_t position) const;
  const float* G(const SequenceRows& rows, CarryRing carry, int64_t position) const;

  const CompressorWeights& weights_;
  const int64_t ratio_;
  const int64_t d_;
  float* a_ = nullptr;
  float* g_ = nullptr;
};

}  // namespace longshelf::engine
