#include "self_test.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats.h"
#include "select.h"
#include "tables.h"

namespace longshelf::engine {
namespace {

// A buffer aligned for the kernels.
template <typename T>
class Aligned {
 public:
  explicit Aligned(int64_t n) : storage_(static_cast<size_t>(n) + 64 / sizeof(T)), n_(static_cast<size_t>(n)) {
    const auto at = reinterpret_cast<uintptr_t>(storage_.data());
    data_ = storage_.data() + ((at + 63) / 64 * 64 - at) / sizeof(T);
  }
  T* data() { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  bool SameBits(Aligned& other) { return std::memcmp(data_, other.data_, n_ * sizeof(T)) == 0; }

 private:
  std::vector<T> storage_;
  size_t n_;
  T* data_;
};

// Random inputs that are hard on sums and roundings.
class HardCases {
 public:
  explicit HardCases(uint64_t seed) : random_(seed) {}
  int64_t Upto(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n)) + 1; }
  uint8_t Byte() { return static_cast<uint8_t>(random_()); }
  // Chooses what kind the next values are.
  void NextKind() { kind_ = static_cast<int>(random_() % 5); }
  float Value() {
    const auto word = static_cast<uint32_t>(random_());
    const uint32_t mantissa = kind_ == 3 ? (word & 0x3U) << 21 : word & 0x7FFFFFU;  // kind 3 cancels often
    uint32_t exponent = 120 + (word >> 24) % 16;
    if (kind_ == 1) exponent = 60 + (word >> 24) % 128;  // large gaps
    if (kind_ == 2) exponent = (word >> 24) % 3;         // at the edge of the denormals
    if (kind_ == 4) exponent = 127;
    const uint32_t sign = static_cast<uint32_t>(random_() & 1U) << 31;
    return std::bit_cast<float>(sign | exponent << 23 | mantissa);
  }
  float Bf16Value() { return std::bit_cast<float>(std::bit_cast<uint32_t>(Value()) & 0xFFFF0000U); }
  float Moderate() { return static_cast<float>(static_cast<int64_t>(random_() % 20001) - 10000) * 1e-3F; }
  template <typename T, typename Fn>
  Aligned<T> Fill(int64_t n, const Fn& fn) {
    Aligned<T> out(n);
    for (int64_t i = 0; i < n; ++i) out[i] = fn();
    return out;
  }
  Aligned<float> Values(int64_t n) {
    NextKind();
    return Fill<float>(n, [&] { return Value(); });
  }
  // FP8 codes without NaN.
  uint8_t E4m3() {
    const uint8_t code = Byte();
    return (code & 0x7F) == 0x7F ? uint8_t{0} : code;
  }
  uint8_t Scale() { return static_cast<uint8_t>(kind_ == 2 ? Byte() % 16 : 110 + Byte() % 30); }

 private:
  std::mt19937_64 random_;
  int kind_ = 0;
};

// Both tables run the same operation into buffers of their own.
class Comparison {
 public:
  Comparison(const KernelTable& table, uint64_t seed) : table_(table), cases_(seed) {}

  std::string Run(int64_t n_cases) {
    const FlushDenormals flush;
    using Check = bool (Comparison::*)();
    const std::pair<const char*, Check> checks[] = {
        {"dot", &Comparison::Dot},
        {"attend", &Comparison::Attend},
        {"index_scores", &Comparison::IndexScores},
        {"indices_above", &Comparison::IndicesAbove},
        {"sum_squares", &Comparison::SumSquares},
        {"scale_row", &Comparison::ScaleRow},
        {"round_row", &Comparison::RoundRow},
        {"quantize_row", &Comparison::QuantizeRow},
        {"encode_e4m3", &Comparison::EncodeE4m3Row},
        {"rotate", &Comparison::Rotate},
        {"mix_rows", &Comparison::MixRows},
        {"swiglu", &Comparison::SwiGlu},
        {"add_row", &Comparison::AddRow},
        {"pool", &Comparison::Pool},
        {"encode_bf16", &Comparison::Bf16Rows},
    };
    for (const auto& [name, check] : checks) {
      for (int64_t i = 0; i < n_cases; ++i) {
        if (!(this->*check)()) return absl::StrCat(name, " differs from the portable kernels in case ", i);
      }
    }
    return {};
  }

 private:
  // fn(table, out) for both, then compares.
  template <typename T, typename Fn>
  bool SameResult(int64_t n, const Fn& fn) {
    Aligned<T> ours(n);
    Aligned<T> expected(n);
    fn(table_, ours.data());
    fn(portable_, expected.data());
    return ours.SameBits(expected);
  }
  // The same for an operation in place.
  template <typename Fn>
  bool SameInPlace(int64_t n, const Fn& fn) {
    Aligned<float> start = cases_.Values(n);
    return SameResult<float>(n, [&](const KernelTable& t, float* out) {
      std::copy_n(start.data(), n, out);
      fn(t, out);
    });
  }

  Matrix RandomMatrix(Matrix::Format format, int64_t rows, int64_t cols, std::vector<uint8_t>& data,
                      std::vector<uint8_t>& scales) {
    Matrix w;
    w.format = format;
    w.rows = rows;
    w.cols = cols;
    const auto fill = [&](int64_t n, int64_t scale_rows, int64_t scale_cols) {
      data.resize(static_cast<size_t>(n));
      scales.resize(static_cast<size_t>(scale_rows * scale_cols));
      for (uint8_t& s : scales) s = cases_.Scale();
      w.scale_cols = scale_cols;
    };
    if (format == Matrix::Format::kFp8) {
      fill(rows * cols, (rows + 127) / 128, (cols + 127) / 128);
      for (uint8_t& b : data) b = cases_.E4m3();
    } else if (format == Matrix::Format::kFp4) {
      fill(rows * cols / 2, rows, cols / 32);
      for (uint8_t& b : data) b = cases_.Byte();
    } else {
      const bool wide = format == Matrix::Format::kF32;
      fill(rows * cols * (wide ? 4 : 2), 0, 0);
      for (int64_t i = 0; i < rows * cols; ++i) {
        const auto bits = std::bit_cast<uint32_t>(wide ? cases_.Value() : cases_.Bf16Value());
        const uint32_t stored = wide ? bits : bits >> 16;
        std::memcpy(data.data() + i * (wide ? 4 : 2), &stored, wide ? 4 : 2);
      }
    }
    w.data = data.data();
    w.scale = scales.data();
    return w;
  }

  bool Dot() {
    constexpr Matrix::Format kFormats[] = {Matrix::Format::kFp8, Matrix::Format::kFp4, Matrix::Format::kBf16,
                                           Matrix::Format::kF32};
    const Matrix::Format format = kFormats[cases_.Upto(4) - 1];
    const int64_t step = format == Matrix::Format::kFp4 ? 32 : 8;
    // Now and then beyond one block of columns, of operand rows, or of FP8 scales.
    const int64_t beyond = cases_.Upto(12);
    const int64_t cols = step * cases_.Upto((beyond == 1 ? 1600 : 320) / step);
    const int64_t n = cases_.Upto(beyond == 2 ? 80 : beyond == 3 ? 30 : 9);
    const int64_t n_spare_rows = beyond == 4 ? 110 : 0;
    std::vector<uint8_t> data;
    std::vector<uint8_t> scales;
    cases_.NextKind();
    const Matrix w = RandomMatrix(format, 40 + n_spare_rows, cols, data, scales);
    const bool bf16 = cases_.Upto(4) > 1;
    Aligned<float> x = cases_.Fill<float>(n * cols, [&] { return bf16 ? cases_.Bf16Value() : cases_.Value(); });
    const int64_t row_begin = n_spare_rows + cases_.Upto(5) - 1;
    const int64_t n_rows = cases_.Upto(35);
    const bool round = cases_.Upto(2) == 1;
    return SameResult<float>(n * n_rows, [&](const KernelTable& t, float* out) {
      const Operand form = bf16 ? t.native_form : Operand::kSplit;
      const int64_t stride = OperandBytes(form, cols);
      Aligned<std::byte> packed(n * stride);
      for (int64_t i = 0; i < n; ++i) t.pack(x.data() + i * cols, cols, form, packed.data() + i * stride);
      Aligned<std::byte> scratch(DotScratchBytes(cols));
      t.dot({&w, row_begin, n_rows, packed.data(), stride, n, form, out, n_rows, round}, scratch.data());
    });
  }

  bool Attend() {
    const int64_t rope = 16 * cases_.Upto(4);
    const int64_t width = rope + 16 * cases_.Upto(8);
    const int64_t n_heads = cases_.Upto(9);
    const bool packed = cases_.Upto(3) > 1;
    const KeyRecords format{packed, width, rope};
    const int64_t nope = width - rope;
    const int64_t record_bytes = packed ? nope + 2 * rope + (nope + 63) / 64 : 4 * width;
    const int64_t n_keys = cases_.Upto(kTileKeys);
    cases_.NextKind();
    Aligned<std::byte> records(n_keys * record_bytes);
    for (int64_t k = 0; k < n_keys; ++k) {
      std::byte* record = records.data() + k * record_bytes;
      for (int64_t c = 0; !packed && c < width; ++c) {
        const float value = cases_.Moderate();
        std::memcpy(record + 4 * c, &value, sizeof value);
      }
      for (int64_t c = 0; packed && c < nope; ++c) record[c] = std::byte{cases_.E4m3()};
      for (int64_t c = 0; packed && c < rope; ++c) {
        const uint32_t bits = std::bit_cast<uint32_t>(cases_.Moderate()) >> 16;
        std::memcpy(record + nope + 2 * c, &bits, 2);
      }
      for (int64_t c = nope + 2 * rope; packed && c < record_bytes; ++c) record[c] = std::byte{cases_.Scale()};
    }
    Aligned<float> q = cases_.Fill<float>(n_heads * width, [&] {
      return std::bit_cast<float>(std::bit_cast<uint32_t>(cases_.Moderate()) & 0xFFFF0000U);
    });
    const int64_t begin = cases_.Upto(n_keys) - 1;
    return SameResult<float>(n_heads * width, [&](const KernelTable& t, float* out) {
      const Operand form = packed ? t.native_form : Operand::kSplit;
      std::vector<const std::byte*> rows;
      for (int64_t k = 0; k < n_keys; ++k) rows.push_back(k < begin / 4 ? nullptr : records.data() + k * record_bytes);
      Aligned<std::byte> tile(KeyTileBytes(width));
      t.load_keys(format, rows.data(), n_keys, form, tile.data());
      const int64_t stride = OperandBytes(form, width);
      Aligned<std::byte> operand(n_heads * stride);
      for (int64_t h = 0; h < n_heads; ++h) t.pack(q.data() + h * width, width, form, operand.data() + h * stride);
      std::vector<SoftmaxState> states(static_cast<size_t>(n_heads), {-HUGE_VALF, 0.0F});
      Aligned<float> sums(n_heads * RoundUpToStep(width));
      Aligned<float> work(n_heads * kTileKeys);
      AttendJob job{operand.data(), stride, form,   n_heads,       width,       0.05F,      packed,
                    tile.data(),    begin,  n_keys, states.data(), sums.data(), work.data()};
      t.attend(job);
      job.begin = 0;
      job.end = (n_keys + 1) / 2;
      t.attend(job);
      for (int64_t h = 0; h < n_heads; ++h) {
        t.finish_head(sums.data() + h * RoundUpToStep(width), states[static_cast<size_t>(h)], 0.5F, width, form,
                      out + h * width);
      }
    });
  }

  bool IndexScores() {
    const int64_t width = 32 * cases_.Upto(4);
    const int64_t n_heads = cases_.Upto(9);
    const int64_t n_keys = cases_.Upto(40);
    const int64_t key_bytes = width / 2 + width / 32;
    cases_.NextKind();
    Aligned<std::byte> keys(n_keys * key_bytes);
    std::vector<const std::byte*> rows;
    for (int64_t k = 0; k < n_keys; ++k) {
      std::byte* key = keys.data() + k * key_bytes;
      for (int64_t i = 0; i < key_bytes; ++i) key[i] = std::byte{i < width / 2 ? cases_.Byte() : cases_.Scale()};
      rows.push_back(key);
    }
    Aligned<float> q = cases_.Fill<float>(n_heads * width, [&] { return cases_.Bf16Value(); });
    Aligned<float> weights = cases_.Fill<float>(n_heads, [&] { return cases_.Moderate(); });
    return SameResult<float>(n_keys, [&](const KernelTable& t, float* out) {
      std::vector<int8_t> codes(static_cast<size_t>(n_heads * width));
      std::vector<float> scales(static_cast<size_t>(n_heads * width / 32));
      std::vector<int32_t> offsets(scales.size());
      std::vector<float> own_weights(static_cast<size_t>(n_heads));
      const IndexQuery query{codes.data(), scales.data(), offsets.data(), own_weights.data()};
      t.pack_index_query(q.data(), weights.data(), n_heads, width, query);
      Aligned<std::byte> scratch(IndexScratchBytes(width));
      Aligned<float> scores(64);
      t.index_scores({n_heads, width, &query, 1, rows.data(), n_keys, scores.data(), 64}, scratch.data());
      std::copy_n(scores.data(), n_keys, out);
    });
  }

  bool IndicesAbove() {
    const int64_t end = cases_.Upto(100);
    const int64_t begin = cases_.Upto(end) - 1;
    Aligned<float> scores = cases_.Values(end);
    const float threshold = scores[cases_.Upto(end) - 1];
    return SameResult<int32_t>(end + 1, [&](const KernelTable& t, int32_t* out) {
      std::fill_n(out, end + 1, -1);
      const int64_t n = t.indices_above(scores.data(), begin, end, threshold, out + 1);
      std::fill(out + 1 + n, out + end + 1, -1);
      out[0] = static_cast<int32_t>(n);
    });
  }

  bool SumSquares() {
    const int64_t n = cases_.Upto(600);
    Aligned<float> x = cases_.Values(n);
    return SameResult<float>(2, [&](const KernelTable& t, float* out) {
      out[0] = t.sum_squares(x.data(), n);
      out[1] = t.sum_rounded_squares(x.data(), n);
    });
  }
  bool ScaleRow() {
    const int64_t n = cases_.Upto(200);
    Aligned<float> w = cases_.Values(n);
    const float* weight = cases_.Upto(2) == 1 ? w.data() : nullptr;
    const bool round = cases_.Upto(2) == 1;
    return SameInPlace(n, [&](const KernelTable& t, float* x) { t.scale_row(x, weight, 0.37F, n, round, x); });
  }
  bool RoundRow() {
    const int64_t n = cases_.Upto(200);
    return SameInPlace(n, [&](const KernelTable& t, float* x) { t.round_row(x, n); });
  }
  bool QuantizeRow() {
    const int64_t n = cases_.Upto(300);
    const int64_t group = cases_.Upto(2) == 1 ? 128 : 64;
    return SameInPlace(n, [&](const KernelTable& t, float* x) { t.quantize_row(x, n, group); });
  }
  bool EncodeE4m3Row() {
    const int64_t n = cases_.Upto(128);
    Aligned<float> x = cases_.Values(n);
    return SameResult<float>(2 * n + 1, [&](const KernelTable& t, float* out) {
      std::vector<uint8_t> codes(static_cast<size_t>(n));
      out[0] = t.encode_e4m3(x.data(), n, codes.data());
      for (int64_t i = 0; i < n; ++i) out[1 + i] = codes[static_cast<size_t>(i)];
      t.decode_e4m3(codes.data(), n, 0.25F, out + 1 + n);
    });
  }
  bool Rotate() {
    const int64_t n_pairs = cases_.Upto(40);
    Aligned<float> cos = cases_.Fill<float>(n_pairs, [&] { return std::cos(cases_.Moderate()); });
    Aligned<float> sin = cases_.Fill<float>(n_pairs, [&] { return std::sin(cases_.Moderate()); });
    const bool inverse = cases_.Upto(2) == 1;
    const bool round = cases_.Upto(2) == 1;
    return SameInPlace(2 * n_pairs, [&](const KernelTable& t, float* x) {
      t.rotate(x, cos.data(), sin.data(), n_pairs, inverse, round);
    });
  }
  bool MixRows() {
    const int64_t n = cases_.Upto(100);
    Aligned<float> rows = cases_.Values(4 * n);
    Aligned<float> z = cases_.Values(n);
    Aligned<float> weights = cases_.Values(16);
    const bool with_z = cases_.Upto(2) == 1;
    const bool round = cases_.Upto(2) == 1;
    return SameResult<float>(n, [&](const KernelTable& t, float* out) {
      t.mix_rows(weights.data(), 4, rows.data(), n, 4, with_z ? z.data() : nullptr, 0.7F, n, round, out);
    });
  }
  bool SwiGlu() {
    const int64_t n = cases_.Upto(100);
    Aligned<float> up = cases_.Values(n);
    const float limit = cases_.Upto(2) == 1 ? 2.0F : 0.0F;
    const bool round = cases_.Upto(2) == 1;
    return SameInPlace(n, [&](const KernelTable& t, float* a) { t.swiglu(a, up.data(), n, limit, 0.4F, round); });
  }
  bool AddRow() {
    const int64_t n = cases_.Upto(100);
    Aligned<float> x = cases_.Values(n);
    return SameInPlace(n, [&](const KernelTable& t, float* y) { t.add_row(x.data(), n, y); });
  }
  bool Pool() {
    const int64_t n = cases_.Upto(40);
    const int64_t width = cases_.Upto(40);
    Aligned<float> a = cases_.Fill<float>(n * width, [&] { return cases_.Moderate(); });
    Aligned<float> g = cases_.Fill<float>(n * width, [&] { return cases_.Moderate(); });
    std::vector<const float*> a_rows;
    std::vector<const float*> g_rows;
    for (int64_t i = 0; i < n; ++i) {
      a_rows.push_back(a.data() + i * width);
      g_rows.push_back(g.data() + i * width);
    }
    return SameResult<float>(
        width, [&](const KernelTable& t, float* out) { t.pool(a_rows.data(), g_rows.data(), n, width, out); });
  }
  bool Bf16Rows() {
    const int64_t n = cases_.Upto(100);
    return SameInPlace(n, [&](const KernelTable& t, float* x) {
      std::vector<uint16_t> words(static_cast<size_t>(n));
      t.encode_bf16(x, n, words.data());
      t.decode_bf16(words.data(), n, x);
    });
  }

  const KernelTable& table_;
  const KernelTable portable_ = PortableTable();
  HardCases cases_;
};

}  // namespace

std::string SelfTest(const KernelTable& table, int64_t n_cases, uint64_t seed) {
  return Comparison(table, seed).Run(n_cases);
}

}  // namespace longshelf::engine
