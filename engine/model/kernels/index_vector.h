#pragma once

#include "index_rows.h"

// Index scores with byte products. The including file gives DotBytes(sums, keys, query): to every lane the sum of four
// products of unsigned bytes of `keys` and signed bytes of `query` is added, exactly. And kIndexVectors:
// how many times sixteen keys its registers hold beside kIndexHeads heads of a query.
namespace longshelf::engine {
namespace {

constexpr int kIndexHeads = 4;

// Doubled FP4 value plus kKeyOffset, by code.
inline __m128i KeyBytes() { return _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0); }

// 32 columns of a packed key as bytes, in order.
inline void UnpackKeyBlock(const uint8_t* nibbles, __m128i* first, __m128i* second) {
  const __m128i pairs = _mm_loadu_si128(reinterpret_cast<const __m128i*>(nibbles));
  const __m128i mask = _mm_set1_epi8(15);
  const __m128i even = _mm_shuffle_epi8(KeyBytes(), _mm_and_si128(pairs, mask));
  const __m128i odd = _mm_shuffle_epi8(KeyBytes(), _mm_and_si128(_mm_srli_epi16(pairs, 4), mask));
  *first = _mm_unpacklo_epi8(even, odd);
  *second = _mm_unpackhi_epi8(even, odd);
}

// Four keys' sixteen bytes each -> four vectors, each with four adjacent bytes of the four keys.
inline void StoreTransposed(__m128i a, __m128i b, __m128i c, __m128i d, int32_t* out) {
  const __m128i ab_low = _mm_unpacklo_epi32(a, b);
  const __m128i ab_high = _mm_unpackhi_epi32(a, b);
  const __m128i cd_low = _mm_unpacklo_epi32(c, d);
  const __m128i cd_high = _mm_unpackhi_epi32(c, d);
  auto* at = reinterpret_cast<__m128i*>(out);
  _mm_storeu_si128(at, _mm_unpacklo_epi64(ab_low, cd_low));
  _mm_storeu_si128(at + 4, _mm_unpackhi_epi64(ab_low, cd_low));
  _mm_storeu_si128(at + 8, _mm_unpacklo_epi64(ab_high, cd_high));
  _mm_storeu_si128(at + 12, _mm_unpackhi_epi64(ab_high, cd_high));
}

// bytes: [width / 4, 16 keys, 4]; scales: [width / 32, 16 keys].
inline void UnpackKeys(const std::byte* const* keys, int64_t width, int32_t* bytes, float* scales) {
  const int64_t n_blocks = width / kIndexBlock;
  for (int64_t k = 0; k < kLanes; k += 4) {
    for (int64_t b = 0; b < n_blocks; ++b) {
      __m128i first[4];
      __m128i second[4];
      for (int i = 0; i < 4; ++i) {
        const auto* key = reinterpret_cast<const uint8_t*>(keys[k + i]);
        UnpackKeyBlock(key + b * (kIndexBlock / 2), &first[i], &second[i]);
        scales[b * kLanes + k + i] = E8m0ToFloat(key[width / 2 + b]);
      }
      int32_t* out = bytes + b * (kIndexBlock / 4) * kLanes + k;
      StoreTransposed(first[0], first[1], first[2], first[3], out);
      StoreTransposed(second[0], second[1], second[2], second[3], out + 4 * kLanes);
    }
  }
}

// Of what arithmetic gave, so no denormal: the same as RoundToBf16.
inline F RoundResult(F x) {
#ifdef __AVX512BF16__
  const auto words = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
  return OfBits(Shl<16>(_mm512_cvtepu16_epi32(words)));
#else
  return RoundToBf16(x);
#endif
}

// Adds one head's part to the scores of sixteen keys.
inline F AddHead(F score, F dot, float weight) {
  return Add(score, RoundResult(Mul(Max(RoundResult(dot), Zero()), Set(weight))));
}

// kHeads heads from `head` on with kVectors times sixteen keys, each of which has `bytes` and `scales` of its own.
template <int kHeads, int kVectors>
inline void ScoreHeads(const IndexQuery& query, int64_t head, int64_t width, const int32_t* bytes, const float* scales,
                       F* score) {
  const int64_t n_blocks = width / kIndexBlock;
  const int64_t vector_bytes = width / 4 * kLanes;
  F dot[kHeads][kVectors];
  LONGSHELF_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    LONGSHELF_UNROLL
    for (int v = 0; v < kVectors; ++v) dot[h][v] = Zero();
  }
  for (int64_t b = 0; b < n_blocks; ++b) {
    I sum[kHeads][kVectors];
    const int32_t* codes[kHeads];
    LONGSHELF_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      const int64_t at = (head + h) * n_blocks + b;
      codes[h] = reinterpret_cast<const int32_t*>(query.codes + at * kIndexBlock);
      LONGSHELF_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[h][v] = SetI(query.offsets[at]);
    }
    for (int64_t g = 0; g < kIndexBlock / 4; ++g) {
      I keys[kVectors];
      LONGSHELF_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        keys[v] = LoadI(bytes + v * vector_bytes + (b * (kIndexBlock / 4) + g) * kLanes);
      }
      LONGSHELF_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        const I code = SetI(codes[h][g]);
        LONGSHELF_UNROLL
        for (int v = 0; v < kVectors; ++v) sum[h][v] = DotBytes(sum[h][v], keys[v], code);
      }
    }
    LONGSHELF_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const F scale = Load(scales + (v * n_blocks + b) * kLanes);
      LONGSHELF_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        dot[h][v] = Fma(FromInt(sum[h][v]), Mul(scale, Set(query.scales[(head + h) * n_blocks + b])), dot[h][v]);
      }
    }
  }
  LONGSHELF_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    LONGSHELF_UNROLL
    for (int h = 0; h < kHeads; ++h) score[v] = AddHead(score[v], dot[h][v], query.weights[head + h]);
  }
}

// Keys from `begin` on, kVectors times sixteen of them.
template <int kVectors>
inline void ScoreKeys(const IndexJob& job, int64_t begin, std::byte* scratch) {
  const int64_t n_blocks = job.width / kIndexBlock;
  auto* bytes = reinterpret_cast<int32_t*>(scratch);
  auto* scales = reinterpret_cast<float*>(scratch + kVectors * kLanes * job.width);
  for (int v = 0; v < kVectors; ++v) {
    const std::byte* keys[kLanes];
    for (int64_t k = 0; k < kLanes; ++k) keys[k] = job.keys[Least(begin + v * kLanes + k, job.n_keys - 1)];
    UnpackKeys(keys, job.width, bytes + v * (job.width / 4) * kLanes, scales + v * n_blocks * kLanes);
  }
  for (int64_t i = 0; i < job.n_queries; ++i) {
    const IndexQuery& query = job.queries[i];
    F score[kVectors];
    for (int v = 0; v < kVectors; ++v) score[v] = Zero();
    int64_t h = 0;
    for (; h + kIndexHeads <= job.n_heads; h += kIndexHeads) {
      ScoreHeads<kIndexHeads, kVectors>(query, h, job.width, bytes, scales, score);
    }
    for (; h < job.n_heads; ++h) ScoreHeads<1, kVectors>(query, h, job.width, bytes, scales, score);
    for (int v = 0; v < kVectors; ++v) {
      Store(RoundResult(score[v]), job.scores + i * job.scores_stride + begin + v * kLanes);
    }
  }
}

void IndexScores(const IndexJob& job, std::byte* scratch) {
  int64_t begin = 0;
  for (; begin + kIndexVectors * kLanes <= job.n_keys; begin += kIndexVectors * kLanes) {
    ScoreKeys<kIndexVectors>(job, begin, scratch);
  }
  for (; begin < job.n_keys; begin += kLanes) ScoreKeys<1>(job, begin, scratch);
}

}  // namespace
}  // namespace longshelf::engine
