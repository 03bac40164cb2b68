#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/model/weights.h"

// The operations that decide bits, one table per instruction set, chosen once at start.
//
// Bits are defined without reference to a vector width, a tile or a thread (docs/numerics.md, "sum order 2"): a sum
// over columns runs in sixteen lanes; in step s lane l takes column 32 s + 2 l + 1, then column 32 s + 2 l, each by one
// fused multiply-add; after the last step the lanes are folded by one tree. Missing columns of the last step count as
// zero. Denormals are zero on the way in and out: callers hold a FlushDenormals.
namespace longshelf::engine {

// Columns of one step of a sum.
inline constexpr int64_t kStepColumns = 32;
constexpr int64_t RoundUpToStep(int64_t n) { return (n + kStepColumns - 1) / kStepColumns * kStepColumns; }

// The form in which activations enter a sum. kBf16: BF16 [columns rounded up to a step], for values exact in BF16.
// kSplit: F32, of every step first the sixteen odd columns, then the even ones. Same values, same bits.
enum class Operand : uint8_t { kBf16, kSplit };
constexpr int64_t OperandBytes(Operand form, int64_t columns) {
  return RoundUpToStep(columns) * (form == Operand::kBf16 ? 2 : 4);
}

// y[i * y_stride + r] = row (row_begin + r) of w times row i of x, for i < n and r < n_rows.
struct DotJob {
  const Matrix* w = nullptr;
  int64_t row_begin = 0;
  int64_t n_rows = 0;
  const std::byte* x = nullptr;  // [n] rows in the given form, zero past w->cols
  int64_t x_stride = 0;          // bytes
  int64_t n = 0;
  Operand form = Operand::kSplit;
  float* y = nullptr;
  int64_t y_stride = 0;
  bool round = false;  // to BF16
};
// Weight rows that one call of KernelTable::dot decodes at a time: its scratch holds them, or a part of them and their
// unfinished sums.
inline constexpr int64_t kDotRows = 32;
inline constexpr int64_t kMinDotScratchBytes = int64_t{96} << 10;
constexpr int64_t DotScratchBytes(int64_t columns) {
  const int64_t rows = kDotRows * OperandBytes(Operand::kSplit, columns);
  return rows > kMinDotScratchBytes ? rows : kMinDotScratchBytes;
}

// Keys per tile of the softmax.
inline constexpr int64_t kTileKeys = 64;

// The packed rows that a key tile is decoded from.
struct KeyRecords {
  bool packed = true;    // FP8 and BF16 parts as KvLayout stores them; false: F32 [width]
  int64_t width = 0;     // head_dim
  int64_t rope_dim = 0;  // last channels, BF16 when packed
};
// Of one decoded tile, in the table's own form.
constexpr int64_t KeyTileBytes(int64_t width) { return kTileKeys * 4 * RoundUpToStep(width); }

// The running softmax of one head.
struct SoftmaxState {
  float max;
  float sum;
};

// One query's heads against one tile: p = exp(score - running max), rounded to BF16 when `round`; values are the keys.
struct AttendJob {
  const std::byte* q = nullptr;  // [n_heads] operands of `form`
  int64_t q_stride = 0;
  Operand form = Operand::kSplit;
  int64_t n_heads = 0;
  int64_t width = 0;
  float scale = 1.0F;
  bool round = false;
  const std::byte* tile = nullptr;
  int64_t begin = 0;  // visible keys of the tile: [begin, end)
  int64_t end = 0;
  SoftmaxState* states = nullptr;  // [n_heads]
  float* sums = nullptr;           // [n_heads, RoundUpToStep(width)], in the table's own column order
  float* work = nullptr;           // [n_heads, kTileKeys]
};

// Index queries as integers: FP4 codes doubled (0, 1, 2, 3, 4, 6, 8, 12 and sign), so that products of 32 columns are
// exact in any order.
struct IndexQuery {
  int8_t* codes = nullptr;     // [n_heads, width]
  float* scales = nullptr;     // [n_heads, width / 32], a quarter of the scale (both sides are doubled)
  int32_t* offsets = nullptr;  // [n_heads, width / 32], -12 x the sum of a block's codes
  float* weights = nullptr;    // [n_heads]
};
struct IndexJob {
  int64_t n_heads = 0;
  int64_t width = 0;  // a multiple of 32
  const IndexQuery* queries = nullptr;
  int64_t n_queries = 0;
  const std::byte* const* keys = nullptr;  // [n_keys] packed index keys
  int64_t n_keys = 0;
  float* scores = nullptr;    // [n_queries, scores_stride]
  int64_t scores_stride = 0;  // at least n_keys rounded up to 16
};
// The scratch of one call.
constexpr int64_t IndexScratchBytes(int64_t width) { return 32 * (width + 4 * (width / 32)); }

struct KernelTable {
  const char* name;
  Operand native_form;  // of values exact in BF16

  // x [columns] -> operand. Values must be exact in BF16 for kBf16.
  void (*pack)(const float* x, int64_t columns, Operand form, std::byte* out);
  // `scratch` holds DotScratchBytes(w->cols), aligned to 64.
  void (*dot)(const DotJob& job, std::byte* scratch);

  // Null records, and rows n to 63 of the tile, become zero.
  void (*load_keys)(const KeyRecords& format, const std::byte* const* records, int64_t n, Operand form,
                    std::byte* tile);
  void (*attend)(const AttendJob& job);
  // out[c] = sums[c] / (sum + exp(sink - max)), in natural column order, not rounded.
  void (*finish_head)(const float* sums, SoftmaxState state, float sink, int64_t width, Operand form, float* out);

  // Quantises n_heads queries [n_heads, width].
  void (*pack_index_query)(const float* q, const float* weights, int64_t n_heads, int64_t width, const IndexQuery& out);
  // score = round(sum over heads ascending of round(relu(round(dot)) * weight)), rounded to BF16.
  void (*index_scores)(const IndexJob& job, std::byte* scratch);

  // Indices [begin, end) of the scores above the threshold, ascending, to out; returns how many.
  int64_t (*indices_above)(const float* scores, int64_t begin, int64_t end, float threshold, int32_t* out);

  // In sum order 2.
  float (*sum_squares)(const float* x, int64_t n);
  // The same with each square rounded to BF16, then added.
  float (*sum_rounded_squares)(const float* x, int64_t n);
  // out = w * (x * r), rounded when `round`; w may be null.
  void (*scale_row)(const float* x, const float* w, float r, int64_t n, bool round, float* out);
  void (*round_row)(float* x, int64_t n);
  // x = code * scale of Q8 in groups of `group` channels.
  void (*quantize_row)(float* x, int64_t n, int64_t group);
  // One group: returns the UE8M0 code.
  uint8_t (*encode_e4m3)(const float* x, int64_t n, uint8_t* codes);
  void (*decode_e4m3)(const uint8_t* codes, int64_t n, float scale, float* out);
  // By the angle of `cos` and `sin` [n_pairs], or its negative; interleaved pairs.
  void (*rotate)(float* x, const float* cos, const float* sin, int64_t n_pairs, bool inverse, bool round);
  // out[c] = chain over j ascending of weights[j * weight_stride] * rows[j * row_stride + c] on top of 0, or, with z,
  // on top of z_weight * z[c].
  void (*mix_rows)(const float* weights, int64_t weight_stride, const float* rows, int64_t row_stride, int64_t n_rows,
                   const float* z, float z_weight, int64_t n, bool round, float* out);
  // a = silu(min(a, limit)) * clamp(b, -limit, limit) * weight; limit 0 = no clamp.
  void (*swiglu)(float* a, const float* b, int64_t n, float limit, float weight, bool round);
  // y += x.
  void (*add_row)(const float* x, int64_t n, float* y);
  // One pooled entry: softmax over the n candidates of every channel, then the weighted sum in parts of sixteen.
  void (*pool)(const float* const* a, const float* const* g, int64_t n, int64_t width, float* out);
  // BF16 <-> F32 rows.
  void (*encode_bf16)(const float* x, int64_t n, uint16_t* out);
  void (*decode_bf16)(const uint16_t* x, int64_t n, float* out);
};

}  // namespace longshelf::engine
