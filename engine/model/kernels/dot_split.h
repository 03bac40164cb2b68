#pragma once

#include "weights_split.h"

// Sums over columns with fp32 fused multiply-adds: operands in split form. Shared by the vector tables; the including
// file gives the shapes:
// - kTileRows weight rows by kTileX operand rows: what a tile of decoded weights multiplies in registers;
// - DirectRows(n) by n <= kDirectX: the same where the weights are decoded in registers, up to kMostDirect operand
// rows;
// - kBlockRows by kBlockSteps: the weights that are decoded at a time.
namespace longshelf::engine {
namespace {

// More operand rows take decoded weights in blocks that stay in the nearest cache: kBlockRows weight rows by
// kBlockSteps steps, for kBlockX operand rows at a time, whose unfinished sums wait in scratch.
constexpr int64_t kBlockX = 66;
constexpr int64_t kBlockColumns = kBlockSteps * kStepColumns;
static_assert(kBlockRows % kTileRows == 0 && kBlockX % kTileX == 0);
static_assert(4 * kBlockRows * (kBlockColumns + kBlockX * kLanes) <= kMinDotScratchBytes);

// Adds steps [begin, end) to the sums of kRows weight rows with kX operand rows. begin is a multiple of four.
template <int kRows, int kX, typename W>
inline void AddSteps(W* w, const float* x, int64_t x_stride, int64_t begin, int64_t end, F (&sum)[kX][kRows]) {
  for (; begin < end; begin += 4) {
    LONGSHELF_UNROLL
    for (int r = 0; r < kRows; ++r) w[r].Enter(begin);
    const int64_t next = Least(begin + 4, end);
    for (int64_t s = begin; s < next; ++s) {
      w[0].template Ask<kRows>(s);
      const float* at = x + s * kStepColumns;
      if constexpr (kX == 1) {
        LONGSHELF_UNROLL
        for (int r = 0; r < kRows; ++r) {
          F odd;
          F even;
          w[r].Load(s, &odd, &even);
          sum[0][r] = Fma(even, Load(at + kLanes), Fma(odd, Load(at), sum[0][r]));
        }
        continue;
      }
      F odd[kRows];
      F even[kRows];
      LONGSHELF_UNROLL
      for (int r = 0; r < kRows; ++r) w[r].Load(s, &odd[r], &even[r]);
      LONGSHELF_UNROLL
      for (int i = 0; i < kX; ++i) {
        const F x_odd = Load(at + i * x_stride);
        LONGSHELF_UNROLL
        for (int r = 0; r < kRows; ++r) sum[i][r] = Fma(odd[r], x_odd, sum[i][r]);
      }
      LONGSHELF_UNROLL
      for (int i = 0; i < kX; ++i) {
        const F x_even = Load(at + i * x_stride + kLanes);
        LONGSHELF_UNROLL
        for (int r = 0; r < kRows; ++r) sum[i][r] = Fma(even[r], x_even, sum[i][r]);
      }
    }
  }
}

template <int kRows>
[[gnu::always_inline]] inline void StoreSums(const F (&sum)[kRows], bool round, float* y) {
  if constexpr (kRows == 4) {
    const __m128 folded = Fold4(sum[0], sum[1], sum[2], sum[3]);
    _mm_storeu_ps(y, round ? RoundFour(folded) : folded);
  } else {
    LONGSHELF_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const float folded = Fold(sum[r]);
      y[r] = round ? RoundBf16(folded) : folded;
    }
  }
}

// Adds `steps` steps to waiting sums [kX, kBlockRows, kLanes] of kTileRows rows.
template <int kX, typename W>
inline void AddBlock(W* w, const float* x, int64_t x_stride, int64_t steps, float* sums) {
  F sum[kX][kTileRows];
  LONGSHELF_UNROLL
  for (int i = 0; i < kX; ++i) {
    LONGSHELF_UNROLL
    for (int r = 0; r < kTileRows; ++r) sum[i][r] = Load(sums + (i * kBlockRows + r) * kLanes);
  }
  AddSteps<kTileRows, kX>(w, x, x_stride, 0, steps, sum);
  LONGSHELF_UNROLL
  for (int i = 0; i < kX; ++i) {
    LONGSHELF_UNROLL
    for (int r = 0; r < kTileRows; ++r) Store(sum[i][r], sums + (i * kBlockRows + r) * kLanes);
  }
}

template <int kRows, int kX, typename W>
inline void DotTile(W* w, const float* x, int64_t x_stride, int64_t steps, bool round, float* y, int64_t y_stride) {
  F sum[kX][kRows];
  LONGSHELF_UNROLL
  for (int i = 0; i < kX; ++i) {
    LONGSHELF_UNROLL
    for (int r = 0; r < kRows; ++r) sum[i][r] = Zero();
  }
  AddSteps<kRows, kX>(w, x, x_stride, 0, steps, sum);
  LONGSHELF_UNROLL
  for (int i = 0; i < kX; ++i) StoreSums<kRows>(sum[i], round, y + i * y_stride);
}

// Calls fn.operator()<n>(i), n <= kMost.
template <int kMost, typename Fn>
inline void ForTile(int64_t i, int64_t n, const Fn& fn) {
  if constexpr (kMost > 0) {
    if (n == kMost) return fn.template operator()<kMost>(i);
    ForTile<kMost - 1>(i, n, fn);
  }
}
// Tiles of kTileX operand rows, and of what is left.
template <typename Fn>
inline void ForTiles(int64_t n, const Fn& fn) {
  int64_t i = 0;
  for (; i + kTileX <= n; i += kTileX) fn.template operator()<kTileX>(i);
  ForTile<kTileX - 1>(i, n - i, fn);
}

// kRows weight rows with all n operand rows.
template <int kRows, typename W>
inline void DotRows(W* w, const float* x, int64_t x_stride, int64_t n, int64_t steps, bool round, float* y,
                    int64_t y_stride) {
  ForTiles(n, [&]<int kX>(int64_t i) {
    DotTile<kRows, kX>(w, x + i * x_stride, x_stride, steps, round, y + i * y_stride, y_stride);
  });
}

// kRows weight rows, decoded in registers, with n <= 2 * kDirectX operand rows: twice at most, the second time from the
// nearest cache.
template <int kRows, typename W>
inline void DirectRows(W* w, const DotJob& job, float* y) {
  const auto* x = reinterpret_cast<const float*>(job.x);
  const int64_t x_stride = job.x_stride / static_cast<int64_t>(sizeof(float));
  const auto tile = [&]<int kX>(int64_t i) {
    DotTile<kRows, kX>(w, x + i * x_stride, x_stride, job.w->cols / kStepColumns, job.round, y + i * job.y_stride,
                       job.y_stride);
  };
  const int64_t half = job.n <= kDirectX ? job.n : job.n / 2;
  ForTile<kDirectX>(0, half, tile);
  ForTile<kDirectX>(half, job.n - half, tile);
}

template <typename Row>
void DotDirect(const DotJob& job) {
  int64_t r = 0;
  for (; r + 4 <= job.n_rows; r += 4) {
    const int64_t row = job.row_begin + r;
    Row w[4] = {{*job.w, row}, {*job.w, row + 1}, {*job.w, row + 2}, {*job.w, row + 3}};
    DirectRows<4>(w, job, job.y + r);
  }
  for (; r < job.n_rows; ++r) {
    Row w[1] = {{*job.w, job.row_begin + r}};
    DirectRows<1>(w, job, job.y + r);
  }
}

// FP8: rows that share a block of scales take them from the operands.
void DotFp8Direct(const DotJob& job, std::byte* scratch) {
  const Matrix& w = *job.w;
  auto* scaled = reinterpret_cast<float*>(scratch);
  int64_t next = 0;
  for (int64_t r = 0; r < job.n_rows; r = next) {
    const int64_t row = job.row_begin + r;
    next = Least(job.n_rows, r + 128 - row % 128);
    DotJob part = job;
    part.row_begin = row;
    part.n_rows = next - r;
    part.y = job.y + r;
    bool exact = true;
    for (int64_t i = 0; i < job.n && exact; ++i) {
      const auto* x = reinterpret_cast<const float*>(job.x + i * job.x_stride);
      exact = ScaleOperands(x, w.scale + row / 128 * w.scale_cols, w.cols, scaled + i * w.cols);
    }
    if (!exact) {
      DotDirect<Fp8Row>(part);
      continue;
    }
    part.x = scratch;
    part.x_stride = 4 * w.cols;
    DotDirect<UnscaledFp8Row>(part);
  }
}

// Steps [begin, end) of one weight row in split form; columns past the last are zero.
template <typename Row>
void DecodeSteps(const Matrix& w, int64_t row, int64_t begin, int64_t end, float* out) {
  Row source(w, row);
  // What the same place of the next block holds is asked for.
  const int64_t row_bytes = w.cols / kStepColumns * Row::kStepBytes;
  const uint8_t* ahead = w.data + (row + kBlockRows) * row_bytes;
  for (int64_t at = begin * Row::kStepBytes; at < end * Row::kStepBytes; at += kLine) PrefetchLater(ahead + at);
  const int64_t whole = Least(w.cols / kStepColumns, end);
  for (int64_t s = begin; s < whole; ++s, out += kStepColumns) {
    if (s % 4 == 0) source.Enter(s);
    F odd;
    F even;
    source.Load(s, &odd, &even);
    Store(odd, out);
    Store(even, out + kLanes);
  }
  if (whole == end) return;
  float tail[kStepColumns];
  for (int64_t c = whole * kStepColumns; c < w.cols; ++c) tail[c - whole * kStepColumns] = WeightAt(w, row, c);
  PackSplit(tail, w.cols - whole * kStepColumns, out);
}

// kBlockRows weight rows with n <= kBlockX operand rows.
template <typename Row>
void DotBlock(const DotJob& job, int64_t first_row, int64_t n_rows, int64_t first, int64_t n, std::byte* scratch) {
  auto* decoded = reinterpret_cast<float*>(scratch);
  float* sums = decoded + kBlockRows * kBlockColumns;  // [n, kBlockRows, kLanes]
  const auto* x = reinterpret_cast<const float*>(job.x + first * job.x_stride);
  const int64_t x_stride = job.x_stride / static_cast<int64_t>(sizeof(float));
  const int64_t steps = RoundUpToStep(job.w->cols) / kStepColumns;
  std::memset(sums, 0, static_cast<size_t>(n * kBlockRows * kLanes) * sizeof(float));
  for (int64_t begin = 0; begin < steps; begin += kBlockSteps) {
    const int64_t block_steps = Least(kBlockSteps, steps - begin);
    for (int64_t r = 0; r < n_rows; ++r) {
      DecodeSteps<Row>(*job.w, job.row_begin + first_row + r, begin, begin + block_steps, decoded + r * kBlockColumns);
    }
    ForTiles(n, [&]<int kX>(int64_t i) {
      // Rows past n_rows are sums of old values that nobody reads.
      for (int64_t r = 0; r < n_rows; r += kTileRows) {
        DecodedSplit w[kTileRows];
        for (int k = 0; k < kTileRows; ++k) w[k] = {decoded + (r + k) * kBlockColumns};
        AddBlock<kX>(w, x + i * x_stride + begin * kStepColumns, x_stride, block_steps,
                     sums + (i * kBlockRows + r) * kLanes);
      }
    });
  }
  for (int64_t i = 0; i < n; ++i) {
    float* y = job.y + (first + i) * job.y_stride + first_row;
    const float* own = sums + i * kBlockRows * kLanes;
    int64_t r = 0;
    for (; r + 4 <= n_rows; r += 4, own += 4 * kLanes) {
      const F sum[4] = {Load(own), Load(own + kLanes), Load(own + 2 * kLanes), Load(own + 3 * kLanes)};
      StoreSums<4>(sum, job.round, y + r);
    }
    for (; r < n_rows; ++r, own += kLanes) {
      const F sum[1] = {Load(own)};
      StoreSums<1>(sum, job.round, y + r);
    }
  }
}

template <typename Row>
void DotSplitAs(const DotJob& job, std::byte* scratch) {
  if (job.n <= kMostDirect && job.w->cols % kStepColumns == 0) {
    if constexpr (std::is_same_v<Row, Fp8Row>) return DotFp8Direct(job, scratch);
    return DotDirect<Row>(job);
  }
  for (int64_t i = 0; i < job.n; i += kBlockX) {
    for (int64_t r = 0; r < job.n_rows; r += kBlockRows) {
      DotBlock<Row>(job, r, Least(kBlockRows, job.n_rows - r), i, Least(kBlockX, job.n - i), scratch);
    }
  }
}

void DotSplit(const DotJob& job, std::byte* scratch) {
  switch (job.w->format) {
    case Matrix::Format::kFp8:
      return DotSplitAs<Fp8Row>(job, scratch);
    case Matrix::Format::kFp4:
      return DotSplitAs<Fp4Row>(job, scratch);
    case Matrix::Format::kBf16:
      return DotSplitAs<Bf16Row>(job, scratch);
    case Matrix::Format::kF32:
      return DotSplitAs<F32Row>(job, scratch);
  }
}

}  // namespace
}  // namespace longshelf::engine
