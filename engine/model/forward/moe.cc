#include "moe.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "exp.h"
#include "expert_rows.h"

namespace longshelf::engine {
namespace {

float SqrtSoftplus(float x) { return std::sqrt(x > 20.0F ? x : std::log1p(ExpFp32(x))); }

// h = silu(min(a, limit)) * clamp(b, -limit, limit) * weight, rounded; limit 0 = no clamp.
void SwiGlu(const Ops& ops, float* a, const float* b, int64_t n, float limit, float weight) {
  for (int64_t i = 0; i < n; ++i) {
    const float gate = limit > 0.0F ? std::min(a[i], limit) : a[i];
    const float up = limit > 0.0F ? std::clamp(b[i], -limit, limit) : b[i];
    a[i] = ops.Round(weight * (Silu(gate) * up));
  }
}

// The top_k largest of s + bias, largest first, ties to the lower id.
std::vector<uint32_t> SelectExperts(const float* s, std::span<const float> bias, int64_t n_experts, int64_t top_k) {
  std::vector<float> biased(s, s + n_experts);
  for (size_t e = 0; e < bias.size(); ++e) biased[e] += bias[e];
  std::vector<uint32_t> order(static_cast<size_t>(n_experts));
  std::iota(order.begin(), order.end(), 0U);
  std::partial_sort(order.begin(), order.begin() + top_k, order.end(),
                    [&](uint32_t a, uint32_t b) { return biased[a] != biased[b] ? biased[a] > biased[b] : a < b; });
  order.resize(static_cast<size_t>(top_k));
  return order;
}

// Sum of the chosen scores in order of choice: four interleaved chains over whole fours, the rest on the first chain,
// then the chains in order.
float SumOfChosen(const float* s, const std::vector<uint32_t>& chosen) {
  float chains[4] = {};
  const size_t n_fours = chosen.size() / 4 * 4;
  for (size_t i = 0; i < chosen.size(); ++i) chains[i < n_fours ? i % 4 : 0] += s[chosen[i]];
  return ((chains[0] + chains[1]) + chains[2]) + chains[3];
}

}  // namespace

absl::Status Moe::Run(Ops& ops, ExpertTransport& transport, const float* x, std::span<const uint32_t> tokens, int64_t n,
                      float* y, const Tapper& taps) const {
  const int64_t width = ops.config().hidden_size;
  std::vector<ExpertAssignment> assignments;
  Route(ops, x, tokens, n, assignments, taps);

  const ExpertRowFormat row_format = DispatchRowFormat(ops, weights_.experts[0].w1);
  const size_t row_bytes = ExpertRowBytes(row_format, width);
  std::vector<std::byte> rows(static_cast<size_t>(n) * row_bytes);
  ops.pool().Run(n, [&](int64_t i, int) {
    EncodeExpertRow(row_format, x + i * width, width, rows.data() + static_cast<size_t>(i) * row_bytes);
  });
  std::vector<DispatchedRow> received;
  if (absl::Status s = transport.Dispatch(rows, row_bytes, assignments, received); !s.ok()) return s;

  const ExpertRowFormat result_format = ResultRowFormat(ops);
  const size_t result_bytes = ExpertRowBytes(result_format, width);
  std::vector<std::byte> results(received.size() * result_bytes);
  RunExperts(ops, received, results.data());
  std::vector<std::byte> combined(assignments.size() * result_bytes);
  if (absl::Status s = transport.Combine(results, result_bytes, combined); !s.ok()) return s;

  std::vector<float> shared(static_cast<size_t>(n * width));
  RunShared(ops, x, n, shared.data());
  taps.Tap("ffn.shared_experts", shared, width);
  const int64_t top_k = ops.config().n_experts_per_token;
  ops.pool().Run(n, [&](int64_t i, int) {
    float* out = y + i * width;
    std::fill(out, out + width, 0.0F);
    std::vector<float> row(static_cast<size_t>(width));
    // Assignments of a token are in ascending expert id: the one order of this sum.
    for (int64_t k = 0; k < top_k; ++k) {
      DecodeExpertRow(result_format, combined.data() + static_cast<size_t>(i * top_k + k) * result_bytes, width,
                      row.data());
      for (int64_t c = 0; c < width; ++c) out[c] += row[static_cast<size_t>(c)];
    }
    for (int64_t c = 0; c < width; ++c) out[c] = ops.Round(out[c] + shared[static_cast<size_t>(i * width + c)]);
  });
  return absl::OkStatus();
}

void Moe::Route(Ops& ops, const float* x, std::span<const uint32_t> tokens, int64_t n,
                std::vector<ExpertAssignment>& assignments, const Tapper& taps) const {
  const ModelConfig& config = ops.config();
  const int64_t n_experts = config.n_routed_experts;
  const int64_t top_k = config.n_experts_per_token;
  std::vector<float> scores(static_cast<size_t>(n * n_experts));
  ops.MatMul(weights_.gate, x, n, scores.data());
  assignments.resize(static_cast<size_t>(n * top_k));
  ops.pool().Run(n, [&](int64_t i, int) {
    float* s = scores.data() + i * n_experts;
    for (int64_t e = 0; e < n_experts; ++e) s[e] = SqrtSoftplus(s[e]);
    std::vector<uint32_t> selected;
    if (hash_routed_) {
      const int64_t* ids = weights_.tid2eid.data() + static_cast<int64_t>(tokens[static_cast<size_t>(i)]) * top_k;
      selected.assign(ids, ids + top_k);
    } else {
      selected = SelectExperts(s, weights_.bias, n_experts, top_k);
    }
    const float sum = SumOfChosen(s, selected);
    std::sort(selected.begin(), selected.end());
    for (int64_t k = 0; k < top_k; ++k) {
      const uint32_t e = selected[static_cast<size_t>(k)];
      assignments[static_cast<size_t>(i * top_k + k)] = {static_cast<uint32_t>(i), e,
                                                         s[e] / sum * static_cast<float>(config.routed_scaling_factor)};
    }
  });
  if (!taps.active()) return;
  std::vector<float> weights;
  std::vector<float> ids;
  for (const ExpertAssignment& a : assignments) {
    weights.push_back(a.weight);
    ids.push_back(static_cast<float>(a.expert));
  }
  taps.Tap("ffn.gate.weights", weights, top_k);
  taps.Tap("ffn.gate.indices", ids, top_k);
}

void Moe::RunExperts(Ops& ops, const std::vector<DispatchedRow>& rows, std::byte* results) const {
  const ModelConfig& config = ops.config();
  const int64_t width = config.hidden_size;
  const int64_t inner = config.moe_intermediate_size;
  const ExpertRowFormat row_format = DispatchRowFormat(ops, weights_.experts[0].w1);
  const ExpertRowFormat result_format = ResultRowFormat(ops);
  const size_t result_bytes = ExpertRowBytes(result_format, width);
  const auto limit = static_cast<float>(config.swiglu_limit);

  std::vector<size_t> begins;  // rows of one expert are adjacent
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i == 0 || rows[i].expert != rows[i - 1].expert) begins.push_back(i);
  }
  begins.push_back(rows.size());
  ops.pool().Run(static_cast<int64_t>(begins.size()) - 1, [&](int64_t group, int thread) {
    const size_t begin = begins[static_cast<size_t>(group)];
    const auto m = static_cast<int64_t>(begins[static_cast<size_t>(group) + 1] - begin);
    const ExpertWeights& expert = weights_.experts[rows[begin].expert];
    std::vector<float> x(static_cast<size_t>(m * width));
    for (int64_t i = 0; i < m; ++i) {
      DecodeExpertRow(row_format, rows[begin + static_cast<size_t>(i)].row, width, x.data() + i * width);
    }
    std::vector<float> a(static_cast<size_t>(m * inner));
    std::vector<float> b(static_cast<size_t>(m * inner));
    ops.MatMulSerial(expert.w1, 0, inner, x.data(), m, width, a.data(), inner, thread);
    ops.MatMulSerial(expert.w3, 0, inner, x.data(), m, width, b.data(), inner, thread);
    ops.Round(a);
    ops.Round(b);
    for (int64_t i = 0; i < m; ++i) {
      float* h = a.data() + i * inner;
      SwiGlu(ops, h, b.data() + i * inner, inner, limit, rows[begin + static_cast<size_t>(i)].weight);
      ops.QuantizeInput(expert.w2, h, 1, inner);
    }
    std::vector<float> out(static_cast<size_t>(m * width));
    ops.MatMulSerial(expert.w2, 0, width, a.data(), m, inner, out.data(), width, thread);
    for (int64_t i = 0; i < m; ++i) {
      EncodeExpertRow(result_format, out.data() + i * width, width,
                      results + (begin + static_cast<size_t>(i)) * result_bytes);
    }
  });
}

void Moe::RunShared(Ops& ops, const float* x, int64_t n, float* out) const {
  const ModelConfig& config = ops.config();
  const int64_t inner = weights_.shared.w1.rows;
  const float limit = config.clamp_shared_expert ? static_cast<float>(config.swiglu_limit) : 0.0F;
  std::vector<float> a(static_cast<size_t>(n * inner));
  std::vector<float> b(static_cast<size_t>(n * inner));
  ops.Linear(weights_.shared.w1, x, n, a.data());
  ops.Linear(weights_.shared.w3, x, n, b.data());
  ops.pool().Run(n,
                 [&](int64_t i, int) { SwiGlu(ops, a.data() + i * inner, b.data() + i * inner, inner, limit, 1.0F); });
  ops.Linear(weights_.shared.w2, a.data(), n, out);
}

}  // namespace longshelf::engine
