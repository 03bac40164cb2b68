#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "checks.h"
#include "common/status.h"
#include "engine/model/primitives.h"

namespace longshelf::engine {
namespace {

namespace ops = primitives;

template <typename T>
void CheckEqual(const std::string& name, const std::vector<T>& ours, const std::vector<T>& reference, Report& report) {
  size_t n_equal = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    // As bits: a NaN equals itself and the two zeros differ.
    if (std::memcmp(&ours[i], &reference[i], sizeof(T)) == 0) ++n_equal;
  }
  report.Check(name, ours.size() == reference.size() && n_equal == reference.size(),
               absl::StrCat(n_equal, " of ", reference.size(), " bit-equal (limit all)"));
}

// Distance of two BF16 values in representable steps.
int64_t Bf16Steps(float a, float b) {
  const auto order = [](float v) -> int64_t {
    const uint16_t bits = ops::EncodeBf16(v);
    return (bits & 0x8000) != 0 ? -static_cast<int64_t>(bits & 0x7FFF) : static_cast<int64_t>(bits);
  };
  return std::abs(order(a) - order(b));
}

void CheckUlp(const std::string& name, const std::vector<float>& ours, const std::vector<float>& reference,
              Report& report) {
  int64_t worst = 0;
  int64_t n_equal = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const int64_t steps = Bf16Steps(ours[i], reference[i]);
    worst = std::max(worst, steps);
    if (steps == 0) ++n_equal;
  }
  report.Check(name, worst <= 1,
               absl::StrCat("max ", worst, " BF16 ulp (limit 1), bit-equal ",
                            ShareOf(n_equal, static_cast<int64_t>(reference.size()))));
}

void CheckClose(const std::string& name, const std::vector<float>& ours, const std::vector<float>& reference,
                double limit, Report& report) {
  double worst = 0.0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double d = std::fabs(static_cast<double>(ours[i]) - static_cast<double>(reference[i]));
    worst = std::isfinite(d) ? std::max(worst, d) : HUGE_VAL;
  }
  report.Check(name, worst <= limit, absl::StrCat("max abs ", Figure(worst), " (limit ", Figure(limit), ")"));
}

absl::Status CheckFormats(const Vectors& vectors, Report& report, Dump& dump) {
  ASSIGN_OR_RETURN(const std::vector<float> e4m3_in, vectors.Floats("e4m3.in", {-1}));
  const auto n4m3 = static_cast<int64_t>(e4m3_in.size());
  ASSIGN_OR_RETURN(const std::vector<uint8_t> e4m3_code, vectors.Bytes("e4m3.code", {n4m3}));
  std::vector<uint8_t> codes;
  for (const float v : e4m3_in) codes.push_back(ops::EncodeE4m3(v));
  dump.AddBytes("e4m3.code", codes, {n4m3});
  CheckEqual("e4m3.code", codes, e4m3_code, report);

  ASSIGN_OR_RETURN(const std::vector<float> e2m1_in, vectors.Floats("e2m1.in", {-1}));
  const auto n2m1 = static_cast<int64_t>(e2m1_in.size());
  ASSIGN_OR_RETURN(const std::vector<uint8_t> e2m1_code, vectors.Bytes("e2m1.code", {n2m1}));
  codes.clear();
  for (const float v : e2m1_in) codes.push_back(ops::EncodeE2m1(v));
  dump.AddBytes("e2m1.code", codes, {n2m1});
  CheckEqual("e2m1.code", codes, e2m1_code, report);

  ASSIGN_OR_RETURN(const std::vector<float> e4m3_decode, vectors.Floats("e4m3.decode", {256}));
  std::vector<float> values;
  for (int i = 0; i < 256; ++i) values.push_back(ops::DecodeE4m3(static_cast<uint8_t>(i)));
  dump.AddFloats("e4m3.decode", values, {256});
  size_t n_equal = 0;
  for (size_t i = 0; i < 256; ++i) {
    if (values[i] == e4m3_decode[i] || (std::isnan(values[i]) && std::isnan(e4m3_decode[i]))) ++n_equal;
  }
  report.Check("e4m3.decode", n_equal == 256, absl::StrCat(n_equal, " of 256 equal (limit all)"));

  ASSIGN_OR_RETURN(const std::vector<float> e8m0_decode, vectors.Floats("e8m0.decode", {255}));
  values.clear();
  for (int i = 0; i < 255; ++i) values.push_back(ops::DecodeE8m0(static_cast<uint8_t>(i)));
  dump.AddFloats("e8m0.decode", values, {255});
  CheckEqual("e8m0.decode", values, e8m0_decode, report);
  return absl::OkStatus();
}

absl::Status CheckQuantizers(const Vectors& vectors, Report& report, Dump& dump) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> shape, vectors.Shape("q8.in"));
  ASSIGN_OR_RETURN(const std::vector<float> in, vectors.Floats("q8.in", {-1, -1}));
  const int64_t rows = shape[0];
  const int64_t cols = shape[1];
  for (const int64_t block : {int64_t{128}, int64_t{64}, int64_t{0}}) {
    const std::string prefix = block == 0 ? std::string("q4.") : absl::StrCat("q8.", block, ".");
    std::vector<uint8_t> codes;
    std::vector<uint8_t> scales;
    std::vector<float> values;
    for (int64_t r = 0; r < rows; ++r) {
      const std::span<const float> x = std::span(in).subspan(static_cast<size_t>(r * cols), static_cast<size_t>(cols));
      const ops::QuantizedRow q = block == 0 ? ops::QuantizeE2m1(x) : ops::QuantizeE4m3(x, block);
      codes.insert(codes.end(), q.codes.begin(), q.codes.end());
      scales.insert(scales.end(), q.scales.begin(), q.scales.end());
      values.insert(values.end(), q.values.begin(), q.values.end());
    }
    ASSIGN_OR_RETURN(const std::vector<float> value_reference, vectors.Floats(prefix + "value", {rows, cols}));
    dump.AddBf16(prefix + "value", values, {rows, cols});
    CheckEqual(prefix + "value", values, value_reference, report);
    if (block == 0) continue;
    ASSIGN_OR_RETURN(const std::vector<uint8_t> code_reference, vectors.Bytes(prefix + "code", {rows, cols}));
    dump.AddBytes(prefix + "code", codes, {rows, cols});
    CheckEqual(prefix + "code", codes, code_reference, report);
    ASSIGN_OR_RETURN(const std::vector<uint8_t> scale_reference, vectors.Bytes(prefix + "scale", {rows, cols / block}));
    dump.AddBytes(prefix + "scale", scales, {rows, cols / block});
    CheckEqual(prefix + "scale", scales, scale_reference, report);
  }
  ASSIGN_OR_RETURN(const std::vector<float> hadamard_in, vectors.Floats("hadamard.in", {-1, 128}));
  const int64_t n = static_cast<int64_t>(hadamard_in.size()) / 128;
  ASSIGN_OR_RETURN(const std::vector<float> hadamard_out, vectors.Floats("hadamard.out", {n, 128}));
  std::vector<float> ours;
  for (int64_t i = 0; i < n; ++i) {
    const std::vector<float> y = ops::Hadamard(std::span(hadamard_in).subspan(static_cast<size_t>(i) * 128, 128));
    ours.insert(ours.end(), y.begin(), y.end());
  }
  dump.AddBf16("hadamard.out", ours, {n, 128});
  CheckUlp("hadamard.out", ours, hadamard_out, report);
  return absl::OkStatus();
}

// The file's RoPE tables are of the official head: 64 rotated channels and the published constants.
absl::Status CheckRope(const Vectors& vectors, Report& report, Dump& dump) {
  ModelConfig config;
  config.rope_dim = 64;
  ASSIGN_OR_RETURN(const std::vector<int64_t> positions, vectors.Integers("rope.positions", {-1}));
  const auto n = static_cast<int64_t>(positions.size());
  for (const bool compressed : {false, true}) {
    const std::string prefix = compressed ? "rope.compressed." : "rope.sliding.";
    ASSIGN_OR_RETURN(const std::vector<float> cos_reference, vectors.Floats(prefix + "cos", {n, 32}));
    ASSIGN_OR_RETURN(const std::vector<float> sin_reference, vectors.Floats(prefix + "sin", {n, 32}));
    std::vector<float> cos(cos_reference.size());
    std::vector<float> sin(sin_reference.size());
    for (size_t i = 0; i < positions.size(); ++i) {
      ops::RopeAngles(config, compressed, positions[i], std::span(cos).subspan(i * 32, 32),
                      std::span(sin).subspan(i * 32, 32));
    }
    dump.AddFloats(prefix + "cos", cos, {n, 32});
    dump.AddFloats(prefix + "sin", sin, {n, 32});
    CheckClose(prefix + "cos", cos, cos_reference, 6e-8, report);
    CheckClose(prefix + "sin", sin, sin_reference, 6e-8, report);
  }
  return absl::OkStatus();
}

absl::Status CheckSinkhorn(const Vectors& vectors, Report& report, Dump& dump) {
  const ModelConfig config;
  ASSIGN_OR_RETURN(const std::vector<float> mixes, vectors.Floats("sinkhorn.mixes", {-1, 24}));
  const int64_t n = static_cast<int64_t>(mixes.size()) / 24;
  ASSIGN_OR_RETURN(const std::vector<float> scale, vectors.Floats("sinkhorn.scale", {3}));
  ASSIGN_OR_RETURN(const std::vector<float> base, vectors.Floats("sinkhorn.base", {24}));
  ASSIGN_OR_RETURN(const std::vector<float> pre_reference, vectors.Floats("sinkhorn.pre", {n, 4}));
  ASSIGN_OR_RETURN(const std::vector<float> post_reference, vectors.Floats("sinkhorn.post", {n, 4}));
  ASSIGN_OR_RETURN(const std::vector<float> comb_reference, vectors.Floats("sinkhorn.comb", {n, 4, 4}));
  std::vector<float> pre(pre_reference.size());
  std::vector<float> post(post_reference.size());
  std::vector<float> comb(comb_reference.size());
  for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
    ops::SplitSinkhorn(config, std::span(mixes).subspan(i * 24, 24), scale, base, std::span(pre).subspan(i * 4, 4),
                       std::span(post).subspan(i * 4, 4), std::span(comb).subspan(i * 16, 16));
  }
  dump.AddFloats("sinkhorn.pre", pre, {n, 4});
  dump.AddFloats("sinkhorn.post", post, {n, 4});
  dump.AddFloats("sinkhorn.comb", comb, {n, 4, 4});
  constexpr double kLimit = 2e-6;  // a dozen fp32 roundings on values up to 2
  CheckClose("sinkhorn.pre", pre, pre_reference, kLimit, report);
  CheckClose("sinkhorn.post", post, post_reference, kLimit, report);
  CheckClose("sinkhorn.comb", comb, comb_reference, kLimit, report);
  return absl::OkStatus();
}

absl::Status CheckGemm(const Vectors& vectors, const std::string& kernels, Report& report, Dump& dump) {
  ASSIGN_OR_RETURN(const std::vector<float> x, vectors.Floats("gemm.x", {-1, 256}));
  const int64_t n = static_cast<int64_t>(x.size()) / 256;
  for (const bool fp8 : {true, false}) {
    const std::string digit = fp8 ? "8" : "4";
    ASSIGN_OR_RETURN(const std::vector<int64_t> shape, vectors.Shape("gemm.w" + digit));
    const int64_t rows = shape.empty() ? 0 : shape[0];
    ASSIGN_OR_RETURN(const std::vector<uint8_t> w, vectors.Bytes("gemm.w" + digit, {rows, fp8 ? 256 : 128}));
    const int64_t scale_rows = fp8 ? (rows + 127) / 128 : rows;
    const int64_t scale_cols = fp8 ? 2 : 8;
    ASSIGN_OR_RETURN(const std::vector<uint8_t> s, vectors.Bytes("gemm.s" + digit, {scale_rows, scale_cols}));
    ASSIGN_OR_RETURN(const std::vector<float> reference, vectors.Floats("gemm.y" + digit, {n, rows}));
    const Matrix matrix{fp8 ? Matrix::Format::kFp8 : Matrix::Format::kFp4, rows, 256, w.data(), s.data(), scale_cols};
    const std::vector<float> y = ops::Linear(matrix, x, n, kernels);
    dump.AddBf16("gemm.y" + digit, y, {n, rows});
    CheckUlp("gemm.y" + digit, y, reference, report);
  }
  return absl::OkStatus();
}

absl::Status CheckAttention(const Vectors& vectors, const std::string& kernels, Report& report, Dump& dump) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> shape, vectors.Shape("attn.q"));
  ASSIGN_OR_RETURN(const std::vector<float> q, vectors.Floats("attn.q", {-1, -1, -1}));
  const int64_t n = shape[0];
  const int64_t n_heads = shape[1];
  const int64_t width = shape[2];
  ASSIGN_OR_RETURN(const std::vector<float> kv, vectors.Floats("attn.kv", {-1, width}));
  ASSIGN_OR_RETURN(const std::vector<int64_t> index_shape, vectors.Shape("attn.indices"));
  ASSIGN_OR_RETURN(const std::vector<int64_t> indices, vectors.Integers("attn.indices", {n, -1}));
  ASSIGN_OR_RETURN(const std::vector<float> sink, vectors.Floats("attn.sink", {n_heads}));
  ASSIGN_OR_RETURN(const std::vector<float> reference, vectors.Floats("attn.out", {n, n_heads, width}));
  std::vector<float> ours;
  for (int64_t i = 0; i < n; ++i) {
    const std::span<const int64_t> slots =
        std::span(indices).subspan(static_cast<size_t>(i * index_shape[1]), static_cast<size_t>(index_shape[1]));
    const int64_t last = *std::max_element(slots.begin(), slots.end());
    if (last >= static_cast<int64_t>(kv.size()) / width) {
      return absl::InvalidArgumentError(absl::StrCat("attn.indices names row ", last, ", past the end of attn.kv"));
    }
    const auto row = static_cast<size_t>(n_heads * width);
    const std::vector<float> out =
        ops::Attend(std::span(q).subspan(static_cast<size_t>(i) * row, row), n_heads, width, kv, slots, sink, kernels);
    ours.insert(ours.end(), out.begin(), out.end());
  }
  dump.AddBf16("attn.out", ours, {n, n_heads, width});
  CheckUlp("attn.out", ours, reference, report);
  return absl::OkStatus();
}

}  // namespace

absl::Status VerifyKernels(const Vectors& vectors, const std::string& kernels, Report& report, Dump& dump) {
  RETURN_IF_ERROR(CheckFormats(vectors, report, dump));
  RETURN_IF_ERROR(CheckQuantizers(vectors, report, dump));
  RETURN_IF_ERROR(CheckRope(vectors, report, dump));
  RETURN_IF_ERROR(CheckSinkhorn(vectors, report, dump));
  RETURN_IF_ERROR(CheckGemm(vectors, kernels, report, dump));
  return CheckAttention(vectors, kernels, report, dump);
}

}  // namespace longshelf::engine
