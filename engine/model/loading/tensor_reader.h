#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "weights_builder.h"

namespace longshelf::engine {

// Turns tensors of a source into matrices and vectors, checking each.
class TensorReader {
 public:
  TensorReader(TensorSource& source, OwnedBuffers& owned) : source_(source), owned_(owned) {}

  // Published as FP8; BF16 and F32 are accepted (dequantised checkpoints).
  absl::StatusOr<Matrix> Quantized(std::string_view name, int64_t rows, int64_t cols);
  // Published as FP4 or, in base checkpoints, FP8 (`fp4` says which); either is accepted, as are BF16 and F32.
  absl::StatusOr<Matrix> Expert(std::string_view name, int64_t rows, int64_t cols, bool fp4);
  // Published as BF16; F32 is accepted.
  absl::StatusOr<Matrix> Plain(std::string_view name, int64_t rows, int64_t cols, TensorRole role);
  // fn, base and scale below `prefix`; BF16 is accepted and widened.
  absl::StatusOr<HyperConnection> Hyper(std::string_view prefix, int64_t n_out, int64_t n_scales, int64_t cols);
  // Published as `dtype`; BF16 and F32 are accepted.
  absl::StatusOr<std::vector<float>> Vector(std::string_view name, std::vector<int64_t> shape, Dtype dtype,
                                            TensorRole role);
  // Values checked to be below n_experts.
  absl::StatusOr<std::span<const int64_t>> HashTable(std::string_view name, int64_t rows, int64_t cols,
                                                     int64_t n_experts);

  std::vector<UsedTensor> TakeUsed() { return std::move(used_); }

 private:
  absl::StatusOr<const TensorView*> Required(const TensorSpec& spec);
  absl::StatusOr<Matrix> Stored(std::string_view name, int64_t rows, int64_t cols, Dtype published, TensorRole role);
  absl::Status ReadScale(std::string_view name, int64_t rows, int64_t cols, Matrix& matrix);
  // The bytes where they are, or a copy when they are not aligned for their dtype.
  const uint8_t* Aligned(const TensorView& view);

  TensorSource& source_;
  OwnedBuffers& owned_;
  std::vector<UsedTensor> used_;
};

}  // namespace longshelf::engine
