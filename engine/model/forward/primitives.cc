#include "engine/model/primitives.h"

#include <algorithm>

#include "activation_quant.h"
#include "attend.h"
#include "common/check.h"
#include "float_formats.h"
#include "hyper_connection.h"
#include "kernels.h"
#include "rope.h"

namespace longshelf::engine::primitives {
namespace {

constexpr int64_t kE2m1Block = 32;

template <typename Quantize, typename Decode>
QuantizedRow QuantizeRow(std::span<const float> x, int64_t block, Quantize quantize, Decode decode) {
  QuantizedRow row;
  const auto n = static_cast<int64_t>(x.size());
  row.codes.resize(x.size());
  row.values.resize(x.size());
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t width = std::min(block, n - begin);
    row.scales.push_back(quantize(x.data() + begin, width, row.codes.data() + begin));
    const float scale = E8m0ToFloat(row.scales.back());
    for (int64_t i = begin; i < begin + width; ++i) {
      row.values[static_cast<size_t>(i)] = decode(row.codes[static_cast<size_t>(i)]) * scale;
    }
  }
  return row;
}

const KernelTable& KernelsOrDie(std::string_view isa) {
  const KernelTable* kernels = FindKernels(isa);
  LONGSHELF_CHECK(kernels != nullptr);
  return *kernels;
}

}  // namespace

uint8_t EncodeE4m3(float value) { return engine::EncodeE4m3(value); }
uint8_t EncodeE2m1(float value) { return engine::EncodeE2m1(value); }
float DecodeE4m3(uint8_t code) { return E4m3ToFloat(code); }
float DecodeE2m1(uint8_t code) { return E2m1ToFloat(code); }
float DecodeE8m0(uint8_t code) { return E8m0ToFloat(code); }
uint16_t EncodeBf16(float value) { return FloatToBf16(value); }
float DecodeBf16(uint16_t bits) { return Bf16ToFloat(bits); }

QuantizedRow QuantizeE4m3(std::span<const float> x, int64_t block) {
  return QuantizeRow(x, block, QuantizeE4m3Group, E4m3ToFloat);
}

QuantizedRow QuantizeE2m1(std::span<const float> x) {
  return QuantizeRow(x, kE2m1Block, QuantizeE2m1Group, E2m1ToFloat);
}

std::vector<float> Hadamard(std::span<const float> x) {
  std::vector<float> y(x.begin(), x.end());
  engine::Hadamard(y.data(), static_cast<int64_t>(y.size()));
  for (float& v : y) v = RoundBf16(v);
  return y;
}

void RopeAngles(const ModelConfig& config, bool compressed, int64_t position, std::span<float> cos,
                std::span<float> sin) {
  const RopeTable table = compressed ? RopeTable::Compressed(config) : RopeTable::Sliding(config);
  const Rotation rotation = table.At(position);
  std::copy(rotation.cos.begin(), rotation.cos.end(), cos.begin());
  std::copy(rotation.sin.begin(), rotation.sin.end(), sin.begin());
}

void SplitSinkhorn(const ModelConfig& config, std::span<const float> mixes, std::span<const float> scale,
                   std::span<const float> base, std::span<float> pre, std::span<float> post, std::span<float> comb) {
  engine::SplitSinkhorn(config, mixes.data(), scale.data(), base.data(), pre.data(), post.data(), comb.data());
}

std::vector<float> Linear(const Matrix& w, std::span<const float> x, int64_t n, std::string_view kernel_isa) {
  const ModelConfig config;
  Ops ops(config, Numerics::kNative, KernelsOrDie(kernel_isa), 1);
  std::vector<float> y(static_cast<size_t>(n * w.rows));
  ops.Linear(w, x.data(), n, y.data());
  return y;
}

std::vector<float> Attend(std::span<const float> q, int64_t n_heads, int64_t width, std::span<const float> kv,
                          std::span<const int64_t> slots, std::span<const float> sink, std::string_view kernel_isa) {
  std::vector<float> rows;
  std::vector<int64_t> tile_sizes;
  for (size_t i = 0; i < slots.size(); ++i) {
    if (i % static_cast<size_t>(kAttendTile) == 0) tile_sizes.push_back(0);
    if (slots[i] < 0) continue;
    const float* row = kv.data() + slots[i] * width;
    rows.insert(rows.end(), row, row + width);
    ++tile_sizes.back();
  }
  std::vector<KeyTile> tiles;
  const float* row = rows.data();
  for (const int64_t n : tile_sizes) {
    AppendTiles(row, n, width, tiles);
    row += n * width;
  }
  std::vector<float> out(static_cast<size_t>(n_heads * width));
  AttendKeys(KernelsOrDie(kernel_isa), Numerics::kNative, false, q.data(), n_heads, width, tiles, sink, out.data());
  return out;
}

}  // namespace longshelf::engine::primitives
