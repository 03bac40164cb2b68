#include "expert_rows.h"

#include <algorithm>
#include <cstring>

#include "activation_quant.h"
#include "float_formats.h"

namespace longshelf::engine {
namespace {

constexpr int64_t kQuantBlock = 128;

}  // namespace

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
      return static_cast<size_t>(width + (width + kQuantBlock - 1) / kQuantBlock);
    case ExpertRowFormat::kBf16:
      return static_cast<size_t>(2 * width);
    case ExpertRowFormat::kF32:
      break;
  }
  return static_cast<size_t>(4 * width);
}

void EncodeExpertRow(ExpertRowFormat format, const float* x, int64_t width, std::byte* row) {
  auto* bytes = reinterpret_cast<uint8_t*>(row);
  switch (format) {
    case ExpertRowFormat::kFp8:
      for (int64_t begin = 0; begin < width; begin += kQuantBlock) {
        const int64_t n = std::min(kQuantBlock, width - begin);
        bytes[width + begin / kQuantBlock] = QuantizeE4m3Group(x + begin, n, bytes + begin);
      }
      break;
    case ExpertRowFormat::kBf16:
      for (int64_t i = 0; i < width; ++i) {
        const uint16_t bits = FloatToBf16(x[i]);
        std::memcpy(bytes + 2 * i, &bits, sizeof bits);
      }
      break;
    case ExpertRowFormat::kF32:
      std::memcpy(bytes, x, static_cast<size_t>(width) * sizeof(float));
      break;
  }
}

void DecodeExpertRow(ExpertRowFormat format, const std::byte* row, int64_t width, float* x) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(row);
  switch (format) {
    case ExpertRowFormat::kFp8:
      for (int64_t i = 0; i < width; ++i) {
        x[i] = E4m3ToFloat(bytes[i]) * E8m0ToFloat(bytes[width + i / kQuantBlock]);
      }
      break;
    case ExpertRowFormat::kBf16:
      for (int64_t i = 0; i < width; ++i) {
        uint16_t bits;
        std::memcpy(&bits, bytes + 2 * i, sizeof bits);
        x[i] = Bf16ToFloat(bits);
      }
      break;
    case ExpertRowFormat::kF32:
      std::memcpy(x, bytes, static_cast<size_t>(width) * sizeof(float));
      break;
  }
}

}  // namespace longshelf::engine
