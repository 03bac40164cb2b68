#pragma once

#include "rows.h"

// Sums over columns with fp32 fused multiply-adds: operands in split form. Shared by the vector tables;
// the including file gives the shape of its register tile, kTileRows weight rows by kTileX operand rows, and up to how
// many operand rows it decodes weights in registers, kDirectX.
namespace longshelf::engine {
namespace {

// Weight rows. Enter(s) comes before the first Load of each run of four steps that starts at a multiple of four.
struct DecodedSplit {
  const float* values;
  void Enter(int64_t) {}
  void Load(int64_t step, F* odd, F* even) const {
    *odd = longshelf::engine::Load(values + step * kStepColumns);
    *even = longshelf::engine::Load(values + step * kStepColumns + kLanes);
  }
};

struct Bf16Row {
  const uint16_t* values;
  Bf16Row(const Matrix& w, int64_t row) : values(reinterpret_cast<const uint16_t*>(w.data) + row * w.cols) {}
  void Enter(int64_t) {}
  void Load(int64_t step, F* odd, F* even) const { SplitWords(LoadWords(values + step * kStepColumns), odd, even); }
};

struct F32Row {
  const float* values;
  F32Row(const Matrix& w, int64_t row) : values(reinterpret_cast<const float*>(w.data) + row * w.cols) {}
  void Enter(int64_t) {}
  void Load(int64_t step, F* odd, F* even) const {
    const F a = longshelf::engine::Load(values + step * kStepColumns);
    const F b = longshelf::engine::Load(values + step * kStepColumns + kLanes);
    *odd = OddOf(a, b);
    *even = EvenOf(a, b);
  }
};

struct Fp8Row {
  const uint8_t* codes;
  const uint8_t* scales;
  float scale = 1.0F;
  Fp8Row(const Matrix& w, int64_t row) : codes(w.data + row * w.cols), scales(w.scale + row / 128 * w.scale_cols) {}
  void Enter(int64_t step) { scale = E8m0ToFloat(scales[step / 4]); }
  void Load(int64_t step, F* odd, F* even) const {
    SplitWords(WordsOfE4m3(codes + step * kStepColumns), odd, even);
    *odd = Mul(*odd, Set(scale));
    *even = Mul(*even, Set(scale));
  }
};

struct Fp4Row {
  const uint8_t* codes;
  const uint8_t* scales;
  Fp4Row(const Matrix& w, int64_t row) : codes(w.data + row * (w.cols / 2)), scales(w.scale + row * w.scale_cols) {}
  void Enter(int64_t) {}
  void Load(int64_t step, F* odd, F* even) const {
    SplitE2m1(codes + step * (kStepColumns / 2), E8m0ToFloat(scales[step]), odd, even);
  }
};

// Sums of kRows weight rows with kX operand rows into y; `steps` steps.
template <int kRows, int kX, typename W>
inline void SumTile(W* w, const float* x, int64_t x_stride, int64_t steps, F (&sum)[kX][kRows]) {
  LONGSHELF_UNROLL
  for (int i = 0; i < kX; ++i) {
    LONGSHELF_UNROLL
    for (int r = 0; r < kRows; ++r) sum[i][r] = Zero();
  }
  for (int64_t begin = 0; begin < steps; begin += 4) {
    LONGSHELF_UNROLL
    for (int r = 0; r < kRows; ++r) w[r].Enter(begin);
    const int64_t end = Least(begin + 4, steps);
    for (int64_t s = begin; s < end; ++s) {
      F odd[kRows];
      F even[kRows];
      LONGSHELF_UNROLL
      for (int r = 0; r < kRows; ++r) w[r].Load(s, &odd[r], &even[r]);
      const float* at = x + s * kStepColumns;
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
    _mm_storeu_ps(y, Fold4(sum[0], sum[1], sum[2], sum[3]));
  } else {
    LONGSHELF_UNROLL
    for (int r = 0; r < kRows; ++r) y[r] = Fold(sum[r]);
  }
  if (round) {
    LONGSHELF_UNROLL
    for (int r = 0; r < kRows; ++r) y[r] = RoundBf16(y[r]);
  }
}

template <int kRows, int kX, typename W>
inline void DotTile(W* w, const float* x, int64_t x_stride, int64_t steps, bool round, float* y, int64_t y_stride) {
  F sum[kX][kRows];
  SumTile<kRows, kX>(w, x, x_stride, steps, sum);
  LONGSHELF_UNROLL
  for (int i = 0; i < kX; ++i) StoreSums<kRows>(sum[i], round, y + i * y_stride);
}

// kRows weight rows with n <= kX operand rows.
template <int kRows, int kX, typename W>
inline void DotRest(W* w, const float* x, int64_t x_stride, int64_t n, int64_t steps, bool round, float* y,
                    int64_t y_stride) {
  if constexpr (kX > 0) {
    if (n == kX) return DotTile<kRows, kX>(w, x, x_stride, steps, round, y, y_stride);
    DotRest<kRows, kX - 1>(w, x, x_stride, n, steps, round, y, y_stride);
  }
}

// kRows weight rows with all n operand rows.
template <int kRows, typename W>
inline void DotRows(W* w, const float* x, int64_t x_stride, int64_t n, int64_t steps, bool round, float* y,
                    int64_t y_stride) {
  int64_t i = 0;
  for (; i + kTileX <= n; i += kTileX) {
    DotTile<kRows, kTileX>(w, x + i * x_stride, x_stride, steps, round, y + i * y_stride, y_stride);
  }
  DotRest<kRows, kTileX - 1>(w, x + i * x_stride, x_stride, n - i, steps, round, y + i * y_stride, y_stride);
}

// Weights decoded in registers, each byte once: for n <= kDirectX.
template <typename Row>
void DotDirect(const DotJob& job) {
  const auto* x = reinterpret_cast<const float*>(job.x);
  const int64_t x_stride = job.x_stride / static_cast<int64_t>(sizeof(float));
  const int64_t steps = job.w->cols / kStepColumns;
  int64_t r = 0;
  for (; r + 4 <= job.n_rows; r += 4) {
    const int64_t row = job.row_begin + r;
    Row w[4] = {{*job.w, row}, {*job.w, row + 1}, {*job.w, row + 2}, {*job.w, row + 3}};
    DotRows<4>(w, x, x_stride, job.n, steps, job.round, job.y + r, job.y_stride);
  }
  for (; r < job.n_rows; ++r) {
    Row w[1] = {{*job.w, job.row_begin + r}};
    DotRows<1>(w, x, x_stride, job.n, steps, job.round, job.y + r, job.y_stride);
  }
}

// One weight row in split form; columns past the last are zero.
template <typename Row>
void DecodeRowAs(const Matrix& w, int64_t row, float* out) {
  Row source(w, row);
  const int64_t steps = w.cols / kStepColumns;
  for (int64_t s = 0; s < steps; ++s) {
    if (s % 4 == 0) source.Enter(s);
    F odd;
    F even;
    source.Load(s, &odd, &even);
    Store(odd, out + s * kStepColumns);
    Store(even, out + s * kStepColumns + kLanes);
  }
}

void DecodeRow(const Matrix& w, int64_t row, float* out) {
  switch (w.format) {
    case Matrix::Format::kFp8:
      DecodeRowAs<Fp8Row>(w, row, out);
      break;
    case Matrix::Format::kFp4:
      DecodeRowAs<Fp4Row>(w, row, out);
      break;
    case Matrix::Format::kBf16:
      DecodeRowAs<Bf16Row>(w, row, out);
      break;
    case Matrix::Format::kF32:
      DecodeRowAs<F32Row>(w, row, out);
      break;
  }
  const int64_t whole = w.cols / kStepColumns * kStepColumns;
  if (whole == w.cols) return;
  float tail[kStepColumns];
  for (int64_t c = whole; c < w.cols; ++c) tail[c - whole] = WeightAt(w, row, c);
  PackSplit(tail, w.cols - whole, out + whole);
}

void DotSplit(const DotJob& job, std::byte* scratch) {
  if (job.n <= kDirectX && job.w->cols % kStepColumns == 0) {
    switch (job.w->format) {
      case Matrix::Format::kFp8:
        return DotDirect<Fp8Row>(job);
      case Matrix::Format::kFp4:
        return DotDirect<Fp4Row>(job);
      case Matrix::Format::kBf16:
        return DotDirect<Bf16Row>(job);
      case Matrix::Format::kF32:
        return DotDirect<F32Row>(job);
    }
  }
  const int64_t width = RoundUpToStep(job.w->cols);
  const int64_t steps = width / kStepColumns;
  auto* decoded = reinterpret_cast<float*>(scratch);
  const auto* x = reinterpret_cast<const float*>(job.x);
  const int64_t x_stride = job.x_stride / static_cast<int64_t>(sizeof(float));
  for (int64_t begin = 0; begin < job.n_rows; begin += kDotRows) {
    const int64_t n_rows = Least(kDotRows, job.n_rows - begin);
    for (int64_t r = 0; r < n_rows; ++r) DecodeRow(*job.w, job.row_begin + begin + r, decoded + r * width);
    for (int64_t i = 0; i < job.n; i += kTileX) {
      const int64_t n = Least(kTileX, job.n - i);
      float* y = job.y + i * job.y_stride + begin;
      int64_t r = 0;
      for (; r + kTileRows <= n_rows; r += kTileRows) {
        DecodedSplit w[kTileRows];
        for (int k = 0; k < kTileRows; ++k) w[k] = {decoded + (r + k) * width};
        DotRows<kTileRows>(w, x + i * x_stride, x_stride, n, steps, job.round, y + r, job.y_stride);
      }
      for (; r < n_rows; ++r) {
        DecodedSplit w[1] = {{decoded + r * width}};
        DotRows<1>(w, x + i * x_stride, x_stride, n, steps, job.round, y + r, job.y_stride);
      }
    }
  }
}

}  // namespace
}  // namespace longshelf::engine
