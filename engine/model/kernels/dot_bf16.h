#pragma once

#include "weights_bf16.h"

// Sums over columns with AVX512_BF16: one instruction adds a step's odd, then its even column to each lane. Operands
// and decoded weights are BF16.
namespace longshelf::engine {
namespace {

constexpr int kWordTileX = 6;
// Operand rows up to which weights are decoded in registers, twice at most: the second time from the nearest cache.
constexpr int64_t kDirectRows = 2 * kWordTileX;

inline F DotWords(F sum, I a, I b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

// A function of its own: inside a large one the compiler leaves the sums in memory.
template <int kRows, int kX, typename W>
[[gnu::noinline]] void WordTile(W* w, const uint16_t* x, int64_t x_stride, int64_t steps, bool round, float* y,
                                int64_t y_stride) {
  F sum[kX][kRows];
  LONGSHELF_UNROLL
  for (int i = 0; i < kX; ++i) {
    LONGSHELF_UNROLL
    for (int r = 0; r < kRows; ++r) sum[i][r] = Zero();
  }
  for (int64_t begin = 0; begin < steps; begin += 4) {
    LONGSHELF_UNROLL
    for (int r = 0; r < kRows; ++r) w[r].Enter(begin);
    const int64_t end = Least(begin + 4, steps);
    for (int64_t s = begin; s < end; s += W::kSteps) {
      w[0].template Ask<kRows>(s);
      I weights[kRows][W::kSteps];
      LONGSHELF_UNROLL
      for (int r = 0; r < kRows; ++r) w[r].Load(s, weights[r]);
      LONGSHELF_UNROLL
      for (int k = 0; k < W::kSteps; ++k) {
        LONGSHELF_UNROLL
        for (int i = 0; i < kX; ++i) {
          const I values = LoadWords(x + i * x_stride + (s + k) * kStepColumns);
          LONGSHELF_UNROLL
          for (int r = 0; r < kRows; ++r) sum[i][r] = DotWords(sum[i][r], weights[r][k], values);
        }
      }
    }
  }
  LONGSHELF_UNROLL
  for (int i = 0; i < kX; ++i) {
    if constexpr (std::is_same_v<W, Fp4Shuffled>) {
      LONGSHELF_UNROLL
      for (int r = 0; r < kRows; ++r) sum[i][r] = W::InOrder(sum[i][r]);
    }
    StoreSums<kRows>(sum[i], round, y + i * y_stride);
  }
}

// kRows weight rows with n <= kX operand rows.
template <int kRows, int kX, typename W>
inline void WordRest(W* w, const uint16_t* x, int64_t x_stride, int64_t n, int64_t steps, bool round, float* y,
                     int64_t y_stride) {
  if constexpr (kX > 0) {
    if (n == kX) return WordTile<kRows, kX>(w, x, x_stride, steps, round, y, y_stride);
    WordRest<kRows, kX - 1>(w, x, x_stride, n, steps, round, y, y_stride);
  }
}

template <int kRows, typename W>
inline void WordRows(W* w, const uint16_t* x, int64_t x_stride, int64_t n, int64_t steps, bool round, float* y,
                     int64_t y_stride) {
  int64_t i = 0;
  // Two halves rather than a full tile and a small rest.
  const bool halves = n > kWordTileX && n < 2 * kWordTileX;
  if (halves) {
    WordRest<kRows, kWordTileX - 1>(w, x, x_stride, n / 2, steps, round, y, y_stride);
    i = n / 2;
  }
  for (; i + kWordTileX <= n; i += kWordTileX) {
    WordTile<kRows, kWordTileX>(w, x + i * x_stride, x_stride, steps, round, y + i * y_stride, y_stride);
  }
  WordRest<kRows, kWordTileX - 1>(w, x + i * x_stride, x_stride, n - i, steps, round, y + i * y_stride, y_stride);
}

template <typename Row>
void DotWordsDirect(const DotJob& job) {
  const auto* x = reinterpret_cast<const uint16_t*>(job.x);
  const int64_t x_stride = job.x_stride / 2;
  const int64_t steps = job.w->cols / kStepColumns;
  int64_t r = 0;
  for (; r + 4 <= job.n_rows; r += 4) {
    const int64_t row = job.row_begin + r;
    Row w[4] = {{*job.w, row}, {*job.w, row + 1}, {*job.w, row + 2}, {*job.w, row + 3}};
    WordRows<4>(w, x, x_stride, job.n, steps, job.round, job.y + r, job.y_stride);
  }
  for (; r < job.n_rows; ++r) {
    Row w[1] = {{*job.w, job.row_begin + r}};
    WordRows<1>(w, x, x_stride, job.n, steps, job.round, job.y + r, job.y_stride);
  }
}

void DotFp4Words(DotJob job, std::byte* scratch) {
  auto* ordered = reinterpret_cast<uint16_t*>(scratch);
  const int64_t cols = job.w->cols;
  for (int64_t i = 0; i < job.n; ++i) {
    OrderForFp4(reinterpret_cast<const uint16_t*>(job.x + i * job.x_stride), cols / kStepColumns, ordered + i * cols);
  }
  job.x = scratch;
  job.x_stride = 2 * cols;
  DotWordsDirect<Fp4Shuffled>(job);
}

// FP8: rows that share a block of scales take them from the operands.
void DotFp8Words(const DotJob& job, std::byte* scratch) {
  const Matrix& w = *job.w;
  const int64_t steps = w.cols / kStepColumns;
  if (steps % Fp8Unscaled::kSteps != 0) return DotWordsDirect<Fp8Words>(job);
  static const E4m3Bytes bytes;
  auto* scaled = reinterpret_cast<uint16_t*>(scratch);
  int64_t next = 0;
  for (int64_t r = 0; r < job.n_rows; r = next) {
    const int64_t row = job.row_begin + r;
    next = Least(job.n_rows, r + 128 - row % 128);
    const uint8_t* scales = w.scale + row / 128 * w.scale_cols;
    bool exact = true;
    for (int64_t i = 0; i < job.n && exact; ++i) {
      exact = ScaleOperands(reinterpret_cast<const uint16_t*>(job.x + i * job.x_stride), scales, steps,
                            scaled + i * w.cols);
    }
    DotJob part = job;
    part.row_begin = row;
    part.n_rows = next - r;
    part.y = job.y + r;
    if (!exact) {
      DotWordsDirect<Fp8Words>(part);
      continue;
    }
    const uint8_t* codes = w.data + row * w.cols;
    int64_t k = 0;
    for (; k + 4 <= part.n_rows; k += 4) {
      Fp8Unscaled rows[4];
      for (int j = 0; j < 4; ++j) rows[j] = {codes + (k + j) * w.cols, &bytes};
      WordRows<4>(rows, scaled, w.cols, job.n, steps, job.round, part.y + k, job.y_stride);
    }
    for (; k < part.n_rows; ++k) {
      Fp8Unscaled rows[1] = {{codes + k * w.cols, &bytes}};
      WordRows<1>(rows, scaled, w.cols, job.n, steps, job.round, part.y + k, job.y_stride);
    }
  }
}

template <typename Row>
void DecodeRowWords(const Matrix& w, int64_t row, uint16_t* out) {
  Row source(w, row);
  const int64_t steps = w.cols / kStepColumns;
  for (int64_t s = 0; s < steps; ++s) {
    if (s % 4 == 0) source.Enter(s);
    I words;
    source.Load(s, &words);
    _mm512_storeu_si512(out + s * kStepColumns, words);
  }
}

void DecodeRowWords(const Matrix& w, int64_t row, uint16_t* out) {
  switch (w.format) {
    case Matrix::Format::kFp8:
      DecodeRowWords<Fp8Words>(w, row, out);
      break;
    case Matrix::Format::kFp4:
      DecodeRowWords<Fp4Words>(w, row, out);
      break;
    case Matrix::Format::kBf16:
      DecodeRowWords<Bf16Words>(w, row, out);
      break;
    case Matrix::Format::kF32:
      break;  // DotF32Words
  }
  const int64_t whole = w.cols / kStepColumns * kStepColumns;
  for (int64_t c = whole; c < RoundUpToStep(w.cols); ++c) {
    out[c] = c < w.cols ? FloatToBf16(WeightAt(w, row, c)) : uint16_t{0};
  }
}

// FP32 weights have no BF16 form: the operands take the split one, a few rows at a time. These and what DotSplit needs
// fit the scratch of kDotRows rows.
void DotF32Words(DotJob job, std::byte* scratch) {
  const int64_t width = RoundUpToStep(job.w->cols);
  auto* split = reinterpret_cast<float*>(scratch);
  std::byte* rest = scratch + kDirectRows * OperandBytes(Operand::kSplit, width);
  const int64_t n = job.n;
  const std::byte* x = job.x;
  const int64_t x_stride = job.x_stride;
  job.form = Operand::kSplit;
  job.x = scratch;
  job.x_stride = OperandBytes(Operand::kSplit, width);
  for (int64_t i = 0; i < n; i += kDirectRows) {
    job.n = Least(kDirectRows, n - i);
    for (int64_t k = 0; k < job.n; ++k) {
      const auto* words = reinterpret_cast<const uint16_t*>(x + (i + k) * x_stride);
      for (int64_t c = 0; c < width; c += kStepColumns) {
        const I pairs = LoadWords(words + c);
        Store(OfBits(AndI(pairs, SetI(static_cast<int32_t>(0xFFFF0000U)))), split + k * width + c);
        Store(OfBits(Shl<16>(pairs)), split + k * width + c + kLanes);
      }
    }
    DotSplit(job, rest);
    job.y += job.n * job.y_stride;
  }
}

void DotBf16(const DotJob& job, std::byte* scratch) {
  if (job.form == Operand::kSplit) return DotSplit(job, scratch);
  if (job.w->format == Matrix::Format::kF32) return DotF32Words(job, scratch);
  if (job.n <= kDirectRows && job.w->cols % kStepColumns == 0) {
    switch (job.w->format) {
      case Matrix::Format::kFp8:
        return DotFp8Words(job, scratch);
      case Matrix::Format::kFp4:
        return DotFp4Words(job, scratch);
      case Matrix::Format::kBf16:
        return DotWordsDirect<Bf16Words>(job);
      case Matrix::Format::kF32:
        break;
    }
  }
  const int64_t width = RoundUpToStep(job.w->cols);
  const int64_t steps = width / kStepColumns;
  auto* decoded = reinterpret_cast<uint16_t*>(scratch);
  const auto* x = reinterpret_cast<const uint16_t*>(job.x);
  const int64_t x_stride = job.x_stride / 2;
  for (int64_t begin = 0; begin < job.n_rows; begin += kDotRows) {
    const int64_t n_rows = Least(kDotRows, job.n_rows - begin);
    for (int64_t r = 0; r < n_rows; ++r) DecodeRowWords(*job.w, job.row_begin + begin + r, decoded + r * width);
    for (int64_t i = 0; i < job.n; i += kDirectRows) {
      const int64_t n = Least(kDirectRows, job.n - i);
      float* y = job.y + i * job.y_stride + begin;
      int64_t r = 0;
      for (; r + 4 <= n_rows; r += 4) {
        DecodedWords w[4];
        for (int k = 0; k < 4; ++k) w[k] = {decoded + (r + k) * width};
        WordRows<4>(w, x + i * x_stride, x_stride, n, steps, job.round, y + r, job.y_stride);
      }
      for (; r < n_rows; ++r) {
        DecodedWords w[1] = {{decoded + r * width}};
        WordRows<1>(w, x + i * x_stride, x_stride, n, steps, job.round, y + r, job.y_stride);
      }
    }
  }
}

}  // namespace
}  // namespace longshelf::engine
