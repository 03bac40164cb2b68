#include "moe.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "common/status.h"
#include "elementary.h"

namespace longshelf::engine {
namespace {

// Inner columns, and output columns, of one work item: whole groups of the input quantisation of w2.
constexpr int64_t kItemColumns = kLinearQuantBlock;
// Rows of an expert that an item takes at a time.
constexpr int64_t kItemRows = 64;
// More experts per token are refused with the configuration.
constexpr size_t kMaxPerToken = 64;

int64_t CountItems(int64_t columns) { return (columns + kItemColumns - 1) / kItemColumns; }

}  // namespace

int64_t ExpertScratchBytes(const ModelConfig& config) {
  return 4 * std::max(2 * kItemRows * kItemColumns, config.hidden_size);
}

absl::Status Moe::Run(Ops& ops, ExpertTransport& transport, ExpertExchange& exchange, const SublayerInput& input,
                      std::span<const uint32_t> tokens, float* y, const Tapper& taps) {
  const ModelConfig& config = ops.config();
  const int64_t n = input.n;
  const int64_t width = config.hidden_size;
  const int64_t top_k = config.n_experts_per_token;
  scores_ = ops.memory().Take<float>(n * config.n_routed_experts);
  const std::array<DotJob, 1> gate = {ops.Dot(weights_.gate, input.plain, n, scores_, false)};
  ops.Run(gate);

  const ExpertRowFormat row_format = DispatchRowFormat(ops, weights_.experts[0].w1);
  const size_t row_bytes = ExpertRowBytes(row_format, width);
  std::byte* rows = transport.RowMemory(static_cast<size_t>(n) * row_bytes);
  if (rows == nullptr) rows = ops.memory().Take<std::byte>(n * static_cast<int64_t>(row_bytes));
  exchange.assignments.resize(static_cast<size_t>(n * top_k));
  ops.pool().Run(n, [&](int64_t i, int) {
    Route(ops, tokens, i, exchange.assignments.data() + i * top_k);
    EncodeExpertRow(ops.kernels(), row_format, input.x + i * width, width, rows + i * static_cast<int64_t>(row_bytes));
  });
  TapRouting(taps, exchange.assignments, top_k);
  RETURN_IF_ERROR(
      transport.BeginDispatch(layer_, {rows, static_cast<size_t>(n) * row_bytes}, row_bytes, exchange.assignments));
  float* shared_out = ops.memory().Take<float>(n * width);
  // While rows travel, the shared expert; with nowhere to travel to, it and the others share the pool's rounds.
  const bool shared_first = transport.size() > 1 && n > 0;
  if (shared_first) {
    RunHidden(ops, input, {}, {}, /*with_shared=*/true);
    RunOutput(ops, {}, {}, n, shared_out);
  }
  RETURN_IF_ERROR(transport.FinishDispatch(exchange.received));

  const std::span<const Group> groups = GroupByExpert(ops, exchange.received);
  // Before the shared expert's products, when these are the first ones below.
  if (exchange.prefetch.IsDue()) {
    for (const Group& group : groups) exchange.prefetch.Ask(*group.expert);
  }
  RunHidden(ops, input, exchange.received, groups, !shared_first);
  const auto n_received = static_cast<int64_t>(exchange.received.size());
  const auto result_bytes = static_cast<int64_t>(ExpertRowBytes(ResultRowFormat(ops), width));
  auto* results = ops.memory().Take<std::byte>(n_received * result_bytes);
  RETURN_IF_ERROR(transport.PlaceResults({results, static_cast<size_t>(n_received * result_bytes)},
                                         static_cast<size_t>(result_bytes), exchange.received));
  RunOutput(ops, groups, exchange.received, shared_first ? 0 : n, shared_out);
  taps.Tap("ffn.shared_experts", {shared_out, static_cast<size_t>(n * width)}, width);

  RETURN_IF_ERROR(transport.BeginCombine());
  RETURN_IF_ERROR(transport.FinishCombine(exchange.combined));
  AddResults(ops, n, exchange.combined, shared_out, y);
  return absl::OkStatus();
}

// Rows of one expert are adjacent.
std::span<const Moe::Group> Moe::GroupByExpert(Ops& ops, const std::vector<DispatchedRow>& received) const {
  const auto n_received = static_cast<int64_t>(received.size());
  auto* groups = ops.memory().Take<Group>(n_received);
  size_t n_groups = 0;
  for (int64_t i = 0; i < n_received; ++i) {
    const ExpertWeights* expert = &weights_.experts[received[static_cast<size_t>(i)].expert];
    if (n_groups == 0 || groups[n_groups - 1].expert != expert) groups[n_groups++] = {i, 0, expert};
    ++groups[n_groups - 1].n;
  }
  return {groups, n_groups};
}

// y = the experts' results of a token in ascending expert id, which is the order of its assignments, then the shared
// expert's: the one order of this sum.
void Moe::AddResults(Ops& ops, int64_t n, std::span<const std::byte* const> combined, const float* shared,
                     float* y) const {
  const int64_t width = ops.config().hidden_size;
  const int64_t top_k = ops.config().n_experts_per_token;
  const ExpertRowFormat format = ResultRowFormat(ops);
  ops.pool().Run(n, [&](int64_t i, int thread) {
    float* out = y + i * width;
    auto* row = reinterpret_cast<float*>(ops.scratch(thread));
    for (int64_t k = 0; k < top_k; ++k) {
      const std::byte* result = combined[static_cast<size_t>(i * top_k + k)];
      DecodeExpertRow(ops.kernels(), format, result, width, k == 0 ? out : row);
      if (k > 0) ops.kernels().add_row(row, width, out);
    }
    ops.kernels().add_row(shared + i * width, width, out);
    ops.Round(out, width);
  });
}

// Scores of one token to its assignments, ascending expert.
void Moe::Route(Ops& ops, std::span<const uint32_t> tokens, int64_t i, ExpertAssignment* assignments) const {
  const ModelConfig& config = ops.config();
  const int64_t n_experts = config.n_routed_experts;
  const auto top_k = static_cast<size_t>(config.n_experts_per_token);
  float* s = scores_ + i * n_experts;
  for (int64_t e = 0; e < n_experts; ++e) s[e] = std::sqrt(Softplus(s[e]));
  std::array<uint32_t, kMaxPerToken> chosen;
  if (hash_routed_) {
    const int64_t* ids = weights_.tid2eid.data() + tokens[static_cast<size_t>(i)] * top_k;
    std::copy_n(ids, top_k, chosen.begin());
  } else {
    // The largest of s + bias, largest first; ties to the lower id.
    const auto biased = [&](uint32_t e) { return weights_.bias.empty() ? s[e] : s[e] + weights_.bias[e]; };
    size_t n = 0;
    for (uint32_t e = 0; e < static_cast<uint32_t>(n_experts); ++e) {
      if (n == top_k && !(biased(e) > biased(chosen[n - 1]))) continue;
      size_t at = n < top_k ? n++ : n - 1;
      for (; at > 0 && biased(e) > biased(chosen[at - 1]); --at) chosen[at] = chosen[at - 1];
      chosen[at] = e;
    }
  }
  float sum = 0.0F;
  for (size_t k = 0; k < top_k; ++k) sum += s[chosen[k]];
  std::sort(chosen.begin(), chosen.begin() + top_k);
  for (size_t k = 0; k < top_k; ++k) {
    const uint32_t e = chosen[k];
    assignments[k] = {static_cast<uint32_t>(i), e, s[e] / sum * static_cast<float>(config.routed_scaling_factor)};
  }
}

void Moe::TapRouting(const Tapper& taps, const std::vector<ExpertAssignment>& assignments, int64_t top_k) const {
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

// hidden = swiglu(w1 x, w3 x), weighted, quantised: an item is a stretch of one expert's inner columns. The shared
// expert's come first: its weights are always in use and so in memory, and meanwhile absent ones of others arrive.
void Moe::RunHidden(Ops& ops, const SublayerInput& input, std::span<const DispatchedRow> received,
                    std::span<const Group> groups, bool with_shared) {
  const ModelConfig& config = ops.config();
  const int64_t width = config.hidden_size;
  const int64_t inner = config.moe_intermediate_size;
  const ExpertWeights& shared = weights_.shared;
  const int64_t shared_inner = shared.w1.rows;
  const ExpertRowFormat row_format = DispatchRowFormat(ops, weights_.experts[0].w1);
  const auto limit = static_cast<float>(config.swiglu_limit);
  const auto n_received = static_cast<int64_t>(received.size());
  if (with_shared) shared_hidden_ = ops.TakeRows(input.n, shared_inner);
  rows_ = ops.TakeRows(n_received, width);
  hidden_ = ops.TakeRows(n_received, inner);
  ops.pool().Run(n_received, [&](int64_t i, int thread) {
    auto* row = reinterpret_cast<float*>(ops.scratch(thread));
    DecodeExpertRow(ops.kernels(), row_format, received[static_cast<size_t>(i)].row, width, row);
    ops.Pack(row, width, rows_, i);
  });
  const int64_t n_shared_items = with_shared && input.n > 0 ? CountItems(shared_inner) : 0;
  const int64_t n_items = CountItems(inner);
  ops.pool().Run(n_shared_items + static_cast<int64_t>(groups.size()) * n_items, [&](int64_t item, int thread) {
    if (item < n_shared_items) {
      const int64_t begin = item * kItemColumns;
      const HiddenRows rows = {&shared,
                               input.For(shared.w1),
                               input.For(shared.w3),
                               input.n,
                               shared_hidden_,
                               nullptr,
                               config.clamp_shared_expert ? limit : 0.0F};
      return RunHiddenPart(ops, rows, begin, std::min(kItemColumns, shared_inner - begin), thread);
    }
    item -= n_shared_items;
    const Group& group = groups[static_cast<size_t>(item / n_items)];
    const int64_t begin = item % n_items * kItemColumns;
    const OperandRows x = rows_.From(group.begin);
    const HiddenRows rows = {
        group.expert, x, x, group.n, hidden_.From(group.begin), &received[static_cast<size_t>(group.begin)], limit};
    RunHiddenPart(ops, rows, begin, std::min(kItemColumns, inner - begin), thread);
  });
}

// Hidden columns [begin, begin + columns) of all rows.
void Moe::RunHiddenPart(Ops& ops, const HiddenRows& rows, int64_t begin, int64_t columns, int thread) const {
  const bool quantize = ops.native() && IsQuantized(rows.expert->w2);
  auto* a = reinterpret_cast<float*>(ops.scratch(thread));
  float* b = a + kItemRows * kItemColumns;
  for (int64_t first = 0; first < rows.n; first += kItemRows) {
    const int64_t n = std::min(kItemRows, rows.n - first);
    ops.RunSerial(ops.DotPart(rows.expert->w1, begin, columns, rows.x1.From(first), n, a, columns, true), thread);
    ops.RunSerial(ops.DotPart(rows.expert->w3, begin, columns, rows.x3.From(first), n, b, columns, true), thread);
    for (int64_t i = 0; i < n; ++i) {
      float* h = a + i * columns;
      const float weight = rows.received == nullptr ? 1.0F : rows.received[first + i].weight;
      ops.kernels().swiglu(h, b + i * columns, columns, rows.limit, weight, ops.native());
      if (quantize) ops.kernels().quantize_row(h, columns, kLinearQuantBlock);
      ops.kernels().pack(h, columns, rows.hidden.form,
                         rows.hidden.row(first + i) + OperandBytes(rows.hidden.form, begin));
    }
  }
}

// w2 hidden: an item is a stretch of one expert's output columns; the shared expert's come last. An item writes its
// results where their home shards read them, so that rows leave as soon as they are known.
void Moe::RunOutput(Ops& ops, std::span<const Group> groups, std::span<const DispatchedRow> received, int64_t n,
                    float* shared) {
  const int64_t width = ops.config().hidden_size;
  const int64_t n_items = CountItems(width);
  const auto n_groups = static_cast<int64_t>(groups.size());
  ops.pool().Run((n_groups + (n > 0 ? 1 : 0)) * n_items, [&](int64_t item, int thread) {
    const int64_t begin = item % n_items * kItemColumns;
    const int64_t columns = std::min(kItemColumns, width - begin);
    if (item / n_items == n_groups) {
      return ops.RunSerial(
          ops.DotPart(weights_.shared.w2, begin, columns, shared_hidden_, n, shared + begin, width, true), thread);
    }
    const Group& group = groups[static_cast<size_t>(item / n_items)];
    auto* out = reinterpret_cast<float*>(ops.scratch(thread));
    for (int64_t first = group.begin; first < group.begin + group.n; first += kItemRows) {
      const int64_t rows = std::min(kItemRows, group.begin + group.n - first);
      ops.RunSerial(ops.DotPart(group.expert->w2, begin, columns, hidden_.From(first), rows, out, columns, true),
                    thread);
      for (int64_t i = 0; i < rows; ++i) {
        StorePart(ops, received[static_cast<size_t>(first + i)], out + i * columns, begin, columns);
      }
    }
    FenceResults();
  });
}

// Columns [begin, begin + columns) of a result.
void Moe::StorePart(Ops& ops, const DispatchedRow& row, const float* part, int64_t begin, int64_t columns) {
  const ExpertRowFormat format = ResultRowFormat(ops);
  if (row.store == RowStore::kPlain) return EncodeResultPart(ops.kernels(), format, part, begin, columns, row.result);
  alignas(64) std::array<std::byte, kItemColumns * sizeof(float)> bytes;
  EncodeResultPart(ops.kernels(), format, part, 0, columns, bytes.data());
  StoreResult(row, ExpertRowBytes(format, begin), std::span(bytes).first(ExpertRowBytes(format, columns)));
}

}  // namespace longshelf::engine
