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

inline I DotBytes(I sum, I keys, I query) { return _mm512_dpbusd_epi32(sum, keys, query); }

}  // namespace
}  // namespace longshelf::engine

#include "split_operations.h"
#include "tables.h"

namespace longshelf::engine {

KernelTable Avx512VnniTable() { return SplitOperations("avx512-vnni"); }

}  // namespace longshelf::engine
