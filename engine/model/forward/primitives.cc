#include "engine/model/primitives.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/check.h"
#include "formats.h"
#include "hadamard.h"
#include "hyper_connection.h"
#include "kv_records.h"
#include "ops.h"
#include "rope.h"
#include "select.h"

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

const KernelTable& KernelsOrDie(std::string_view name) {
  const KernelTable* kernels = FindKernels(name);
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
  const FlushDenormals flush;
  return QuantizeRow(x, block, KernelsOrDie({}).encode_e4m3, E4m3ToFloat);
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
  table.Angles(position, cos.data(), sin.data());
}

void SplitSinkhorn(const ModelConfig& config, std::span<const float> mixes, std::span<const float> scale,
                   std::span<const float> base, std::span<float> pre, std::span<float> post, std::span<float> comb) {
  engine::SplitSinkhorn(config, mixes.data(), scale.data(), base.data(), pre.data(), post.data(), comb.data());
}

std::vector<float> Linear(const Matrix& w, std::span<const float> x, int64_t n, std::string_view kernels) {
  const FlushDenormals flush;
  const KernelTable& table = KernelsOrDie(kernels);
  const int64_t stride = OperandBytes(table.native_form, w.cols);
  std::vector<std::byte> rows(static_cast<size_t>(n * stride));
  std::vector<float> input(x.begin(), x.end());
  for (int64_t i = 0; i < n; ++i) {
    float* row = input.data() + i * w.cols;
    if (IsQuantized(w)) table.quantize_row(row, w.cols, kLinearQuantBlock);
    table.pack(row, w.cols, table.native_form, rows.data() + i * stride);
  }
  std::vector<float> y(static_cast<size_t>(n * w.rows));
  std::vector<std::byte> scratch(static_cast<size_t>(DotScratchBytes(w.cols)));
  table.dot({&w, 0, w.rows, rows.data(), stride, n, table.native_form, y.data(), w.rows, true}, scratch.data());
  return y;
}

std::vector<float> Attend(std::span<const float> q, int64_t n_heads, int64_t width, std::span<const float> kv,
                          std::span<const int64_t> slots, std::span<const float> sink, std::string_view kernels) {
  const FlushDenormals flush;
  const KernelTable& table = KernelsOrDie(kernels);
  constexpr Operand kForm = Operand::kSplit;
  const int64_t stride = OperandBytes(kForm, width);
  std::vector<std::byte> operand(static_cast<size_t>(n_heads * stride));
  for (int64_t h = 0; h < n_heads; ++h) table.pack(q.data() + h * width, width, kForm, operand.data() + h * stride);
  std::vector<std::byte> tile(static_cast<size_t>(KeyTileBytes(width)));
  std::vector<SoftmaxState> states(static_cast<size_t>(n_heads), {-std::numeric_limits<float>::infinity(), 0.0F});
  std::vector<float> sums(static_cast<size_t>(n_heads * RoundUpToStep(width)));
  std::vector<float> work(static_cast<size_t>(n_heads * kTileKeys));
  AttendJob job;
  job.q = operand.data();
  job.q_stride = stride;
  job.n_heads = n_heads;
  job.width = width;
  job.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(width)));
  job.round = true;
  job.tile = tile.data();
  job.states = states.data();
  job.sums = sums.data();
  job.work = work.data();
  for (size_t begin = 0; begin < slots.size(); begin += static_cast<size_t>(kTileKeys)) {
    const std::byte* records[kTileKeys];
    int64_t n = 0;
    for (size_t i = begin; i < std::min(slots.size(), begin + static_cast<size_t>(kTileKeys)); ++i) {
      if (slots[i] >= 0) records[n++] = reinterpret_cast<const std::byte*>(kv.data() + slots[i] * width);
    }
    if (n == 0) continue;
    table.load_keys({false, width, 0}, records, n, kForm, tile.data());
    job.end = n;
    table.attend(job);
  }
  std::vector<float> out(static_cast<size_t>(n_heads * width));
  for (int64_t h = 0; h < n_heads; ++h) {
    const auto at = static_cast<size_t>(h);
    float* o = out.data() + h * width;
    table.finish_head(sums.data() + h * RoundUpToStep(width), states[at], sink[at], width, kForm, o);
    table.round_row(o, width);
  }
  return out;
}

}  // namespace longshelf::engine::primitives
