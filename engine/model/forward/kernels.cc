#include "kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels.cc"
// AVX2 is the floor (it brings FMA); finer levels add nothing to these kernels. The compiler's baseline is built
// because Highway asks for it, and never offered.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#include <hwy/foreach_target.h>
//
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace longshelf::engine {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes: one vector with AVX-512, two with AVX2.
using D = hn::CappedTag<float, 16>;
using DI = hn::RebindToSigned<D>;
using V = hn::Vec<D>;
constexpr D d;
constexpr DI di;
constexpr int64_t kN = static_cast<int64_t>(hn::MaxLanes(D()));
constexpr int64_t kParts = kLanes / kN;

HWY_INLINE V DecodeE4m3(hn::Vec<DI> code) {
  const auto exponent = hn::And(hn::ShiftRight<3>(code), hn::Set(di, 15));
  const auto is_subnormal = hn::Eq(exponent, hn::Zero(di));
  const auto field = hn::ShiftLeft<23>(hn::Add(hn::Max(exponent, hn::Set(di, 1)), hn::Set(di, 120)));
  const auto bits = hn::Or(field, hn::ShiftLeft<20>(hn::And(code, hn::Set(di, 7))));
  const V bias = hn::IfThenElseZero(hn::RebindMask(d, is_subnormal), hn::Set(d, 0x1p-6F));
  const V magnitude = hn::Sub(hn::BitCast(d, bits), bias);
  const auto sign = hn::ShiftLeft<24>(hn::And(code, hn::Set(di, 0x80)));
  return hn::BitCast(d, hn::Or(hn::BitCast(di, magnitude), sign));
}

HWY_INLINE V DecodeE2m1(hn::Vec<DI> code) {
  const auto exponent = hn::And(hn::ShiftRight<1>(code), hn::Set(di, 3));
  const auto is_subnormal = hn::Eq(exponent, hn::Zero(di));
  const auto field = hn::ShiftLeft<23>(hn::Add(hn::Max(exponent, hn::Set(di, 1)), hn::Set(di, 126)));
  const auto bits = hn::Or(field, hn::ShiftLeft<22>(hn::And(code, hn::Set(di, 1))));
  const V bias = hn::IfThenElseZero(hn::RebindMask(d, is_subnormal), hn::Set(d, 1.0F));
  const V magnitude = hn::Sub(hn::BitCast(d, bits), bias);
  const auto sign = hn::ShiftLeft<28>(hn::And(code, hn::Set(di, 8)));
  return hn::BitCast(d, hn::Or(hn::BitCast(di, magnitude), sign));
}

HWY_INLINE float ScaleOf(uint8_t code) {
  const uint32_t bits = code == 0 ? 0x00400000U : static_cast<uint32_t>(code) << 23;
  float scale;
  __builtin_memcpy(&scale, &bits, sizeof scale);
  return scale;
}

void DecodeFp8(const Matrix& m, int64_t row, float* out) {
  const hn::Rebind<uint8_t, D> du8;
  const uint8_t* codes = m.data + row * m.cols;
  const uint8_t* scales = m.scale + row / 128 * m.scale_cols;
  for (int64_t begin = 0; begin < m.cols; begin += 128) {
    const int64_t end = begin + 128 < m.cols ? begin + 128 : m.cols;
    const V scale = hn::Set(d, ScaleOf(scales[begin / 128]));
    int64_t c = begin;
    for (; c + kN <= end; c += kN) {
      const auto code = hn::PromoteTo(di, hn::LoadU(du8, codes + c));
      hn::StoreU(hn::Mul(DecodeE4m3(code), scale), d, out + c);
    }
    for (; c < end; ++c) {
      out[c] = hn::GetLane(hn::Mul(DecodeE4m3(hn::Set(di, codes[c])), scale));
    }
  }
}

void DecodeFp4(const Matrix& m, int64_t row, float* out) {
  const hn::Rebind<uint8_t, D> du8;
  const uint8_t* codes = m.data + row * (m.cols / 2);
  const uint8_t* scales = m.scale + row * m.scale_cols;
  for (int64_t begin = 0; begin < m.cols; begin += 32) {
    const V scale = hn::Set(d, ScaleOf(scales[begin / 32]));
    for (int64_t b = 0; b < 16; b += kN) {
      const auto pair = hn::PromoteTo(di, hn::LoadU(du8, codes + begin / 2 + b));
      const V even = hn::Mul(DecodeE2m1(hn::And(pair, hn::Set(di, 15))), scale);
      const V odd = hn::Mul(DecodeE2m1(hn::ShiftRight<4>(pair)), scale);
      hn::StoreInterleaved2(even, odd, d, out + begin + 2 * b);
    }
  }
}

void DecodeBf16(const Matrix& m, int64_t row, float* out) {
  const hn::Rebind<uint16_t, D> du16;
  const auto* bits = reinterpret_cast<const uint16_t*>(m.data) + row * m.cols;
  int64_t c = 0;
  for (; c + kN <= m.cols; c += kN) {
    const auto wide = hn::ShiftLeft<16>(hn::PromoteTo(di, hn::LoadU(du16, bits + c)));
    hn::StoreU(hn::BitCast(d, wide), d, out + c);
  }
  for (; c < m.cols; ++c) {
    const uint32_t wide = static_cast<uint32_t>(bits[c]) << 16;
    __builtin_memcpy(out + c, &wide, sizeof wide);
  }
}

void DecodeRow(const Matrix& m, int64_t row, float* out) {
  switch (m.format) {
    case Matrix::Format::kFp8:
      DecodeFp8(m, row, out);
      break;
    case Matrix::Format::kFp4:
      DecodeFp4(m, row, out);
      break;
    case Matrix::Format::kBf16:
      DecodeBf16(m, row, out);
      break;
    case Matrix::Format::kF32:
      __builtin_memcpy(out, m.data + row * m.cols * 4, static_cast<size_t>(m.cols) * 4);
      break;
  }
}

// MR rows of x against kLanes weight rows.
template <int MR>
HWY_INLINE void MatMulTile(const float* x, int64_t x_stride, const float* w, int64_t n, int64_t k, float* y,
                           int64_t y_stride) {
  V acc[MR][kParts];
  for (int i = 0; i < MR; ++i) {
    for (int64_t p = 0; p < kParts; ++p) acc[i][p] = hn::Zero(d);
  }
  for (int64_t begin = 0; begin < k;) {
    const int64_t end = begin + NextSumBlock(k - begin);
    V chain[MR][kParts];
    for (int i = 0; i < MR; ++i) {
      for (int64_t p = 0; p < kParts; ++p) chain[i][p] = hn::Zero(d);
    }
    for (int64_t c = begin; c < end; ++c) {
      for (int64_t p = 0; p < kParts; ++p) {
        const V wv = hn::LoadU(d, w + c * kLanes + p * kN);
        for (int i = 0; i < MR; ++i) chain[i][p] = hn::MulAdd(hn::Set(d, x[i * x_stride + c]), wv, chain[i][p]);
      }
    }
    for (int i = 0; i < MR; ++i) {
      for (int64_t p = 0; p < kParts; ++p) acc[i][p] = hn::Add(acc[i][p], chain[i][p]);
    }
    begin = end;
  }
  alignas(64) float lanes[kLanes];
  for (int i = 0; i < MR; ++i) {
    for (int64_t p = 0; p < kParts; ++p) hn::Store(acc[i][p], d, lanes + p * kN);
    for (int64_t j = 0; j < n; ++j) y[i * y_stride + j] = lanes[j];
  }
}

void MatMul(const float* x, int64_t m, int64_t x_stride, const float* w, int64_t n, int64_t k, float* y,
            int64_t y_stride) {
  constexpr int kRows = kParts == 1 ? 8 : 4;
  int64_t i = 0;
  for (; i + kRows <= m; i += kRows) MatMulTile<kRows>(x + i * x_stride, x_stride, w, n, k, y + i * y_stride, y_stride);
  for (; i < m; ++i) MatMulTile<1>(x + i * x_stride, x_stride, w, n, k, y + i * y_stride, y_stride);
}

// One set of 32 accumulators: 4 groups of 8 lanes.
constexpr int64_t kSquareLanes = 8;
constexpr int64_t kSquareWidth = 4 * kSquareLanes;

float SumSquares(const float* x, int64_t n) {
  constexpr int64_t kVectors = kSquareWidth / kN;
  constexpr int kLevels = 4;
  V acc[kLevels][kVectors];
  for (int level = 0; level < kLevels; ++level) {
    for (int64_t v = 0; v < kVectors; ++v) acc[level][v] = hn::Zero(d);
  }
  const int64_t n_rows = n / kSquareWidth;
  for (int64_t row = 0; row < n_rows; ++row) {
    for (int64_t v = 0; v < kVectors; ++v) {
      const V value = hn::LoadU(d, x + row * kSquareWidth + v * kN);
      acc[0][v] = hn::Add(acc[0][v], hn::Mul(value, value));
    }
    int64_t done = row + 1;
    for (int level = 1; level < kLevels && done % 16 == 0; ++level, done /= 16) {
      for (int64_t v = 0; v < kVectors; ++v) {
        acc[level][v] = hn::Add(acc[level][v], acc[level - 1][v]);
        acc[level - 1][v] = hn::Zero(d);
      }
    }
  }
  alignas(64) float lanes[kSquareWidth];
  for (int64_t v = 0; v < kVectors; ++v) {
    for (int level = 1; level < kLevels; ++level) acc[0][v] = hn::Add(acc[0][v], acc[level][v]);
    hn::Store(acc[0][v], d, lanes + v * kN);
  }
  int64_t i = n_rows * kSquareWidth;
  for (; i + kSquareLanes <= n; i += kSquareLanes) {
    for (int64_t j = 0; j < kSquareLanes; ++j) lanes[j] = lanes[j] + x[i + j] * x[i + j];
  }
  for (int64_t group = 1; group < 4; ++group) {
    for (int64_t j = 0; j < kSquareLanes; ++j) lanes[j] = lanes[j] + lanes[group * kSquareLanes + j];
  }
  float sum = 0.0F;
  for (; i < n; ++i) sum = sum + x[i] * x[i];
  for (int64_t j = 0; j < kSquareLanes; ++j) sum = sum + lanes[j];
  return sum;
}

void WeightedSum(const float* p, const float* rows, int64_t n_rows, int64_t width, float rescale, float* out) {
  constexpr int64_t kTile = 4 * kN;
  const V scale = hn::Set(d, rescale);
  int64_t c = 0;
  for (; c + kTile <= width; c += kTile) {
    V acc[4];
    for (int64_t t = 0; t < 4; ++t) acc[t] = hn::Mul(hn::LoadU(d, out + c + t * kN), scale);
    V chain[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    for (int64_t i = 0; i < n_rows; ++i) {
      const V pv = hn::Set(d, p[i]);
      for (int64_t t = 0; t < 4; ++t) chain[t] = hn::MulAdd(pv, hn::LoadU(d, rows + i * width + c + t * kN), chain[t]);
    }
    for (int64_t t = 0; t < 4; ++t) acc[t] = hn::Add(acc[t], chain[t]);
    for (int64_t t = 0; t < 4; ++t) hn::StoreU(acc[t], d, out + c + t * kN);
  }
  for (; c < width; ++c) {
    float chain = 0.0F;
    for (int64_t i = 0; i < n_rows; ++i) chain = __builtin_fmaf(p[i], rows[i * width + c], chain);
    const float acc = out[c] * rescale + chain;
    out[c] = acc;
  }
}

template <int HR>
HWY_INLINE void IndexDotsTile(const float* q, int64_t width, const float* keys, float* acc) {
  V sum[HR][kParts];
  for (int h = 0; h < HR; ++h) {
    for (int64_t p = 0; p < kParts; ++p) sum[h][p] = hn::Zero(d);
  }
  for (int64_t c = 0; c < width; ++c) {
    for (int64_t p = 0; p < kParts; ++p) {
      const V key = hn::LoadU(d, keys + c * kLanes + p * kN);
      for (int h = 0; h < HR; ++h) sum[h][p] = hn::MulAdd(hn::Set(d, q[h * width + c]), key, sum[h][p]);
    }
  }
  for (int h = 0; h < HR; ++h) {
    for (int64_t p = 0; p < kParts; ++p) hn::StoreU(sum[h][p], d, acc + h * kLanes + p * kN);
  }
}

void IndexDots(const float* q, int64_t n_heads, int64_t width, const float* keys, float* acc) {
  constexpr int kHeads = kParts == 1 ? 8 : 4;
  int64_t h = 0;
  for (; h + kHeads <= n_heads; h += kHeads) IndexDotsTile<kHeads>(q + h * width, width, keys, acc + h * kLanes);
  for (; h < n_heads; ++h) IndexDotsTile<1>(q + h * width, width, keys, acc + h * kLanes);
}

KernelTable MakeTable() {
  return {kParts == 1 ? "avx512" : "avx2", &DecodeRow, &MatMul, &SumSquares, &WeightedSum, &IndexDots};
}

}  // namespace HWY_NAMESPACE
}  // namespace longshelf::engine
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longshelf::engine {
namespace {

HWY_EXPORT(MakeTable);

struct Available {
  std::vector<KernelTable> tables;
  Available() {
    for (const int64_t target : {HWY_AVX3, HWY_AVX2}) {
      if ((hwy::SupportedTargets() & target) == 0) continue;
      hwy::SetSupportedTargetsForTest(target);
      hwy::GetChosenTarget().Update(hwy::SupportedTargets());
      tables.push_back(HWY_DYNAMIC_DISPATCH(MakeTable)());
      hwy::SetSupportedTargetsForTest(0);
      hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    }
  }
};

const Available& Tables() {
  static const Available available;
  return available;
}

}  // namespace

std::vector<std::string> AvailableKernels() {
  std::vector<std::string> names;
  for (const KernelTable& table : Tables().tables) names.emplace_back(table.isa);
  return names;
}

const KernelTable* FindKernels(std::string_view isa) {
  for (const KernelTable& table : Tables().tables) {
    if (isa.empty() || isa == table.isa) return &table;
  }
  return nullptr;
}

}  // namespace longshelf::engine
#endif  // HWY_ONCE
