#pragma once

#include <immintrin.h>

#include <cstdint>

// Weights are asked for ahead of their use.
namespace longshelf::engine {
namespace {

// A tile's rows lie one after another, and are read side by side. The processor fetches ahead only along a stream, so
// the rows ask, a cache line each in turn, for what lies this far behind the tile in the order of addresses.
constexpr int64_t kPrefetchBytes = 8192;
constexpr int64_t kLine = 64;
constexpr int64_t kPrefetchRows = 4;  // of a tile
inline void Prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
// The same for what is decoded later: it waits in the second cache.
inline void PrefetchLater(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }
// Where row `k` of a tile that begins at `tile` asks first.
inline const uint8_t* PrefetchFrom(const void* tile, int64_t k) {
  return static_cast<const uint8_t*>(tile) + kPrefetchBytes + k * kLine;
}

}  // namespace
}  // namespace longshelf::engine
