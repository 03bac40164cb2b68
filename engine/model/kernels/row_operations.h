#pragma once

#include "index_rows.h"

namespace longshelf::engine {
namespace {

// A table with the operations on rows; the rest is the including file's.
KernelTable RowOperations(const char* name, Operand native_form) {
  KernelTable table{};
  table.name = name;
  table.native_form = native_form;
  table.pack = &Pack;
  table.pack_index_query = &PackIndexQuery;
  table.indices_above = &IndicesAbove;
  table.sum_squares = &SumSquares;
  table.sum_rounded_squares = &SumRoundedSquares;
  table.scale_row = &ScaleRow;
  table.round_row = &RoundRow;
  table.quantize_row = &QuantizeRow;
  table.encode_e4m3 = &EncodeE4m3Group;
  table.decode_e4m3 = &DecodeE4m3Row;
  table.rotate = &Rotate;
  table.mix_rows = &MixRows;
  table.swiglu = &SwiGlu;
  table.add_row = &AddRow;
  table.pool = &Pool;
  table.encode_bf16 = &EncodeBf16Row;
  table.decode_bf16 = &DecodeBf16Row;
  return table;
}

}  // namespace
}  // namespace longshelf::engine
