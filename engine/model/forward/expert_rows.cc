#include "expert_rows.h"

#include <algorithm>
#include <cstring>

#include "formats.h"

namespace longshelf::engine {

ExpertRowFormat DispatchRowFormat(const Ops& ops, const Matrix& w1) {
  if (!ops.native()) return ExpertRowFormat::kF32;
  return IsQuantized(w1) ? ExpertRowFormat::kFp8 : ExpertRowFormat::kBf16;
}

ExpertRowFormat ResultRowFormat(const Ops& ops) {
  return ops.native() ? ExpertRowFormat::kBf16 : ExpertRowFormat::kF32;
}

size_t ExpertRowBytes(ExpertRowFormat format, int64_t width) {
  switch (format) {
    case ExpertRowFormat::kFp8:
      return static_cast<size_t>(width + (width + kLinearQuantBlock - 1) / kLinearQuantBlock);
    case ExpertRowFormat::kBf16:
      return static_cast<size_t>(2 * width);
    case ExpertRowFormat::kF32:
      break;
  }
  return static_cast<size_t>(4 * width);
}

void EncodeExpertRow(const KernelTable& kernels, ExpertRowFormat format, const float* x, int64_t width,
                     std::byte* row) {
  if (format != ExpertRowFormat::kFp8) return EncodeResultPart(kernels, format, x, 0, width, row);
  auto* bytes = reinterpret_cast<uint8_t*>(row);
  for (int64_t begin = 0; begin < width; begin += kLinearQuantBlock) {
    const int64_t n = std::min(kLinearQuantBlock, width - begin);
    bytes[width + begin / kLinearQuantBlock] = kernels.encode_e4m3(x + begin, n, bytes + begin);
  }
}

void DecodeExpertRow(const KernelTable& kernels, ExpertRowFormat format, const std::byte* row, int64_t width,
                     float* x) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(row);
  switch (format) {
    case ExpertRowFormat::kFp8:
      for (int64_t begin = 0; begin < width; begin += kLinearQuantBlock) {
        const float scale = E8m0ToFloat(bytes[width + begin / kLinearQuantBlock]);
        kernels.decode_e4m3(bytes + begin, std::min(kLinearQuantBlock, width - begin), scale, x + begin);
      }
      break;
    case ExpertRowFormat::kBf16:
      kernels.decode_bf16(reinterpret_cast<const uint16_t*>(bytes), width, x);
      break;
    case ExpertRowFormat::kF32:
      std::memcpy(x, bytes, static_cast<size_t>(width) * sizeof(float));
      break;
  }
}

void EncodeResultPart(const KernelTable& kernels, ExpertRowFormat format, const float* x, int64_t begin, int64_t n,
                      std::byte* row) {
  if (format == ExpertRowFormat::kBf16) {
    kernels.encode_bf16(x, n, reinterpret_cast<uint16_t*>(row) + begin);
  } else {
    std::memcpy(row + 4 * begin, x, static_cast<size_t>(n) * sizeof(float));
  }
}

}  // namespace longshelf::engine
