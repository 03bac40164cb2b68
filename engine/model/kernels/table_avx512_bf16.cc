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

#include "attend_bf16.h"
#include "index_vector.h"
#include "row_operations.h"
#include "tables.h"

namespace longshelf::engine {
namespace {

void LoadKeys(const KeyRecords& format, const std::byte* const* records, int64_t n, Operand form, std::byte* tile) {
  if (form == Operand::kSplit) return LoadKeysSplit(format, records, n, reinterpret_cast<float*>(tile));
  LoadKeysBf16(format, records, n, reinterpret_cast<uint16_t*>(tile));
}

void FinishHead(const float* sums, SoftmaxState state, float sink, int64_t width, Operand form, float* out) {
  if (form == Operand::kSplit) return FinishHeadSplit(sums, state, sink, width, out);
  FinishHeadBf16(sums, state, sink, width, out);
}

}  // namespace

KernelTable Avx512Bf16Table() {
  KernelTable table = RowOperations("avx512-bf16", Operand::kBf16);
  table.dot = &DotBf16;
  table.load_keys = &LoadKeys;
  table.attend = &AttendBf16;
  table.finish_head = &FinishHead;
  table.index_scores = &IndexScores;
  return table;
}

}  // namespace longshelf::engine
