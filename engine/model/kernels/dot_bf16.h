#pragma once

#include "dot_split.h"

// Sums over columns and attention with AVX512_BF16: one instruction adds a step's odd, then its even column to each
// lane. Operands, decoded weights and keys are BF16.
namespace longshelf::engine {
namespace {

constexpr int kWordTileX = 6;

inline F DotWords(F sum, I a, I b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

// A tile's rows lie one after another, and are read side by side. The processor fetches ahead only along a stream, so
// the rows ask, a cache line each in turn, for what lies this far behind the tile in the order of addresses.
constexpr int64_t kPrefetchBytes = 8192;
constexpr int64_t kLine = 64;
constexpr int64_t kTileWordRows = 4;
inline void Prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
// Where row `k` of a tile that begins at `tile` asks first.
inline const uint8_t* PrefetchFrom(const void* tile, int64_t k) {
  return static_cast<const uint8_t*>(tile) + kPrefetchBytes + k * kLine;
}

// Weight rows: Load gives kSteps steps from `step` on. Enter comes before the first Load of each run of four steps.
struct DecodedWords {
  static constexpr int kSteps = 1;
  const uint16_t* values;
  void Enter(int64_t) {}
  void Load(int64_t step, I* out) const { *out = LoadWords(values + step * kStepColumns); }
};

struct Bf16Words {
  static constexpr int kSteps = 1;
  const uint16_t* values;
  const uint8_t* ahead;
  // Row `tile_row + k` of the tile that begins at `tile_row`.
  Bf16Words(const Matrix& w, int64_t tile_row, int64_t k)
      : values(reinterpret_cast<const uint16_t*>(w.data) + (tile_row + k) * w.cols),
        ahead(PrefetchFrom(w.data + 2 * tile_row * w.cols, k)) {}
  void Enter(int64_t) {}
  void Load(int64_t step, I* out) const {
    Prefetch(ahead + step * kTileWordRows * kLine);
    *out = LoadWords(values + step * kStepColumns);
  }
};

// E4M3 codes times 2^(scale - 127) by adding to the exponent, where every product is a normal number.
struct E4m3Scale {
  I add;        // to the words of normal codes
  I subnormal;  // words of the subnormal codes, scaled
  bool extreme = false;
  float value = 1.0F;

  void Enter(uint8_t scale) {
    const auto exponents = static_cast<int16_t>((static_cast<int>(scale) - 127) * 128);
    extreme = scale < 10 || scale > 245;
    value = E8m0ToFloat(scale);
    add = _mm512_set1_epi16(static_cast<int16_t>(exponents + (120 << 7)));
    const I words = SubnormalWords();
    subnormal = _mm512_mask_add_epi16(words, _mm512_test_epi16_mask(words, words), words, _mm512_set1_epi16(exponents));
  }
  I Words(const uint8_t* codes) const {
    if (extreme) [[unlikely]] {
      return ExtremeWords(codes);
    }
    const I code = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
    const I magnitude = _mm512_slli_epi16(_mm512_and_si512(code, _mm512_set1_epi16(0x7F)), 4);
    const I normal = _mm512_add_epi16(magnitude, add);
    const __mmask32 is_subnormal = _mm512_testn_epi16_mask(code, _mm512_set1_epi16(0x78));
    const I word = _mm512_mask_permutexvar_epi16(normal, is_subnormal, code, subnormal);
    return _mm512_ternarylogic_epi32(word, _mm512_slli_epi16(code, 8), _mm512_set1_epi16(-0x8000), 0xF8);
  }
  I ExtremeWords(const uint8_t* codes) const {
    uint16_t words[kStepColumns];
    for (int i = 0; i < kStepColumns; ++i) words[i] = FloatToBf16(E4m3ToFloat(codes[i]) * value);
    return LoadWords(words);
  }
};

struct Fp8Words {
  static constexpr int kSteps = 1;
  const uint8_t* codes;
  const uint8_t* scales;
  E4m3Scale scale;
  Fp8Words(const Matrix& w, int64_t tile_row, int64_t k)
      : codes(w.data + (tile_row + k) * w.cols), scales(w.scale + (tile_row + k) / 128 * w.scale_cols) {}
  void Enter(int64_t step) { scale.Enter(scales[step / 4]); }
  void Load(int64_t step, I* out) const { *out = scale.Words(codes + step * kStepColumns); }
};

// The same without the scale, which went into the operands (ScaleOperands): two steps at a time, bytes by table.
struct E4m3Bytes {
  I low[2];   // low bytes of the BF16 words of the 128 magnitudes
  I high[2];  // high bytes

  E4m3Bytes() {
    alignas(64) uint8_t bytes[2][128];
    for (int code = 0; code < 128; ++code) {
      const uint16_t word = FloatToBf16(E4m3ToFloat(static_cast<uint8_t>(code)));
      bytes[0][code] = static_cast<uint8_t>(word);
      bytes[1][code] = static_cast<uint8_t>(word >> 8);
    }
    for (int half = 0; half < 2; ++half) {
      low[half] = _mm512_load_si512(bytes[0] + 64 * half);
      high[half] = _mm512_load_si512(bytes[1] + 64 * half);
    }
  }
};
struct Fp8Unscaled {
  static constexpr int kSteps = 2;
  const uint8_t* codes;
  const E4m3Bytes* bytes;
  const uint8_t* ahead;
  void Enter(int64_t) {}
  void Load(int64_t step, I* out) const {
    Prefetch(ahead + step * kTileWordRows * (kLine / kSteps));
    // Eight columns of the first step beside eight of the second in every 128 bits.
    const I code = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), _mm512_loadu_si512(codes + step * kStepColumns));
    const I low = _mm512_permutex2var_epi8(bytes->low[0], code, bytes->low[1]);
    const I magnitude = _mm512_permutex2var_epi8(bytes->high[0], code, bytes->high[1]);
    const I high = _mm512_ternarylogic_epi32(magnitude, code, _mm512_set1_epi8(-0x80), 0xF8);
    out[0] = _mm512_unpacklo_epi8(low, high);
    out[1] = _mm512_unpackhi_epi8(low, high);
  }
};

// out = x times the scale of each 128 columns, exact; false when a product is no normal number.
inline bool ScaleOperands(const uint16_t* x, const uint8_t* scales, int64_t steps, uint16_t* out) {
  __mmask32 outside = 0;
  for (int64_t s = 0; s < steps; ++s) {
    const int scale = scales[s / 4];
    if (scale < 10 || scale > 245) return false;
    const I words = LoadWords(x + s * kStepColumns);
    const __mmask32 nonzero = _mm512_test_epi16_mask(words, _mm512_set1_epi16(0x7FFF));
    const I exponent = _mm512_add_epi16(_mm512_and_si512(_mm512_srli_epi16(words, 7), _mm512_set1_epi16(0xFF)),
                                        _mm512_set1_epi16(static_cast<int16_t>(scale - 127)));
    outside |= _mm512_mask_cmplt_epi16_mask(nonzero, exponent, _mm512_set1_epi16(1)) |
               _mm512_mask_cmpgt_epi16_mask(nonzero, exponent, _mm512_set1_epi16(254));
    const I add = _mm512_set1_epi16(static_cast<int16_t>((scale - 127) * 128));
    _mm512_storeu_si512(out + s * kStepColumns, _mm512_mask_add_epi16(words, nonzero, words, add));
  }
  return outside == 0;
}

struct Fp4Words {
  static constexpr int kSteps = 1;
  const uint8_t* codes;
  const uint8_t* scales;
  const uint8_t* ahead;
  Fp4Words(const Matrix& w, int64_t tile_row, int64_t k)
      : codes(w.data + (tile_row + k) * (w.cols / 2)),
        scales(w.scale + (tile_row + k) * w.scale_cols),
        ahead(PrefetchFrom(w.data + tile_row * (w.cols / 2), k)) {}
  void Enter(int64_t step) { Prefetch(ahead + step * kLine); }
  void Load(int64_t step, I* out) const {
    // 32 words, the sixteen values twice, times the scale by adding to the exponent.
    const I values = _mm512_broadcast_i32x8(
        _mm256_setr_epi16(0, 0x3F00, 0x3F80, 0x3FC0, 0x4000, 0x4040, 0x4080, 0x40C0, -0x8000, -0x4100, -0x4080, -0x4040,
                          -0x4000, -0x3FC0, -0x3F80, -0x3F40));
    constexpr __mmask32 kNonzero = 0xFEFEFEFEU;
    const int scale = scales[step];
    if (scale < 2 || scale > 252) [[unlikely]] {
      return LoadExtreme(step, out);
    }
    const I table = _mm512_mask_add_epi16(values, kNonzero, values,
                                          _mm512_set1_epi16(static_cast<int16_t>((scale - 127) * 128)));
    const I pairs = LoadU8(codes + step * (kStepColumns / 2));
    // Low word: the whole byte, of which five bits count; high word: the high nibble.
    *out = _mm512_permutexvar_epi16(OrI(pairs, Shl<12>(pairs)), table);
  }
  void LoadExtreme(int64_t step, I* out) const {
    const F values = Mul(E2m1Values(), Set(E8m0ToFloat(scales[step])));
    const I table = reinterpret_cast<I>(_mm512_cvtne2ps_pbh(values, values));
    const I pairs = LoadU8(codes + step * (kStepColumns / 2));
    *out = _mm512_permutexvar_epi16(OrI(pairs, Shl<12>(pairs)), table);
  }
};

template <int kRows, int kX, typename W>
inline void WordTile(W* w, const uint16_t* x, int64_t x_stride, int64_t steps, bool round, float* y,
                     int64_t y_stride) {
  F sum[kX][kRows];
  for (int i = 0; i < kX; ++i) {
    for (int r = 0; r < kRows; ++r) sum[i][r] = Zero();
  }
  for (int64_t begin = 0; begin < steps; begin += 4) {
    for (int r = 0; r < kRows; ++r) w[r].Enter(begin);
    const int64_t end = Least(begin + 4, steps);
    for (int64_t s = begin; s < end; s += W::kSteps) {
      I weights[kRows][W::kSteps];
      for (int r = 0; r < kRows; ++r) w[r].Load(s, weights[r]);
      for (int k = 0; k < W::kSteps; ++k) {
        for (int i = 0; i < kX; ++i) {
          const I values = LoadWords(x + i * x_stride + (s + k) * kStepColumns);
          for (int r = 0; r < kRows; ++r) sum[i][r] = DotWords(sum[i][r], weights[r][k], values);
        }
      }
    }
  }
  for (int i = 0; i < kX; ++i) StoreSums<kRows>(sum[i], round, y + i * y_stride);
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
    Row w[4] = {{*job.w, row, 0}, {*job.w, row, 1}, {*job.w, row, 2}, {*job.w, row, 3}};
    WordRows<4>(w, x, x_stride, job.n, steps, job.round, job.y + r, job.y_stride);
  }
  for (; r < job.n_rows; ++r) {
    Row w[1] = {{*job.w, job.row_begin + r, 0}};
    WordRows<1>(w, x, x_stride, job.n, steps, job.round, job.y + r, job.y_stride);
  }
}

// FP8: rows that share a block of scales take them from the operands.
void DotFp8Direct(const DotJob& job, std::byte* scratch) {
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
      for (int j = 0; j < 4; ++j) rows[j] = {codes + (k + j) * w.cols, &bytes, PrefetchFrom(codes + k * w.cols, j)};
      WordRows<4>(rows, scaled, w.cols, job.n, steps, job.round, part.y + k, job.y_stride);
    }
    for (; k < part.n_rows; ++k) {
      Fp8Unscaled rows[1] = {{codes + k * w.cols, &bytes, PrefetchFrom(codes + k * w.cols, 0)}};
      WordRows<1>(rows, scaled, w.cols, job.n, steps, job.round, part.y + k, job.y_stride);
    }
  }
}

template <typename Row>
void DecodeRowWords(const Matrix& w, int64_t row, uint16_t* out) {
  Row source(w, row, 0);
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
    case Matrix::Format::kF32:
      DecodeRowWords<Bf16Words>(w, row, out);
      break;
  }
  const int64_t whole = w.cols / kStepColumns * kStepColumns;
  for (int64_t c = whole; c < RoundUpToStep(w.cols); ++c) {
    out[c] = c < w.cols ? FloatToBf16(WeightAt(w, row, c)) : uint16_t{0};
  }
}

void DotBf16(const DotJob& job, std::byte* scratch) {
  // FP32 weights have no BF16 form.
  if (job.form == Operand::kSplit) return DotSplit(job, scratch);
  if (job.n <= kWordTileX && job.w->cols % kStepColumns == 0) {
    switch (job.w->format) {
      case Matrix::Format::kFp8:
        return DotFp8Direct(job, scratch);
      case Matrix::Format::kFp4:
        return DotWordsDirect<Fp4Words>(job);
      case Matrix::Format::kBf16:
      case Matrix::Format::kF32:
        return DotWordsDirect<Bf16Words>(job);
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
    for (int64_t i = 0; i < job.n; i += kWordTileX) {
      const int64_t n = Least(kWordTileX, job.n - i);
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

// Key tile: BF16 rows [kTileKeys, width] for the scores, then the same keys in pairs [kTileKeys / 2, width, 2] for the
// values. Columns of a step of pairs stand as unpacklo and unpackhi leave them.
inline void LoadKeyWords(const KeyRecords& format, const std::byte* record, uint16_t* row) {
  const int64_t nope = format.width - format.rope_dim;
  const auto* codes = reinterpret_cast<const uint8_t*>(record);
  const uint8_t* rope = codes + nope;
  const uint8_t* scales = rope + 2 * format.rope_dim;
  if (nope % kStepColumns != 0 || format.rope_dim % kStepColumns != 0) {
    float values[kMaxKeyWidth];
    DecodeRecord(codes, nope, rope, format.rope_dim, scales, values);
    return Pack(values, format.width, Operand::kBf16, reinterpret_cast<std::byte*>(row));
  }
  E4m3Scale scale;
  for (int64_t c = 0; c < nope; c += kStepColumns) {
    if (c % 64 == 0) scale.Enter(scales[c / 64]);
    _mm512_storeu_si512(row + c, scale.Words(codes + c));
  }
  std::memcpy(row + nope, rope, static_cast<size_t>(2 * format.rope_dim));
}

void LoadKeysBf16(const KeyRecords& format, const std::byte* const* records, int64_t n, uint16_t* tile) {
  const int64_t width = RoundUpToStep(format.width);
  uint16_t* pairs = tile + kTileKeys * width;
  for (int64_t k = 0; k < n; ++k) {
    if (records[k] == nullptr) {
      std::memset(tile + k * width, 0, static_cast<size_t>(width) * sizeof(uint16_t));
    } else {
      LoadKeyWords(format, records[k], tile + k * width);
    }
  }
  std::memset(tile + n * width, 0, static_cast<size_t>((kTileKeys - n) * width) * sizeof(uint16_t));
  for (int64_t j = 0; j < (n + 1) / 2; ++j) {
    const uint16_t* even = tile + 2 * j * width;
    uint16_t* out = pairs + 2 * j * width;
    for (int64_t c = 0; c < width; c += kStepColumns) {
      const I a = LoadWords(even + c);
      const I b = LoadWords(even + width + c);
      _mm512_storeu_si512(out + 2 * c, _mm512_unpacklo_epi16(a, b));
      _mm512_storeu_si512(out + 2 * c + kStepColumns, _mm512_unpackhi_epi16(a, b));
    }
  }
}

// p: [kHeads, kTileKeys / 2] pairs of BF16.
template <int kHeads>
inline void AddValuesBf16(const int32_t* p, const float* rescale, const uint16_t* pairs, int64_t width, int64_t begin,
                          int64_t end, float* sums) {
  constexpr int kVectors = 4;
  for (int64_t c = 0; c < width; c += kVectors * kLanes) {
    const auto n_vectors = static_cast<int>(Least(kVectors, (width - c) / kLanes));
    F sum[kHeads][kVectors];
    if (n_vectors == kVectors) {
      for (int h = 0; h < kHeads; ++h) {
        for (int v = 0; v < kVectors; ++v) sum[h][v] = Mul(Load(sums + h * width + c + v * kLanes), Set(rescale[h]));
      }
      for (int64_t j = begin; j < end; ++j) {
        I keys[kVectors];
        for (int v = 0; v < kVectors; ++v) keys[v] = LoadWords(pairs + 2 * (j * width + c + v * kLanes));
        for (int h = 0; h < kHeads; ++h) {
          const I weight = SetI(p[h * (kTileKeys / 2) + j]);
          for (int v = 0; v < kVectors; ++v) sum[h][v] = DotWords(sum[h][v], keys[v], weight);
        }
      }
      for (int h = 0; h < kHeads; ++h) {
        for (int v = 0; v < kVectors; ++v) Store(sum[h][v], sums + h * width + c + v * kLanes);
      }
      continue;
    }
    for (int v = 0; v < n_vectors; ++v) {
      for (int h = 0; h < kHeads; ++h) {
        float* at = sums + h * width + c + v * kLanes;
        F one = Mul(Load(at), Set(rescale[h]));
        for (int64_t j = begin; j < end; ++j) {
          one = DotWords(one, LoadWords(pairs + 2 * (j * width + c + v * kLanes)), SetI(p[h * (kTileKeys / 2) + j]));
        }
        Store(one, at);
      }
    }
  }
}

void AttendBf16(const AttendJob& job) {
  if (job.form == Operand::kSplit) return AttendSplit(job);
  const int64_t width = RoundUpToStep(job.width);
  const auto* tile = reinterpret_cast<const uint16_t*>(job.tile);
  const uint16_t* pairs = tile + kTileKeys * width;
  for (int64_t k = job.begin / 4 * 4; k < job.end; k += 4) {
    DecodedWords keys[4];
    for (int r = 0; r < 4; ++r) keys[r] = {tile + (k + r) * width};
    WordRows<4>(keys, reinterpret_cast<const uint16_t*>(job.q), job.q_stride / 2, job.n_heads, width / kStepColumns,
                false, job.work + k, kTileKeys);
  }
  const int64_t begin = job.begin / 2;
  const int64_t end = (job.end + 1) / 2;
  int64_t h = 0;
  const auto add = [&]<int kHeads>() {
    float rescale[kHeads];
    alignas(64) int32_t p[kHeads * (kTileKeys / 2)];
    for (int i = 0; i < kHeads; ++i) {
      float* scores = job.work + (h + i) * kTileKeys;
      rescale[i] = SoftmaxTile(scores, job.begin, job.end, job.scale, true, job.states + h + i);
      Pack(scores, kTileKeys, Operand::kBf16, reinterpret_cast<std::byte*>(p + i * (kTileKeys / 2)));
    }
    AddValuesBf16<kHeads>(p, rescale, pairs, width, begin, end, job.sums + h * width);
    h += kHeads;
  };
  while (h + 6 <= job.n_heads) add.template operator()<6>();
  while (h + 4 <= job.n_heads) add.template operator()<4>();
  while (h < job.n_heads) add.template operator()<1>();
}

void FinishHeadBf16(const float* sums, SoftmaxState state, float sink, int64_t width, float* out) {
  const F denominator = Set(SoftmaxDenominator(state, sink));
  // Of a step, the first vector holds columns 0-3, 8-11, 16-19, 24-27, the second the others.
  const I first_at = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const I second_at = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
  for (int64_t c = 0; c < width; c += kStepColumns) {
    const F a = Load(sums + c);
    const F b = Load(sums + c + kLanes);
    StoreSome(Div(_mm512_permutex2var_ps(a, first_at, b), denominator), width - c, out + c);
    if (width - c > kLanes) {
      StoreSome(Div(_mm512_permutex2var_ps(a, second_at, b), denominator), width - c - kLanes, out + c + kLanes);
    }
  }
}

}  // namespace
}  // namespace longshelf::engine
