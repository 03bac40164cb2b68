#include "kv_records.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats.h"

namespace longshelf::engine {
namespace {

constexpr int64_t kRecordAlign = 8;

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

RecordFormat EntryFormat(const ModelConfig& config, Numerics numerics) {
  const int64_t nope = config.nope_dim();
  const int64_t bytes =
      numerics == Numerics::kFp32
          ? 4 * config.head_dim
          : DivideUp(nope + 2 * config.rope_dim + DivideUp(nope, kEntryQuantBlock), kRecordAlign) * kRecordAlign;
  return {numerics, config.head_dim, config.rope_dim, bytes};
}

RecordFormat IndexKeyFormat(const ModelConfig& config, Numerics numerics) {
  const int64_t width = config.index_head_dim;
  const int64_t bytes =
      numerics == Numerics::kFp32 ? 4 * width : DivideUp(width, 2) + DivideUp(width, kIndexQuantBlock);
  return {numerics, width, 0, bytes};
}

void PackEntry(const KernelTable& kernels, const RecordFormat& format, const float* values, std::byte* record) {
  if (format.numerics == Numerics::kFp32) {
    std::memcpy(record, values, static_cast<size_t>(format.row_bytes));
    return;
  }
  const int64_t nope = format.width - format.rope_dim;
  std::memset(record, 0, static_cast<size_t>(format.row_bytes));
  auto* codes = reinterpret_cast<uint8_t*>(record);
  uint8_t* rope = codes + nope;
  uint8_t* scales = rope + 2 * format.rope_dim;
  for (int64_t begin = 0; begin < nope; begin += kEntryQuantBlock) {
    const int64_t n = std::min(kEntryQuantBlock, nope - begin);
    scales[begin / kEntryQuantBlock] = kernels.encode_e4m3(values + begin, n, codes + begin);
  }
  for (int64_t i = 0; i < format.rope_dim; ++i) {
    const uint16_t bits = FloatToBf16(values[nope + i]);
    std::memcpy(rope + 2 * i, &bits, sizeof bits);
  }
}

void UnpackEntry(const RecordFormat& format, const std::byte* record, float* values) {
  if (format.numerics == Numerics::kFp32) {
    std::memcpy(values, record, static_cast<size_t>(format.row_bytes));
    return;
  }
  const int64_t nope = format.width - format.rope_dim;
  const auto* codes = reinterpret_cast<const uint8_t*>(record);
  const uint8_t* rope = codes + nope;
  DecodeRecord(codes, nope, rope, format.rope_dim, rope + 2 * format.rope_dim, values);
}

uint8_t QuantizeE2m1Group(const float* x, int64_t n, uint8_t* codes) {
  float largest = 6.0F * 0x1p-126F;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
  const uint8_t scale_code = CeilPowerOfTwoCode(largest * (1.0F / 6.0F));
  const float scale = E8m0ToFloat(scale_code);
  for (int64_t i = 0; i < n; ++i) codes[i] = EncodeE2m1(std::clamp(x[i] / scale, -6.0F, 6.0F));
  return scale_code;
}

void PackIndexKey(const RecordFormat& format, const float* values, std::byte* record) {
  if (format.numerics == Numerics::kFp32) {
    std::memcpy(record, values, static_cast<size_t>(format.row_bytes));
    return;
  }
  auto* nibbles = reinterpret_cast<uint8_t*>(record);
  uint8_t* scales = nibbles + DivideUp(format.width, 2);
  uint8_t codes[kIndexQuantBlock];
  for (int64_t begin = 0; begin < format.width; begin += kIndexQuantBlock) {
    const int64_t n = std::min(kIndexQuantBlock, format.width - begin);
    scales[begin / kIndexQuantBlock] = QuantizeE2m1Group(values + begin, n, codes);
    for (int64_t i = 0; i < n; i += 2) {
      const uint8_t high = i + 1 < n ? codes[i + 1] : uint8_t{0};
      nibbles[(begin + i) / 2] = static_cast<uint8_t>(codes[i] | (high << 4));
    }
  }
}

void UnpackIndexKey(const RecordFormat& format, const std::byte* record, float* values) {
  if (format.numerics == Numerics::kFp32) {
    std::memcpy(values, record, static_cast<size_t>(format.row_bytes));
    return;
  }
  const auto* nibbles = reinterpret_cast<const uint8_t*>(record);
  const uint8_t* scales = nibbles + DivideUp(format.width, 2);
  for (int64_t i = 0; i < format.width; ++i) {
    const uint8_t pair = nibbles[i / 2];
    const auto code = static_cast<uint8_t>((i & 1) != 0 ? pair >> 4 : pair & 15);
    values[i] = E2m1ToFloat(code) * E8m0ToFloat(scales[i / kIndexQuantBlock]);
  }
}

}  // namespace longshelf::engine
