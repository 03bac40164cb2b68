#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "engine/model/checkpoint.h"

namespace longshelf::engine {

std::optional<Dtype> DtypeFromName(std::string_view name);

// "F32 [4, 1024]", for messages.
std::string DescribeTensor(Dtype dtype, std::span<const int64_t> shape);

// Bytes of a tensor of this shape; nothing when a product overflows or a dimension is negative.
std::optional<uint64_t> TensorBytes(Dtype dtype, std::span<const int64_t> shape);

}  // namespace longshelf::engine
