#include "engine/comm/direct_expert_transport.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/check.h"
#include "common/status.h"
#include "direct_lane.h"
#include "measure_ways.h"

namespace longshelf::engine {
namespace {

// Messages want to be looked at so often; more would cost the computation more than it saves.
constexpr auto kPollInterval = std::chrono::microseconds(30);

// The second lane is for the second half of a step.
size_t TokensOfLane(const DirectTransportOptions& options, int lane) {
  return lane == 0 ? options.n_tokens_max : (options.n_tokens_max + 1) / 2;
}

// Adds the time of its life.
class Stopwatch {
 public:
  explicit Stopwatch(std::atomic<uint64_t>& total_ns) : total_ns_(total_ns) {}
  ~Stopwatch() {
    const auto spent = std::chrono::steady_clock::now() - start_;
    total_ns_.fetch_add(static_cast<uint64_t>(std::chrono::nanoseconds(spent).count()), std::memory_order_relaxed);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  std::atomic<uint64_t>& total_ns_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

uint64_t BytesOfBuffers(const HostMap& hosts, int rank, const DirectTransportOptions& options) {
  uint64_t n_bytes = 0;
  for (int n = 0; n < options.n_lanes; ++n) {
    n_bytes += DirectLane::NumBytes(hosts, rank, options, TokensOfLane(options, n));
  }
  return n_bytes;
}

absl::StatusOr<std::unique_ptr<DirectExpertTransport>> DirectExpertTransport::Create(
    Communicator& communicator, const HostMap& hosts, const DirectTransportOptions& options) {
  LONGSHELF_CHECK(hosts.n_ranks() == communicator.size());
  LONGSHELF_CHECK(options.n_lanes >= 1 && options.n_lanes <= kExchangeLanes);
  auto group = std::make_unique<DirectGroup>(communicator, hosts, options);
  for (int n = 0; n < options.n_lanes; ++n) {
    group->lanes.push_back(std::make_unique<DirectLane>(*group, n, TokensOfLane(options, n)));
    RETURN_IF_ERROR(group->lanes.back()->MakeInboxes());
    RETURN_IF_ERROR(group->lanes.back()->MakeBuffers());
  }
  std::unique_ptr<DirectExpertTransport> transport(new DirectExpertTransport(std::move(group)));
  // Collective: on all hosts as soon as shards share one of them.
  if (!options.shm_dir.empty() && hosts.n_hosts() < hosts.n_ranks()) RETURN_IF_ERROR(transport->ChooseWays());
  return transport;
}

DirectExpertTransport::DirectExpertTransport(std::unique_ptr<DirectGroup> group) : group_(std::move(group)) {}
DirectExpertTransport::~DirectExpertTransport() = default;

absl::StatusOr<std::vector<WayFigures>> DirectExpertTransport::Measure() {
  DirectGroup& g = *group_;
  MeasuredExchange exchange = {.experts = {},
                               .n_experts_per_token = g.options.n_experts_per_token,
                               .n_tokens_max = std::min(kMeasuredTokens.back(), g.options.n_tokens_max),
                               .row_bytes = g.options.row_bytes_max,
                               .result_bytes = g.options.result_bytes_max};
  for (uint32_t e = 0; e < g.options.n_experts; ++e) {
    if (g.is_near(g.routes[0].Choose(e, 0))) exchange.experts.push_back(e);
  }
  RETURN_IF_ERROR(lane(0).MakeOutboxes(exchange.n_tokens_max));
  g.near_only = true;
  ASSIGN_OR_RETURN(std::vector<WayFigures> figures,
                   MeasureWays(g.communicator, *this, exchange, [&g](const RowWays& w) { g.ways = WayTable(w); }));
  g.near_only = false;
  lane(0).DropOutboxes();
  g.n_layers = g.exposed_ns = g.shared_bytes = 0;
  return figures;
}

absl::Status DirectExpertTransport::ChooseWays() {
  if (group_->options.ways.has_value()) {
    group_->ways = WayTable(*group_->options.ways);
  } else {
    ASSIGN_OR_RETURN(figures_, Measure());
    group_->ways = WayTable(figures_);
  }
  if (!group_->ways.any_pulled()) return absl::OkStatus();
  for (const auto& lane : group_->lanes) RETURN_IF_ERROR(lane->MakeOutboxes(lane->n_tokens_max()));
  return absl::OkStatus();
}

int DirectExpertTransport::rank() const { return group_->rank; }
int DirectExpertTransport::size() const { return group_->size; }
int DirectExpertTransport::n_lanes() const { return group_->options.n_lanes; }
const std::vector<WayFigures>& DirectExpertTransport::figures() const { return figures_; }
ExchangeTotals DirectExpertTransport::totals() const {
  return {group_->n_layers.load(), group_->n_second.load(), group_->exposed_ns.load(), group_->shared_bytes.load(),
          group_->sent_bytes.load()};
}
DirectLane& DirectExpertTransport::lane(int n) const { return *group_->lanes[static_cast<size_t>(n)]; }

std::optional<WayTable> DirectExpertTransport::ways() const {
  return group_->n_near() > 1 ? std::optional(group_->ways) : std::nullopt;
}

std::string DirectExpertTransport::Describe() const {
  if (group_->n_near() == 1) return "messages";
  const auto name = [](const WayTable::SizedWays& sized) {
    return absl::StrCat(sized.n_tokens, ": rows ", RowWayName(sized.ways.dispatch), ", results ",
                        RowWayName(sized.ways.combine));
  };
  std::vector<std::string> parts;
  for (const WayTable::SizedWays& sized : group_->ways.sizes()) parts.push_back(name(sized));
  return absl::StrCat("shared memory (by tokens of a shard, ", absl::StrJoin(parts, "; "), ")",
                      group_->hosts.n_hosts() > 1 ? " on a host, messages between hosts" : "");
}

void DirectExpertTransport::SetPlacement(const ExpertPlacement& placement) {
  LONGSHELF_CHECK(placement.n_experts() == group_->options.n_experts && placement.n_ranks() == group_->size);
  group_->routes.clear();
  for (uint32_t l = 0; l < placement.n_layers(); ++l) {
    group_->routes.emplace_back(placement, l, group_->hosts, group_->rank);
  }
}

void DirectExpertTransport::BeginStep(uint64_t seq) {
  for (const auto& lane : group_->lanes) lane->BeginStep(seq);
}

void DirectExpertTransport::Poll() {
  const auto& lanes = group_->lanes;
  if (std::none_of(lanes.begin(), lanes.end(), [](const auto& lane) { return lane->has_open(); })) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - polled_ < kPollInterval) return;
  polled_ = now;
  group_->Keep(group_->Progress());
}

std::byte* DirectExpertTransport::RowMemory(int n, size_t n_tokens, size_t row_bytes) {
  return lane(n).RowMemory(n_tokens, row_bytes);
}

absl::Status DirectExpertTransport::BeginDispatch(int n, uint32_t layer, std::span<const std::byte> rows,
                                                  size_t row_bytes, std::span<const ExpertAssignment> assignments) {
  const Stopwatch stopwatch(group_->exposed_ns);
  return lane(n).BeginDispatch(layer, rows, row_bytes, assignments);
}

void DirectExpertTransport::OwnRows(int n, std::vector<DispatchedRow>& own) { lane(n).OwnRows(own); }

bool DirectExpertTransport::HasArrived(int n) {
  group_->Keep(group_->Progress());
  return !group_->failed.ok() || lane(n).HasArrived();
}

absl::Status DirectExpertTransport::FinishDispatch(int n, std::span<const DispatchedRow> done,
                                                   std::vector<DispatchedRow>& received) {
  const Stopwatch stopwatch(group_->exposed_ns);
  RETURN_IF_ERROR(group_->failed);
  return lane(n).FinishDispatch(done, received);
}

absl::Status DirectExpertTransport::PlaceResults(int n, std::span<std::byte> results, size_t result_bytes,
                                                 std::span<DispatchedRow> received) {
  const Stopwatch stopwatch(group_->exposed_ns);
  return lane(n).PlaceResults(results, result_bytes, received);
}

void DirectExpertTransport::ResultsWritten(int n, size_t n_results) {
  const Stopwatch stopwatch(group_->exposed_ns);
  group_->Keep(lane(n).ResultsWritten(n_results));
}

absl::Status DirectExpertTransport::BeginCombine(int n) {
  const Stopwatch stopwatch(group_->exposed_ns);
  RETURN_IF_ERROR(group_->failed);
  return lane(n).BeginCombine();
}

absl::Status DirectExpertTransport::FinishCombine(int n, std::vector<const std::byte*>& combined) {
  const Stopwatch stopwatch(group_->exposed_ns);
  RETURN_IF_ERROR(group_->failed);
  return lane(n).FinishCombine(combined);
}

}  // namespace longshelf::engine
