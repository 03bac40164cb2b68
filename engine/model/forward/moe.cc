#include "moe.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>

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

Moe::Moe(const MoeWeights& weights, uint32_t layer, bool hash_routed, Ops& ops, ExpertTransport& transport,
         ExpertExchange& exchange)
    : weights_(weights),
      layer_(layer),
      hash_routed_(hash_routed),
      ops_(ops),
      transport_(transport),
      exchange_(exchange) {}

absl::Status Moe::Dispatch(const SublayerInput& input, std::span<const uint32_t> tokens, const Tapper& taps) {
  const ModelConfig& config = ops_.config();
  const int64_t n = input.n;
  const int64_t width = config.hidden_size;
  const int64_t top_k = config.n_experts_per_token;
  input_ = input;
  scores_ = ops_.memory().Take<float>(n * config.n_routed_experts);
  const std::array<DotJob, 1> gate = {ops_.Dot(weights_.gate, input.plain, n, scores_, false)};
  ops_.Run(gate);

  const ExpertRowFormat row_format = DispatchRowFormat(ops_, weights_.experts[0].w1);
  const size_t row_bytes = ExpertRowBytes(row_format, width);
  std::byte* rows = transport_.RowMemory(exchange_.lane, static_cast<size_t>(n), row_bytes);
  if (rows == nullptr) rows = ops_.memory().Take<std::byte>(n * static_cast<int64_t>(row_bytes));
  exchange_.assignments.resize(static_cast<size_t>(n * top_k));
  ops_.pool().Run(n, [&](int64_t i, int) {
    Route(tokens, i, exchange_.assignments.data() + i * top_k);
    EncodeExpertRow(ops_.kernels(), row_format, input.x + i * width, width, rows + i * static_cast<int64_t>(row_bytes));
  });
  TapRouting(taps);
  return transport_.BeginDispatch(exchange_.lane, layer_, {rows, static_cast<size_t>(n) * row_bytes}, row_bytes,
                                  exchange_.assignments);
}

absl::Status Moe::Compute(const Tapper& taps) {
  const int64_t n = input_.n;
  const int64_t width = ops_.config().hidden_size;
  std::vector<DispatchedRow>& received = exchange_.received;
  shared_ = ops_.memory().Take<float>(n * width);
  // While rows travel, the shared expert and this shard's own rows; with nowhere to travel to, all share the pool's
  // rounds.
  const bool shared_first = transport_.size() > 1 && n > 0;
  if (shared_first) {
    RunHidden({}, {}, /*with_shared=*/true);
    RunOutput({}, {}, /*with_shared=*/true, /*says_written=*/false);
  }
  const size_t n_done = ComputeOwn();
  RETURN_IF_ERROR(transport_.FinishDispatch(exchange_.lane, std::span(exchange_.own).first(n_done), received));

  const std::span<const Group> groups = GroupByExpert(received);
  // Before the shared expert's products, when these are the first ones below.
  if (exchange_.prefetch.IsDue()) {
    for (const Group& group : groups) exchange_.prefetch.Ask(*group.expert);
  }
  const bool with_shared = !shared_first && n > 0;
  RunHidden(received, groups, with_shared);
  const auto n_received = static_cast<int64_t>(received.size());
  const auto result_bytes = static_cast<int64_t>(ExpertRowBytes(ResultRowFormat(ops_), width));
  auto* results = ops_.memory().Take<std::byte>(n_received * result_bytes);
  RETURN_IF_ERROR(transport_.PlaceResults(exchange_.lane, {results, static_cast<size_t>(n_received * result_bytes)},
                                          static_cast<size_t>(result_bytes), received));
  RunOutput(groups, received, with_shared, /*says_written=*/true);
  taps.Tap("ffn.shared_experts", {shared_, static_cast<size_t>(n * width)}, width);
  return transport_.BeginCombine(exchange_.lane);
}

absl::Status Moe::Combine(float* y) {
  RETURN_IF_ERROR(transport_.FinishCombine(exchange_.lane, exchange_.combined));
  AddResults(exchange_.combined, y);
  return absl::OkStatus();
}

// An expert that others' rows want as well is then read twice, so there are no more of them than it takes.
size_t Moe::ComputeOwn() {
  std::vector<DispatchedRow>& own = exchange_.own;
  own.clear();
  if (transport_.HasArrived(exchange_.lane)) return 0;
  transport_.OwnRows(exchange_.lane, own);
  const ModelConfig& config = ops_.config();
  const std::span<const Group> groups = GroupByExpert(own);
  const auto result_bytes = static_cast<int64_t>(ExpertRowBytes(ResultRowFormat(ops_), config.hidden_size));
  auto* results = ops_.memory().Take<std::byte>(static_cast<int64_t>(own.size()) * result_bytes);
  for (size_t i = 0; i < own.size(); ++i) own[i].result = results + static_cast<int64_t>(i) * result_bytes;
  // So many at a time that every thread has something to do.
  const int64_t n_items = CountItems(config.moe_intermediate_size);
  const auto n_each = static_cast<size_t>((ops_.pool().n_threads() + n_items - 1) / n_items);
  size_t n_done = 0;
  for (size_t first = 0; first < groups.size() && !transport_.HasArrived(exchange_.lane); first += n_each) {
    const Workspace::Scope scope(ops_.memory());
    const std::span<const Group> some = groups.subspan(first, std::min(n_each, groups.size() - first));
    RunHidden(own, some, /*with_shared=*/false);
    RunOutput(some, own, /*with_shared=*/false, /*says_written=*/false);
    n_done = static_cast<size_t>(some.back().begin + some.back().n);
  }
  return n_done;
}

// Rows of one expert are adjacent.
std::span<const Moe::Group> Moe::GroupByExpert(std::span<const DispatchedRow> received) {
  const auto n_received = static_cast<int64_t>(received.size());
  auto* groups = ops_.memory().Take<Group>(n_received);
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
void Moe::AddResults(std::span<const std::byte* const> combined, float* y) const {
  const int64_t width = ops_.config().hidden_size;
  const int64_t top_k = ops_.config().n_experts_per_token;
  const ExpertRowFormat format = ResultRowFormat(ops_);
  ops_.pool().Run(input_.n, [&](int64_t i, int thread) {
    float* out = y + i * width;
    auto* row = reinterpret_cast<float*>(ops_.scratch(thread));
    for (int64_t k = 0; k < top_k; ++k) {
      const std::byte* result = combined[static_cast<size_t>(i * top_k + k)];
      DecodeExpertRow(ops_.kernels(), format, result, width, k == 0 ? out : row);
      if (k > 0) ops_.kernels().add_row(row, width, out);
    }
    ops_.kernels().add_row(shared_ + i * width, width, out);
    ops_.Round(out, width);
  });
}

// Scores of one token to its assignments, ascending expert.
void Moe::Route(std::span<const uint32_t> tokens, int64_t i, ExpertAssignment* assignments) const {
  const ModelConfig& config = ops_.config();
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

void Moe::TapRouting(const Tapper& taps) const {
  if (!taps.active()) return;
  std::vector<float> weights;
  std::vector<float> ids;
  for (const ExpertAssignment& a : exchange_.assignments) {
    weights.push_back(a.weight);
    ids.push_back(static_cast<float>(a.expert));
  }
  taps.Tap("ffn.gate.weights", weights, ops_.config().n_experts_per_token);
  taps.Tap("ffn.gate.indices", ids, ops_.config().n_experts_per_token);
}

// hidden = swiglu(w1 x, w3 x), weighted, quantised: an item is a stretch of one expert's inner columns. The shared
// expert's come first: its weights are always in use and so in memory, and meanwhile absent ones of others arrive.
void Moe::RunHidden(std::span<const DispatchedRow> received, std::span<const Group> groups, bool with_shared) {
  const ModelConfig& config = ops_.config();
  const int64_t width = config.hidden_size;
  const int64_t inner = config.moe_intermediate_size;
  const ExpertWeights& shared = weights_.shared;
  const int64_t shared_inner = shared.w1.rows;
  const ExpertRowFormat row_format = DispatchRowFormat(ops_, weights_.experts[0].w1);
  const auto limit = static_cast<float>(config.swiglu_limit);
  first_row_ = groups.empty() ? 0 : groups.front().begin;
  const int64_t n_rows = groups.empty() ? 0 : groups.back().begin + groups.back().n - first_row_;
  if (with_shared) shared_hidden_ = ops_.TakeRows(input_.n, shared_inner);
  rows_ = ops_.TakeRows(n_rows, width);
  hidden_ = ops_.TakeRows(n_rows, inner);
  ops_.pool().Run(n_rows, [&](int64_t i, int thread) {
    auto* row = reinterpret_cast<float*>(ops_.scratch(thread));
    DecodeExpertRow(ops_.kernels(), row_format, received[static_cast<size_t>(first_row_ + i)].row, width, row);
    ops_.Pack(row, width, rows_, i);
  });
  const int64_t n_shared_items = with_shared ? CountItems(shared_inner) : 0;
  const int64_t n_items = CountItems(inner);
  ops_.pool().Run(n_shared_items + static_cast<int64_t>(groups.size()) * n_items, [&](int64_t item, int thread) {
    if (item < n_shared_items) {
      const int64_t begin = item * kItemColumns;
      const HiddenRows rows = {&shared,
                               input_.For(shared.w1),
                               input_.For(shared.w3),
                               input_.n,
                               shared_hidden_,
                               nullptr,
                               config.clamp_shared_expert ? limit : 0.0F};
      return RunHiddenPart(rows, begin, std::min(kItemColumns, shared_inner - begin), thread);
    }
    item -= n_shared_items;
    const Group& group = groups[static_cast<size_t>(item / n_items)];
    const int64_t begin = item % n_items * kItemColumns;
    const OperandRows x = rows_.From(group.begin - first_row_);
    const HiddenRows rows = {group.expert,
                             x,
                             x,
                             group.n,
                             hidden_.From(group.begin - first_row_),
                             &received[static_cast<size_t>(group.begin)],
                             limit};
    RunHiddenPart(rows, begin, std::min(kItemColumns, inner - begin), thread);
  });
}

// Hidden columns [begin, begin + columns) of all rows.
void Moe::RunHiddenPart(const HiddenRows& rows, int64_t begin, int64_t columns, int thread) const {
  const bool quantize = ops_.native() && IsQuantized(rows.expert->w2);
  auto* a = reinterpret_cast<float*>(ops_.scratch(thread));
  float* b = a + kItemRows * kItemColumns;
  for (int64_t first = 0; first < rows.n; first += kItemRows) {
    const int64_t n = std::min(kItemRows, rows.n - first);
    ops_.RunSerial(ops_.DotPart(rows.expert->w1, begin, columns, rows.x1.From(first), n, a, columns, true), thread);
    ops_.RunSerial(ops_.DotPart(rows.expert->w3, begin, columns, rows.x3.From(first), n, b, columns, true), thread);
    for (int64_t i = 0; i < n; ++i) {
      float* h = a + i * columns;
      const float weight = rows.received == nullptr ? 1.0F : rows.received[first + i].weight;
      ops_.kernels().swiglu(h, b + i * columns, columns, rows.limit, weight, ops_.native());
      if (quantize) ops_.kernels().quantize_row(h, columns, kLinearQuantBlock);
      ops_.kernels().pack(h, columns, rows.hidden.form,
                          rows.hidden.row(first + i) + OperandBytes(rows.hidden.form, begin));
    }
  }
}

// w2 hidden: an item is a stretch of one expert's output columns; the shared expert's come last. An item writes its
// results where their home shards read them, so that rows leave as soon as they are known.
void Moe::RunOutput(std::span<const Group> groups, std::span<const DispatchedRow> received, bool with_shared,
                    bool says_written) {
  const int64_t width = ops_.config().hidden_size;
  const int64_t n_items = CountItems(width);
  const auto n_groups = static_cast<int64_t>(groups.size());
  // Items that each expert still waits for.
  auto* n_left = ops_.memory().Take<std::atomic<int64_t>>(n_groups);
  for (int64_t g = 0; g < n_groups; ++g) std::construct_at(&n_left[g], n_items);
  int64_t n_whole = 0;  // leading experts that are finished
  const auto between = [&] {
    const int64_t before = n_whole;
    while (n_whole < n_groups && n_left[n_whole].load(std::memory_order_acquire) == 0) ++n_whole;
    if (n_whole > before && says_written) {
      const Group& last = groups[static_cast<size_t>(n_whole - 1)];
      transport_.ResultsWritten(exchange_.lane, static_cast<size_t>(last.begin + last.n));
    }
  };
  const auto run = [&](int64_t item, int thread) {
    const int64_t begin = item % n_items * kItemColumns;
    const int64_t columns = std::min(kItemColumns, width - begin);
    const int64_t g = item / n_items;
    if (g == n_groups) {
      return ops_.RunSerial(
          ops_.DotPart(weights_.shared.w2, begin, columns, shared_hidden_, input_.n, shared_ + begin, width, true),
          thread);
    }
    RunOutputPart(groups[static_cast<size_t>(g)], received, begin, columns, thread);
    n_left[g].fetch_sub(1, std::memory_order_release);
  };
  ops_.pool().Run((n_groups + (with_shared ? 1 : 0)) * n_items, run, between);
}

// Columns [begin, begin + columns) of the results of an expert.
void Moe::RunOutputPart(const Group& group, std::span<const DispatchedRow> received, int64_t begin, int64_t columns,
                        int thread) const {
  auto* out = reinterpret_cast<float*>(ops_.scratch(thread));
  const OperandRows hidden = hidden_.From(group.begin - first_row_);
  for (int64_t first = 0; first < group.n; first += kItemRows) {
    const int64_t rows = std::min(kItemRows, group.n - first);
    ops_.RunSerial(ops_.DotPart(group.expert->w2, begin, columns, hidden.From(first), rows, out, columns, true),
                   thread);
    for (int64_t i = 0; i < rows; ++i) {
      StorePart(received[static_cast<size_t>(group.begin + first + i)], out + i * columns, begin, columns);
    }
  }
  FenceResults();
}

// Columns [begin, begin + columns) of a result.
void Moe::StorePart(const DispatchedRow& row, const float* part, int64_t begin, int64_t columns) const {
  const ExpertRowFormat format = ResultRowFormat(ops_);
  if (row.store == RowStore::kPlain) return EncodeResultPart(ops_.kernels(), format, part, begin, columns, row.result);
  alignas(64) std::array<std::byte, kItemColumns * sizeof(float)> bytes;
  EncodeResultPart(ops_.kernels(), format, part, 0, columns, bytes.data());
  StoreResult(row, ExpertRowBytes(format, begin), std::span(bytes).first(ExpertRowBytes(format, columns)));
}

}  // namespace longshelf::engine
