#include "weights_avx2.h"
//
namespace longshelf::engine {
namespace {

constexpr int kTileRows = 4;
constexpr int kTileX = 3;
constexpr int kDirectX = 1;
constexpr int64_t kMostDirect = 1;
constexpr int64_t kBlockRows = 16;
constexpr int64_t kBlockSteps = 8;
constexpr int kIndexVectors = 1;

// A pair of products is at most 2 * 24 * 12: no sum of bytes saturates.
inline __m256i DotEightBytes(__m256i sum, __m256i keys, __m256i query) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(keys, query), _mm256_set1_epi16(1)));
}
inline I DotBytes(I sum, I keys, I query) {
  return {DotEightBytes(sum.lo, keys.lo, query.lo), DotEightBytes(sum.hi, keys.hi, query.hi)};
}

}  // namespace
}  // namespace longshelf::engine

#include "split_operations.h"
#include "tables.h"
#include "tile_avx2.h"

namespace longshelf::engine {

KernelTable Avx2Table() { return SplitOperations("avx2"); }

}  // namespace longshelf::engine
