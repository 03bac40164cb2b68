#include "kv_records.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "activation_quant.h"
#include "float_formats.h"

namespace longshelf::engine {
namespace {

constexpr int64_t kRecordAlign = 8;

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct E4m3Values {
  std::array<float, 256> value;
  constexpr E4m3Values() : value{} {
    for (int code = 0; code < 256; ++code) {
      const int exponent = (code >> 3) & 15;
      const int mantissa = code & 7;
      float magnitude = exponent == 0 ? static_cast<float>(mantissa) * 0x1p-9F
                                      : (1.0F + static_cast<float>(mantissa) * 0.125F) * 0x1p-7F;
      for (int i = 0; i < exponent; ++i) magnitude *= exponent == 0 ? 1.0F : 2.0F;
      value[static_cast<size_t>(code)] = (code & 0x80) != 0 ? -magnitude : magnitude;
    }
  }
};
constexpr E4m3Values kE4m3;

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

void PackEntry(const RecordFormat& format, const float* values, std::byte* record) {
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
    scales[begin / kEntryQuantBlock] = QuantizeE4m3Group(values + begin, n, codes + begin);
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
  const uint8_t* scales = rope + 2 * format.rope_dim;
  for (int64_t begin = 0; begin < nope; begin += kEntryQuantBlock) {
    const float scale = E8m0ToFloat(scales[begin / kEntryQuantBlock]);
    const int64_t end = std::min(begin + kEntryQuantBlock, nope);
    for (int64_t i = begin; i < end; ++i) values[i] = kE4m3.value[codes[i]] * scale;
  }
  for (int64_t i = 0; i < format.rope_dim; ++i) {
    uint16_t bits;
    std::memcpy(&bits, rope + 2 * i, sizeof bits);
    values[nope + i] = Bf16ToFloat(bits);
  }
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
