#pragma once

#include "attend_split.h"
#include "index_vector.h"
#include "row_operations.h"

namespace longshelf::engine {
namespace {

void LoadKeys(const KeyRecords& format, const std::byte* const* records, int64_t n, Operand, std::byte* tile) {
  LoadKeysSplit(format, records, n, reinterpret_cast<float*>(tile));
}

void FinishHead(const float* sums, SoftmaxState state, float sink, int64_t width, Operand, float* out) {
  FinishHeadSplit(sums, state, sink, width, out);
}

// A table whose operands are always in split form.
KernelTable SplitOperations(const char* name) {
  KernelTable table = RowOperations(name, Operand::kSplit);
  table.dot = &DotSplit;
  table.load_keys = &LoadKeys;
  table.attend = &AttendSplit;
  table.finish_head = &FinishHead;
  table.index_scores = &IndexScores;
  return table;
}

}  // namespace
}  // namespace longshelf::engine
