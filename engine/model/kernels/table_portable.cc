#include "lanes_portable.h"
//
#include <algorithm>

#include "row_operations.h"
#include "softmax_rows.h"
#include "tables.h"

// The definition of every sum, one scalar at a time. The operations on rows share their text with the vector tables
// (rows.h) over lanes written as plain loops; what sums over columns is written anew here.
namespace longshelf::engine {
namespace {

// Column of an operand.
float ValueAt(const std::byte* x, Operand form, int64_t c) {
  if (form == Operand::kBf16) {
    uint16_t bits;
    std::memcpy(&bits, x + 2 * c, sizeof bits);
    return Bf16ToFloat(bits);
  }
  const int64_t step = c / kStepColumns;
  const int64_t in_step = c % kStepColumns;
  const int64_t at = step * kStepColumns + (in_step % 2 != 0 ? 0 : kLanes) + in_step / 2;
  float value;
  std::memcpy(&value, x + 4 * at, sizeof value);
  return value;
}

// sum over columns of weight(c) * value(c) in sum order 2.
template <typename Weight, typename Value>
float SumOrder2(int64_t columns, const Weight& weight, const Value& value) {
  F sum = Zero();
  for (int64_t step = 0; step < columns; step += kStepColumns) {
    for (int64_t l = 0; l < kLanes; ++l) {
      for (const int64_t c : {step + 2 * l + 1, step + 2 * l}) {
        const bool inside = c < columns;
        sum.v[l] = std::fma(inside ? weight(c) : 0.0F, inside ? value(c) : 0.0F, sum.v[l]);
      }
    }
  }
  return Fold(sum);
}

// SumOrder2 of one weight row with several operand rows: each weight is decoded once for all of them.
template <int64_t n_rows>
void DotRows(const DotJob& job, int64_t r, int64_t i0) {
  F sums[n_rows];
  for (F& sum : sums) sum = Zero();
  for (int64_t step = 0; step < job.w->cols; step += kStepColumns) {
    const int64_t n = std::min(kStepColumns, job.w->cols - step);
    float weights[kStepColumns] = {};
    for (int64_t c = 0; c < n; ++c) weights[c] = WeightAt(*job.w, job.row_begin + r, step + c);
    for (int64_t i = 0; i < n_rows; ++i) {
      float values[kStepColumns] = {};
      for (int64_t c = 0; c < n; ++c) values[c] = ValueAt(job.x + (i0 + i) * job.x_stride, job.form, step + c);
      for (int64_t l = 0; l < kLanes; ++l) {
        sums[i].v[l] = std::fma(weights[2 * l + 1], values[2 * l + 1], sums[i].v[l]);
        sums[i].v[l] = std::fma(weights[2 * l], values[2 * l], sums[i].v[l]);
      }
    }
  }
  for (int64_t i = 0; i < n_rows; ++i) {
    const float sum = Fold(sums[i]);
    job.y[(i0 + i) * job.y_stride + r] = job.round ? RoundBf16(sum) : sum;
  }
}

void Dot(const DotJob& job, std::byte*) {
  constexpr int64_t kRows = 8;
  for (int64_t r = 0; r < job.n_rows; ++r) {
    int64_t i = 0;
    for (; i + kRows <= job.n; i += kRows) DotRows<kRows>(job, r, i);
    for (; i < job.n; ++i) DotRows<1>(job, r, i);
  }
}

// Key tile: F32 [kTileKeys, width] in natural order.
void LoadKeys(const KeyRecords& format, const std::byte* const* records, int64_t n, Operand, std::byte* tile) {
  const int64_t width = RoundUpToStep(format.width);
  auto* rows = reinterpret_cast<float*>(tile);
  std::memset(rows, 0, static_cast<size_t>(kTileKeys * width) * sizeof(float));
  const int64_t nope = format.width - format.rope_dim;
  for (int64_t k = 0; k < n; ++k) {
    if (records[k] == nullptr) continue;
    const auto* record = reinterpret_cast<const uint8_t*>(records[k]);
    if (format.packed) {
      DecodeRecord(record, nope, record + nope, format.rope_dim, record + nope + 2 * format.rope_dim, rows + k * width);
    } else {
      std::memcpy(rows + k * width, record, static_cast<size_t>(format.width) * sizeof(float));
    }
  }
}

void Attend(const AttendJob& job) {
  const int64_t width = RoundUpToStep(job.width);
  const auto* tile = reinterpret_cast<const float*>(job.tile);
  for (int64_t h = 0; h < job.n_heads; ++h) {
    float* p = job.work + h * kTileKeys;
    for (int64_t k = 0; k < kTileKeys; ++k) {
      p[k] = SumOrder2(
          job.width, [&](int64_t c) { return tile[k * width + c]; },
          [&](int64_t c) { return ValueAt(job.q + h * job.q_stride, job.form, c); });
    }
    const float rescale = SoftmaxTile(p, job.begin, job.end, job.scale, job.round, job.states + h);
    for (int64_t c = 0; c < job.width; ++c) {
      float* sum = job.sums + h * width + c;
      *sum = *sum * rescale;
      for (int64_t k = job.begin / 2 * 2; k < job.end; k += 2) {
        *sum = std::fma(tile[(k + 1) * width + c], p[k + 1], *sum);
        *sum = std::fma(tile[k * width + c], p[k], *sum);
      }
    }
  }
}

void FinishHead(const float* sums, SoftmaxState state, float sink, int64_t width, Operand, float* out) {
  const float denominator = SoftmaxDenominator(state, sink);
  for (int64_t c = 0; c < width; ++c) out[c] = sums[c] / denominator;
}

float IndexScore(const IndexQuery& query, int64_t n_heads, int64_t width, const uint8_t* key) {
  constexpr int8_t kDoubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  float score = 0.0F;
  for (int64_t h = 0; h < n_heads; ++h) {
    float dot = 0.0F;
    for (int64_t b = 0; b < width / kIndexBlock; ++b) {
      const int64_t at = h * (width / kIndexBlock) + b;
      int32_t sum = 0;
      for (int64_t c = 0; c < kIndexBlock; ++c) {
        const int64_t column = b * kIndexBlock + c;
        const uint8_t pair = key[column / 2];
        sum += kDoubled[column % 2 != 0 ? pair >> 4 : pair & 15] * query.codes[h * width + column];
      }
      dot = std::fma(static_cast<float>(sum), E8m0ToFloat(key[width / 2 + b]) * query.scales[at], dot);
    }
    const float rounded = RoundBf16(dot);
    score += RoundBf16((rounded > 0.0F ? rounded : 0.0F) * query.weights[h]);
  }
  return RoundBf16(score);
}

void IndexScores(const IndexJob& job, std::byte*) {
  for (int64_t i = 0; i < job.n_queries; ++i) {
    for (int64_t k = 0; k < job.n_keys; ++k) {
      job.scores[i * job.scores_stride + k] =
          IndexScore(job.queries[i], job.n_heads, job.width, reinterpret_cast<const uint8_t*>(job.keys[k]));
    }
  }
}

}  // namespace

KernelTable PortableTable() {
  KernelTable table = RowOperations("portable", Operand::kSplit);
  table.dot = &Dot;
  table.load_keys = &LoadKeys;
  table.attend = &Attend;
  table.finish_head = &FinishHead;
  table.index_scores = &IndexScores;
  return table;
}

}  // namespace longshelf::engine
