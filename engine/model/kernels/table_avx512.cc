#include "weights_avx512.h"
//
namespace longshelf::engine {
namespace {

constexpr int kTileRows = 4;
constexpr int kTileX = 6;
constexpr int kDirectX = 6;
constexpr int64_t kMostDirect = 12;
constexpr int64_t kBlockRows = 4;
constexpr int64_t kBlockSteps = 32;
constexpr int kIndexVectors = 2;

// A pair of products is at most 2 * 24 * 12: no sum of bytes saturates.
inline I DotBytes(I sum, I keys, I query) {
  return AddI(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(keys, query), _mm512_set1_epi16(1)));
}

}  // namespace
}  // namespace longshelf::engine

#include "split_operations.h"
#include "tables.h"

namespace longshelf::engine {

KernelTable Avx512Table() { return SplitOperations("avx512"); }

}  // namespace longshelf::engine
