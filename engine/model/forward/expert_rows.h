#pragma once

#include <cstddef>
#include <cstdint>

#include "ops.h"

// Wire form of expert rows. Dispatch: FP8 [D] | UE8M0 [D/128] when the experts quantise their input, else BF16 or F32
// [D]. Result: BF16 [D] in native numerics, F32 [D] in fp32.
namespace longshelf::engine {

enum class ExpertRowFormat : uint8_t { kFp8, kBf16, kF32 };

ExpertRowFormat DispatchRowFormat(const Ops& ops, const Matrix& w1);
ExpertRowFormat ResultRowFormat(const Ops& ops);
size_t ExpertRowBytes(ExpertRowFormat format, int64_t width);
void EncodeExpertRow(const KernelTable& kernels, ExpertRowFormat format, const float* x, int64_t width, std::byte* row);
void DecodeExpertRow(const KernelTable& kernels, ExpertRowFormat format, const std::byte* row, int64_t width, float* x);
// Columns [begin, begin + n) of a result row.
void EncodeResultPart(const KernelTable& kernels, ExpertRowFormat format, const float* x, int64_t begin, int64_t n,
                      std::byte* row);

}  // namespace longshelf::engine
