#pragma once

#include <immintrin.h>

#include <cstdint>

// Weights are asked for ahead of their use.
namespace longshelf::engine {
namespace {

constexpr int64_t kPrefetchBytes = 8192;
constexpr int64_t kLine = 64;

inline void Prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
// For what is decoded later: it waits in the second cache.
inline void PrefetchLater(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }

// A tile's rows lie one after another, and are read side by side. The processor fetches ahead only along a stream, so
// with every step the first row asks for what lies this far behind the tile in the order of addresses, as much as kRows
// rows use up in kSteps steps of kStepBytes.
template <int kRows, int64_t kStepBytes, int kSteps = 1>
inline void PrefetchTile(const uint8_t* first_row, int64_t step) {
  const uint8_t* at = first_row + kPrefetchBytes + step * kRows * kStepBytes;
#pragma GCC unroll 16
  for (int64_t i = 0; i < kSteps * kRows * kStepBytes; i += kLine) Prefetch(at + i);
}

}  // namespace
}  // namespace longshelf::engine
