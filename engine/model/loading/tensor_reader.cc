#include "tensor_reader.h"

#include <bit>
#include <cstring>

#include "absl/status/status.h"
#include "common/status.h"
#include "dtype.h"
#include "json_fields.h"
#include "text.h"

namespace longshelf::engine {
namespace {

constexpr int64_t kFp8Block = 128;
constexpr int64_t kFp4Block = 32;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

absl::Status Mismatch(std::string_view name, const TensorView& view, std::string_view expected) {
  return absl::InvalidArgumentError(
      Cat("tensor ", QuotedName(name), ": is ", DescribeTensor(view.dtype, view.shape), ", must be ", expected));
}

float WidenBf16(const uint8_t* bytes) {
  uint16_t half = 0;
  std::memcpy(&half, bytes, sizeof(half));
  return std::bit_cast<float>(static_cast<uint32_t>(half) << 16);
}

// F32 or BF16 tensor to fp32.
void Widen(const TensorView& view, size_t n, float* out) {
  if (view.dtype == Dtype::kF32) {
    std::memcpy(out, view.bytes.data(), n * sizeof(float));
    return;
  }
  for (size_t i = 0; i < n; ++i) {
    out[i] = WidenBf16(view.bytes.data() + 2 * i);
  }
}

}  // namespace

uint8_t* OwnedBuffers::Allocate(size_t n_bytes) {
  // 64-bit words, so that every dtype is aligned.
  buffers.push_back(std::make_unique_for_overwrite<uint64_t[]>((n_bytes + 7) / 8));
  return reinterpret_cast<uint8_t*>(buffers.back().get());
}

absl::StatusOr<const TensorView*> TensorReader::Required(const TensorSpec& spec) {
  ASSIGN_OR_RETURN(const TensorView* view, source_.Get(spec));
  if (view == nullptr) {
    return absl::InvalidArgumentError(Cat("tensor ", QuotedName(spec.name), ": missing; config.json implies ",
                                          DescribeTensor(spec.dtype, spec.shape)));
  }
  used_.push_back({.name = spec.name, .view = view});
  return view;
}

const uint8_t* TensorReader::Aligned(const TensorView& view) {
  const auto address = reinterpret_cast<uintptr_t>(view.bytes.data());
  if (address % static_cast<uintptr_t>(DtypeBytes(view.dtype)) == 0) {
    return view.bytes.data();
  }
  uint8_t* copy = owned_.Allocate(view.bytes.size());
  std::memcpy(copy, view.bytes.data(), view.bytes.size());
  return copy;
}

absl::Status TensorReader::ReadScale(std::string_view name, int64_t rows, int64_t cols, Matrix& matrix) {
  const TensorSpec spec = {Cat(name, ".scale"), Dtype::kF8E8M0, {rows, cols}, TensorRole::kScale, matrix.cols};
  ASSIGN_OR_RETURN(const TensorView* view, Required(spec));
  const bool is_byte = view->dtype == Dtype::kF8E8M0 || view->dtype == Dtype::kU8;
  if (view->shape != spec.shape || !(is_byte || view->dtype == Dtype::kF32)) {
    return Mismatch(spec.name, *view, Cat(DescribeTensor(spec.dtype, spec.shape), ", as the weight's shape asks"));
  }
  matrix.scale_cols = cols;
  if (is_byte) {
    matrix.scale = view->bytes.data();
    return absl::OkStatus();
  }
  // V3-style scales are F32. A V4 checkpoint holds powers of two in them, which UE8M0 holds exactly.
  const auto n = static_cast<size_t>(rows * cols);
  uint8_t* codes = owned_.Allocate(n);
  for (size_t i = 0; i < n; ++i) {
    uint32_t bits = 0;
    std::memcpy(&bits, view->bytes.data() + 4 * i, sizeof(bits));
    if ((bits & 0x807FFFFFU) != 0 || bits == 0 || bits == 0x7F800000U) {
      return absl::InvalidArgumentError(Cat("tensor ", QuotedName(spec.name), ": value ", i, " (",
                                            std::bit_cast<float>(bits), ") is not a positive power of two"));
    }
    codes[i] = static_cast<uint8_t>(bits >> 23);
  }
  matrix.scale = codes;
  return absl::OkStatus();
}

absl::StatusOr<Matrix> TensorReader::Stored(std::string_view name, int64_t rows, int64_t cols, Dtype published,
                                            TensorRole role) {
  const bool packed = published == Dtype::kI8;
  const TensorSpec spec = {Cat(name, ".weight"), published, {rows, packed ? cols / 2 : cols}, role, cols};
  ASSIGN_OR_RETURN(const TensorView* view, Required(spec));
  Matrix matrix;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.data = Aligned(*view);
  const std::vector<int64_t> full = {rows, cols};
  const bool quantized = published == Dtype::kI8 || published == Dtype::kF8E4M3;
  const bool is_byte_pair = view->dtype == Dtype::kI8 || view->dtype == Dtype::kU8;
  // Only experts are published with four bits, or with eight in their place.
  const bool may_be_packed = role == TensorRole::kMatrix && packed;
  if (may_be_packed && is_byte_pair && view->shape == spec.shape) {
    matrix.format = Matrix::Format::kFp4;
    RETURN_IF_ERROR(ReadScale(name, rows, cols / kFp4Block, matrix));
  } else if (quantized && view->dtype == Dtype::kF8E4M3 && view->shape == full) {
    matrix.format = Matrix::Format::kFp8;
    RETURN_IF_ERROR(ReadScale(name, CeilDiv(rows, kFp8Block), CeilDiv(cols, kFp8Block), matrix));
  } else if (view->dtype == Dtype::kBf16 && view->shape == full) {
    matrix.format = Matrix::Format::kBf16;
  } else if (view->dtype == Dtype::kF32 && view->shape == full) {
    matrix.format = Matrix::Format::kF32;
  } else {
    return Mismatch(spec.name, *view,
                    Cat(DescribeTensor(spec.dtype, spec.shape), " (or ", packed ? "F8_E4M3, " : "",
                        published == Dtype::kBf16 ? "" : "BF16, ", "F32 ", "[", rows, ", ", cols, "])"));
  }
  return matrix;
}

absl::StatusOr<Matrix> TensorReader::Quantized(std::string_view name, int64_t rows, int64_t cols) {
  return Stored(name, rows, cols, Dtype::kF8E4M3, TensorRole::kMatrix);
}

absl::StatusOr<Matrix> TensorReader::Expert(std::string_view name, int64_t rows, int64_t cols, bool fp4) {
  if (fp4) {
    return Stored(name, rows, cols, Dtype::kI8, TensorRole::kMatrix);
  }
  return Stored(name, rows, cols, Dtype::kF8E4M3, TensorRole::kMatrix);
}

absl::StatusOr<Matrix> TensorReader::Plain(std::string_view name, int64_t rows, int64_t cols, TensorRole role) {
  return Stored(name, rows, cols, Dtype::kBf16, role);
}

absl::StatusOr<std::vector<float>> TensorReader::Vector(std::string_view name, std::vector<int64_t> shape, Dtype dtype,
                                                        TensorRole role) {
  const TensorSpec spec = {std::string(name), dtype, std::move(shape), role, 1};
  ASSIGN_OR_RETURN(const TensorView* view, Required(spec));
  if (view->shape != spec.shape || (view->dtype != Dtype::kF32 && view->dtype != Dtype::kBf16)) {
    return Mismatch(spec.name, *view,
                    Cat(DescribeTensor(spec.dtype, spec.shape), " (or ", dtype == Dtype::kF32 ? "BF16" : "F32", ")"));
  }
  const size_t n = view->bytes.size() / static_cast<size_t>(DtypeBytes(view->dtype));
  std::vector<float> values(n);
  Widen(*view, n, values.data());
  return values;
}

absl::StatusOr<HyperConnection> TensorReader::Hyper(std::string_view prefix, int64_t n_out, int64_t n_scales,
                                                    int64_t cols) {
  HyperConnection site;
  const TensorSpec spec = {Cat(prefix, "_fn"), Dtype::kF32, {n_out, cols}, TensorRole::kMatrix, cols};
  ASSIGN_OR_RETURN(const TensorView* view, Required(spec));
  if (view->shape != spec.shape || (view->dtype != Dtype::kF32 && view->dtype != Dtype::kBf16)) {
    return Mismatch(spec.name, *view, Cat(DescribeTensor(spec.dtype, spec.shape), " (or BF16)"));
  }
  site.fn.format = Matrix::Format::kF32;
  site.fn.rows = n_out;
  site.fn.cols = cols;
  if (view->dtype == Dtype::kF32) {
    site.fn.data = Aligned(*view);
  } else {
    const auto n = static_cast<size_t>(n_out * cols);
    uint8_t* wide = owned_.Allocate(n * sizeof(float));
    for (size_t i = 0; i < n; ++i) {
      const float value = WidenBf16(view->bytes.data() + 2 * i);
      std::memcpy(wide + 4 * i, &value, sizeof(value));
    }
    site.fn.data = wide;
  }
  ASSIGN_OR_RETURN(site.base, Vector(Cat(prefix, "_base"), {n_out}, Dtype::kF32, TensorRole::kSmall));
  ASSIGN_OR_RETURN(site.scale, Vector(Cat(prefix, "_scale"), {n_scales}, Dtype::kF32, TensorRole::kNorm));
  return site;
}

absl::StatusOr<std::span<const int64_t>> TensorReader::HashTable(std::string_view name, int64_t rows, int64_t cols,
                                                                 int64_t n_experts) {
  const TensorSpec spec = {std::string(name), Dtype::kI64, {rows, cols}, TensorRole::kHashTable, n_experts};
  ASSIGN_OR_RETURN(const TensorView* view, Required(spec));
  if (view->shape != spec.shape || (view->dtype != Dtype::kI64 && view->dtype != Dtype::kI32)) {
    return Mismatch(spec.name, *view, Cat(DescribeTensor(spec.dtype, spec.shape), " (or I32)"));
  }
  const auto n = static_cast<size_t>(rows * cols);
  const int64_t* values = nullptr;
  if (view->dtype == Dtype::kI64) {
    values = reinterpret_cast<const int64_t*>(Aligned(*view));
  } else {
    uint8_t* wide = owned_.Allocate(n * sizeof(int64_t));
    for (size_t i = 0; i < n; ++i) {
      int32_t narrow = 0;
      std::memcpy(&narrow, view->bytes.data() + 4 * i, sizeof(narrow));
      const int64_t value = narrow;
      std::memcpy(wide + 8 * i, &value, sizeof(value));
    }
    values = reinterpret_cast<const int64_t*>(wide);
  }
  for (size_t i = 0; i < n; ++i) {
    if (values[i] < 0 || values[i] >= n_experts) {
      return absl::InvalidArgumentError(Cat("tensor ", QuotedName(spec.name), ": token ", i / static_cast<size_t>(cols),
                                            " is sent to expert ", values[i], ", there are ", n_experts));
    }
  }
  return std::span<const int64_t>(values, n);
}

}  // namespace longshelf::engine
