#include "dtype.h"

#include <array>

#include "absl/strings/str_join.h"
#include "text.h"

namespace longshelf::engine {
namespace {

struct DtypeRow {
  Dtype dtype;
  std::string_view name;
  int64_t bytes;
};

// In the order of the enumerators.
constexpr std::array<DtypeRow, 16> kDtypes = {{
    {Dtype::kF32, "F32", 4},
    {Dtype::kBf16, "BF16", 2},
    {Dtype::kF16, "F16", 2},
    {Dtype::kF8E4M3, "F8_E4M3", 1},
    {Dtype::kF8E8M0, "F8_E8M0", 1},
    {Dtype::kI8, "I8", 1},
    {Dtype::kU8, "U8", 1},
    {Dtype::kI32, "I32", 4},
    {Dtype::kI64, "I64", 8},
    {Dtype::kF64, "F64", 8},
    {Dtype::kBool, "BOOL", 1},
    {Dtype::kU16, "U16", 2},
    {Dtype::kI16, "I16", 2},
    {Dtype::kU32, "U32", 4},
    {Dtype::kU64, "U64", 8},
    {Dtype::kF8E5M2, "F8_E5M2", 1},
}};

}  // namespace

std::string_view DtypeName(Dtype dtype) { return kDtypes[static_cast<size_t>(dtype)].name; }

int64_t DtypeBytes(Dtype dtype) { return kDtypes[static_cast<size_t>(dtype)].bytes; }

std::optional<Dtype> DtypeFromName(std::string_view name) {
  for (const DtypeRow& row : kDtypes) {
    if (row.name == name) {
      return row.dtype;
    }
  }
  return std::nullopt;
}

std::string DescribeTensor(Dtype dtype, std::span<const int64_t> shape) {
  return Cat(DtypeName(dtype), " [", absl::StrJoin(shape, ", "), "]");
}

std::optional<uint64_t> TensorBytes(Dtype dtype, std::span<const int64_t> shape) {
  // Zero dimensions last: [2^40, 2^40, 0] overflows too, and no reader should have to agree on that.
  uint64_t n_elements = 1;
  bool empty = false;
  for (const int64_t dim : shape) {
    if (dim < 0) {
      return std::nullopt;
    }
    empty = empty || dim == 0;
    if (dim != 0 && __builtin_mul_overflow(n_elements, static_cast<uint64_t>(dim), &n_elements)) {
      return std::nullopt;
    }
  }
  uint64_t n_bytes = 0;
  if (__builtin_mul_overflow(n_elements, static_cast<uint64_t>(DtypeBytes(dtype)), &n_bytes)) {
    return std::nullopt;
  }
  return empty ? 0 : n_bytes;
}

}  // namespace longshelf::engine
