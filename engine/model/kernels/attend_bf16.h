#pragma once

#include "attend_split.h"
#include "dot_bf16.h"

// Attention over one key tile with AVX512_BF16.
namespace longshelf::engine {
namespace {

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

// p: [kHeads, kTileKeys / 2] pairs of BF16. A function of its own for the same reason as WordTile.
template <int kHeads>
[[gnu::noinline]] void AddValuesBf16(const int32_t* p, const float* rescale, const uint16_t* pairs, int64_t width,
                                     int64_t begin, int64_t end, float* sums) {
  constexpr int kVectors = 4;
  for (int64_t c = 0; c < width; c += kVectors * kLanes) {
    const auto n_vectors = static_cast<int>(Least(kVectors, (width - c) / kLanes));
    F sum[kHeads][kVectors];
    if (n_vectors == kVectors) {
      LONGSHELF_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        LONGSHELF_UNROLL
        for (int v = 0; v < kVectors; ++v) sum[h][v] = Mul(Load(sums + h * width + c + v * kLanes), Set(rescale[h]));
      }
      for (int64_t j = begin; j < end; ++j) {
        I keys[kVectors];
        LONGSHELF_UNROLL
        for (int v = 0; v < kVectors; ++v) keys[v] = LoadWords(pairs + 2 * (j * width + c + v * kLanes));
        LONGSHELF_UNROLL
        for (int h = 0; h < kHeads; ++h) {
          const I weight = SetI(p[h * (kTileKeys / 2) + j]);
          LONGSHELF_UNROLL
          for (int v = 0; v < kVectors; ++v) sum[h][v] = DotWords(sum[h][v], keys[v], weight);
        }
      }
      LONGSHELF_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        LONGSHELF_UNROLL
        for (int v = 0; v < kVectors; ++v) Store(sum[h][v], sums + h * width + c + v * kLanes);
      }
      continue;
    }
    for (int v = 0; v < n_vectors; ++v) {
      LONGSHELF_UNROLL
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
    LONGSHELF_UNROLL
    for (int i = 0; i < kHeads; ++i) {
      float* scores = job.work + (h + i) * kTileKeys;
      rescale[i] = SoftmaxTile(scores, job.begin, job.end, job.scale, true, job.states + h + i);
      Pack(scores, kTileKeys, Operand::kBf16, reinterpret_cast<std::byte*>(p + i * (kTileKeys / 2)));
    }
    AddValuesBf16<kHeads>(p, rescale, pairs, width, begin, end, job.sums + h * width);
    h += kHeads;
  };
  // The last eight as four and four: one at a time is slow.
  while (h + 6 <= job.n_heads && h + 8 != job.n_heads) add.template operator()<6>();
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
