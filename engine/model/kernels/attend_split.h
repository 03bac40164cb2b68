#pragma once

#include "dot_split.h"
#include "softmax_rows.h"

// Attention over one key tile with fp32 fused multiply-adds.
namespace longshelf::engine {
namespace {

// Key tile: [kTileKeys] rows in split form.
void LoadKeysSplit(const KeyRecords& format, const std::byte* const* records, int64_t n, float* tile) {
  const int64_t width = RoundUpToStep(format.width);
  for (int64_t k = 0; k < n; ++k) {
    float* row = tile + k * width;
    if (records[k] == nullptr) {
      std::memset(row, 0, static_cast<size_t>(width) * sizeof(float));
      continue;
    }
    if (!format.packed) {
      PackSplit(reinterpret_cast<const float*>(records[k]), format.width, row);
      continue;
    }
    const int64_t nope = format.width - format.rope_dim;
    const auto* codes = reinterpret_cast<const uint8_t*>(records[k]);
    const uint8_t* rope = codes + nope;
    const uint8_t* scales = rope + 2 * format.rope_dim;
    if (nope % kStepColumns != 0 || format.rope_dim % kStepColumns != 0) {
      float values[kMaxKeyWidth];
      DecodeRecord(codes, nope, rope, format.rope_dim, scales, values);
      PackSplit(values, format.width, row);
      continue;
    }
    for (int64_t c = 0; c < nope; c += kStepColumns) {
      const F scale = Set(E8m0ToFloat(scales[c / 64]));
      F odd;
      F even;
      SplitWords(WordsOfE4m3(codes + c), &odd, &even);
      Store(Mul(odd, scale), row + c);
      Store(Mul(even, scale), row + c + kLanes);
    }
    for (int64_t c = 0; c < format.rope_dim; c += kStepColumns) {
      F odd;
      F even;
      SplitWords(LoadWords(reinterpret_cast<const uint16_t*>(rope) + c), &odd, &even);
      Store(odd, row + nope + c);
      Store(even, row + nope + c + kLanes);
    }
  }
  std::memset(tile + n * width, 0, static_cast<size_t>((kTileKeys - n) * width) * sizeof(float));
}

// sums[h] = sums[h] * rescale[h] + chain over pairs of keys of p[h] * key: the odd key first, then the even one.
template <int kHeads>
[[gnu::noinline]] void AddValuesOf(const float* p, int64_t p_stride, const float* rescale, const float* tile,
                                   int64_t width, int64_t begin, int64_t end, float* sums) {
  for (int64_t c = 0; c < width; c += kLanes) {
    F sum[kHeads];
    LONGSHELF_UNROLL
    for (int h = 0; h < kHeads; ++h) sum[h] = Mul(Load(sums + h * width + c), Set(rescale[h]));
    for (int64_t k = begin; k < end; k += 2) {
      const F odd = Load(tile + (k + 1) * width + c);
      LONGSHELF_UNROLL
      for (int h = 0; h < kHeads; ++h) sum[h] = Fma(odd, Set(p[h * p_stride + k + 1]), sum[h]);
      const F even = Load(tile + k * width + c);
      LONGSHELF_UNROLL
      for (int h = 0; h < kHeads; ++h) sum[h] = Fma(even, Set(p[h * p_stride + k]), sum[h]);
    }
    LONGSHELF_UNROLL
    for (int h = 0; h < kHeads; ++h) Store(sum[h], sums + h * width + c);
  }
}

void AttendSplit(const AttendJob& job) {
  const int64_t width = RoundUpToStep(job.width);
  const auto* tile = reinterpret_cast<const float*>(job.tile);
  const int64_t q_stride = job.q_stride / static_cast<int64_t>(sizeof(float));
  for (int64_t k = job.begin / kTileRows * kTileRows; k < job.end; k += kTileRows) {
    DecodedSplit keys[kTileRows];
    for (int r = 0; r < kTileRows; ++r) keys[r] = {tile + (k + r) * width};
    DotRows<kTileRows>(keys, reinterpret_cast<const float*>(job.q), q_stride, job.n_heads, width / kStepColumns, false,
                       job.work + k, kTileKeys);
  }
  const int64_t begin = job.begin / 2 * 2;
  const int64_t end = (job.end + 1) / 2 * 2;
  int64_t h = 0;
  const auto add = [&]<int kHeads>() {
    float rescale[kHeads];
    LONGSHELF_UNROLL
    for (int i = 0; i < kHeads; ++i) {
      rescale[i] =
          SoftmaxTile(job.work + (h + i) * kTileKeys, job.begin, job.end, job.scale, job.round, job.states + h + i);
    }
    AddValuesOf<kHeads>(job.work + h * kTileKeys, kTileKeys, rescale, tile, width, begin, end, job.sums + h * width);
    h += kHeads;
  };
  while (h + 6 <= job.n_heads) add.template operator()<6>();
  while (h + 2 <= job.n_heads) add.template operator()<2>();
  while (h < job.n_heads) add.template operator()<1>();
}

void FinishHeadSplit(const float* sums, SoftmaxState state, float sink, int64_t width, float* out) {
  const F denominator = Set(SoftmaxDenominator(state, sink));
  for (int64_t c = 0; c < width; c += kStepColumns) {
    F first;
    F second;
    Interleave(Load(sums + c), Load(sums + c + kLanes), &first, &second);
    StoreSome(Div(first, denominator), width - c, out + c);
    if (width - c > kLanes) StoreSome(Div(second, denominator), width - c - kLanes, out + c + kLanes);
  }
}

}  // namespace
}  // namespace longshelf::engine
