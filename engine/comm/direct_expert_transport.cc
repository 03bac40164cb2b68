#include "engine/comm/direct_expert_transport.h"

#include <emmintrin.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status.h"
#include "expert_messages.h"
#include "inbox.h"
#include "measure_ways.h"
#include "shared_files.h"

namespace longshelf::engine {
namespace {

static_assert(kMessageUnitBytes == kExchangeUnitBytes);
constexpr int kDispatchTag = 101;
constexpr int kCombineTag = 102;

// The shard of `host` that receives what `source` sends to it: the one in the same place.
int ReceiverOn(const HostMap& hosts, int host, int source) {
  const std::vector<int> there = hosts.RanksOf(host);
  const std::vector<int> beside = hosts.RanksOf(hosts.host_of(source));
  const auto place = static_cast<size_t>(std::find(beside.begin(), beside.end(), source) - beside.begin());
  return there[place % there.size()];
}

// Neighbours are targets by themselves, other hosts as a whole. Without shared memory every shard is on its own.
struct TargetMap {
  std::vector<int> of_rank;
  std::vector<int> receivers;
};
TargetMap MapTargets(const HostMap& hosts, int rank, bool has_shared_memory) {
  TargetMap out;
  std::vector<int> of_host(static_cast<size_t>(hosts.n_hosts()), -1);
  for (int r = 0; r < hosts.n_ranks(); ++r) {
    const int host = hosts.host_of(r);
    int& known = of_host[static_cast<size_t>(host)];
    const bool as_host = has_shared_memory && host != hosts.host_of(rank);
    if (as_host && known >= 0) {
      out.of_rank.push_back(known);
      continue;
    }
    out.of_rank.push_back(static_cast<int>(out.receivers.size()));
    if (as_host) known = out.of_rank.back();
    out.receivers.push_back(as_host ? ReceiverOn(hosts, host, rank) : r);
  }
  return out;
}

InboxShape ShapeFor(const DirectTransportOptions& options, int n_shards) {
  const size_t n_pairs = options.n_tokens_max * options.n_experts_per_token;
  return {.n_sources = n_shards,
          .dispatch_bytes =
              DispatchLayout(MessageKind::kDispatch, options.n_tokens_max, n_pairs, options.row_bytes_max).n_bytes,
          .combine_rows = n_pairs,
          .result_stride = RoundUpTo(options.result_bytes_max, kMessageUnitBytes)};
}

// Of results in one message.
size_t ResultBytesMax(const InboxShape& shape) {
  return sizeof(MessageHeader) + shape.combine_rows * shape.result_stride;
}

// Whether a shard sees what `rank` writes.
bool IsNear(const HostMap& hosts, int rank, bool has_shared_memory, int other) {
  return has_shared_memory && hosts.host_of(other) == hosts.host_of(rank);
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

struct DirectExpertTransport::Impl {
  // Somewhere that dispatch messages go: a neighbour, or all shards of another host through the one that receives.
  struct Target {
    int rank = 0;  // who receives
    bool is_far = false;
    MappedMemory staging;  // far: what is being sent
    Communicator::Transfer sending;
  };
  // Another shard whose messages come here.
  struct Source {
    int rank = 0;
    bool is_far = false;
    int receiver = 0;  // whose inbox its dispatch arrives in
    size_t n_arrivals = 0;
    size_t first_arrival = 0;
    uint32_t first_row = 0;             // where its results go
    bool pulls = false;                 // it reads them in this shard's outbox
    uint32_t first_pulled = 0;          // where, in rows
    MappedMemory staging;               // far: results for it
    MappedMemory results;               // far: results from it
    Communicator::Transfer receiving;   // far, receiver == this shard: its dispatch
    Communicator::Transfer sending;     // far: results for it
    Communicator::Transfer collecting;  // far: results from it
  };

  Communicator& communicator;
  const HostMap hosts;
  const DirectTransportOptions options;
  const int rank;
  const int size;
  InboxShape shape;
  std::vector<ExpertRoutes> routes;  // by layer, or one for all
  std::vector<uint16_t> rank_of_pair;
  std::vector<uint16_t> target_of_pair;
  Grouping by_rank;
  std::optional<Grouping> by_target;  // when some target is more than one shard; else that is the same
  std::vector<int> target_of_rank;
  std::vector<Target> targets;
  std::vector<Source> sources;
  std::vector<Inbox> inboxes;    // by rank; not mapped: not on this host
  std::vector<Outbox> outboxes;  // by rank; empty unless something is pulled
  RowWays ways;
  std::vector<WayFigures> figures;
  bool near_only = false;  // while ways are measured nothing goes to other hosts
  MessageClock clock;
  uint64_t n_exchanges = 0;  // dispatches ever, the flags' value
  std::atomic<uint64_t> n_layers{0};
  std::atomic<uint64_t> exposed_ns{0};
  std::atomic<uint64_t> shared_bytes{0};
  std::atomic<uint64_t> sent_bytes{0};

  OutgoingRows outgoing;
  size_t row_bytes = 0;
  const ExpertRoutes* layer_routes = nullptr;
  std::span<std::byte> results;
  size_t result_bytes = 0;
  size_t result_stride = 0;
  std::vector<Arrival> arrivals;
  size_t own_first = 0;  // of this shard's own pairs among the arrivals
  ArrivalOrder order;

  Impl(Communicator& the_communicator, const HostMap& host_map, const DirectTransportOptions& the_options);

  Inbox& own() { return inboxes[static_cast<size_t>(rank)]; }
  Inbox& inbox(int r) { return inboxes[static_cast<size_t>(r)]; }
  const Outbox& outbox(int r) const { return outboxes[static_cast<size_t>(r)]; }
  bool pulls(RowWay way) const { return way == RowWay::kPull && !outboxes.empty(); }
  bool takes_part(const Source& source) const { return !source.is_far || !near_only; }
  const Grouping& of_targets() const { return by_target.has_value() ? *by_target : by_rank; }
  bool is_near(int r) const { return IsNear(hosts, rank, !options.shm_dir.empty(), r); }
  absl::Status MakeInboxes();
  absl::Status MakeOutboxes(size_t n_tokens);
  absl::Status MakeBuffers();
  std::vector<uint32_t> ExpertsNearby() const;
  absl::Status Progress();
  absl::Status Await(Communicator::Transfer& transfer);
  template <typename Ready>
  absl::Status WaitFor(Ready ready);
  absl::Status GroupPairs(std::span<const ExpertAssignment> pairs, size_t n_tokens);
  absl::Status PostReceives();
  absl::Status SendDispatch(Target& target, size_t index);
  absl::Status AwaitDispatch(Source& source);
  absl::Status ReadSource(Source& source);
  void PlaceResultsOf(Source& source, size_t& n_pulled, std::span<DispatchedRow> received);
  absl::Status SendResults(Source& source);
  absl::Status TakeResults(Source& source, std::vector<const std::byte*>& combined);
};

DirectExpertTransport::Impl::Impl(Communicator& the_communicator, const HostMap& host_map,
                                  const DirectTransportOptions& the_options)
    : communicator(the_communicator),
      hosts(host_map),
      options(the_options),
      rank(communicator.rank()),
      size(communicator.size()),
      by_rank(size) {
  clock.generation = options.generation;
  shape = ShapeFor(options, size);
  routes.emplace_back(ExpertPlacement::Even(1, options.n_experts, size), 0, hosts, rank);
  const TargetMap map = MapTargets(hosts, rank, !options.shm_dir.empty());
  target_of_rank = map.of_rank;
  const auto n_targets = static_cast<int>(map.receivers.size());
  if (n_targets < size) by_target.emplace(n_targets);
  for (const int receiver : map.receivers) {
    targets.push_back(
        {.rank = receiver, .is_far = receiver != rank && !is_near(receiver), .staging = {}, .sending = {}});
  }
  for (int s = 0; s < size; ++s) {
    if (s == rank) continue;
    Source source;
    source.rank = s;
    source.is_far = !is_near(s);
    source.receiver = source.is_far && !options.shm_dir.empty() ? ReceiverOn(hosts, hosts.host_of(rank), s) : rank;
    sources.push_back(std::move(source));
  }
}

absl::Status DirectExpertTransport::Impl::MakeInboxes() {
  std::vector<MappedMemory> memory(static_cast<size_t>(size));
  if (options.shm_dir.empty()) {
    ASSIGN_OR_RETURN(memory[static_cast<size_t>(rank)], MappedMemory::Private(shape.n_bytes()));
  } else {
    ASSIGN_OR_RETURN(memory, ShareMemory(communicator, hosts, options.shm_dir, "inbox", shape.n_bytes()));
  }
  for (MappedMemory& one : memory) inboxes.emplace_back(std::move(one), shape);
  return absl::OkStatus();
}

// For so many tokens of each shard, and as many results as these have pairs: a shard that computes more than its share
// writes the others into the inboxes of their homes.
absl::Status DirectExpertTransport::Impl::MakeOutboxes(size_t n_tokens) {
  const size_t rows_bytes = n_tokens * options.row_bytes_max;
  const size_t results_bytes = n_tokens * options.n_experts_per_token * shape.result_stride;
  outboxes.clear();
  ASSIGN_OR_RETURN(std::vector<MappedMemory> memory, ShareMemory(communicator, hosts, options.shm_dir, "outbox",
                                                                 Outbox::NumBytes(rows_bytes, results_bytes)));
  for (MappedMemory& one : memory) outboxes.emplace_back(std::move(one), rows_bytes, results_bytes);
  return absl::OkStatus();
}

std::vector<uint32_t> DirectExpertTransport::Impl::ExpertsNearby() const {
  std::vector<uint32_t> out;
  for (uint32_t e = 0; e < options.n_experts; ++e) {
    if (is_near(routes[0].Choose(e, 0))) out.push_back(e);
  }
  return out;
}

absl::Status DirectExpertTransport::Impl::MakeBuffers() {
  const size_t results_max = ResultBytesMax(shape);
  for (Target& target : targets) {
    if (!target.is_far) continue;
    ASSIGN_OR_RETURN(target.staging, MappedMemory::Private(shape.dispatch_bytes));
  }
  for (Source& source : sources) {
    if (!source.is_far) continue;
    ASSIGN_OR_RETURN(source.staging, MappedMemory::Private(results_max));
    ASSIGN_OR_RETURN(source.results, MappedMemory::Private(results_max));
  }
  return absl::OkStatus();
}

absl::Status DirectExpertTransport::ChooseWays() {
  Impl& s = *impl_;
  if (s.options.ways.has_value()) {
    s.ways = *s.options.ways;
  } else {
    const size_t n_tokens = std::min(kMeasuredTokens.back(), s.options.n_tokens_max);
    RETURN_IF_ERROR(s.MakeOutboxes(n_tokens));
    s.near_only = true;
    const MeasuredExchange exchange = {.experts = s.ExpertsNearby(),
                                       .n_experts_per_token = s.options.n_experts_per_token,
                                       .n_tokens_max = n_tokens,
                                       .row_bytes = s.options.row_bytes_max,
                                       .result_bytes = s.options.result_bytes_max};
    ASSIGN_OR_RETURN(s.figures, MeasureWays(s.communicator, *this, exchange, [&s](const RowWays& w) { s.ways = w; }));
    s.near_only = false;
    s.outboxes.clear();
    s.ways = ChooseRowWays(s.figures);
    s.n_layers = s.exposed_ns = s.shared_bytes = 0;
  }
  return s.ways.any_pulled() ? s.MakeOutboxes(s.options.n_tokens_max) : absl::OkStatus();
}

uint64_t BytesOfBuffers(const HostMap& hosts, int rank, const DirectTransportOptions& options) {
  const InboxShape shape = ShapeFor(options, hosts.n_ranks());
  const bool has_shared_memory = !options.shm_dir.empty();
  const auto is_near = [&](int r) { return r == rank || IsNear(hosts, rank, has_shared_memory, r); };
  uint64_t n_bytes = shape.n_bytes();
  for (const int receiver : MapTargets(hosts, rank, has_shared_memory).receivers) {
    if (!is_near(receiver)) n_bytes += shape.dispatch_bytes;
  }
  for (int r = 0; r < hosts.n_ranks(); ++r) {
    if (!is_near(r)) n_bytes += 2 * ResultBytesMax(shape);
  }
  const RowWays ways = options.ways.value_or(RowWays{RowWay::kPull, RowWay::kPull});  // which it may choose
  if (has_shared_memory && ways.any_pulled()) {
    n_bytes += Outbox::NumBytes(options.n_tokens_max * options.row_bytes_max, shape.combine_rows * shape.result_stride);
  }
  return n_bytes;
}

absl::StatusOr<std::unique_ptr<DirectExpertTransport>> DirectExpertTransport::Create(
    Communicator& communicator, const HostMap& hosts, const DirectTransportOptions& options) {
  LONGSHELF_CHECK(hosts.n_ranks() == communicator.size());
  auto impl = std::make_unique<Impl>(communicator, hosts, options);
  RETURN_IF_ERROR(impl->MakeInboxes());
  RETURN_IF_ERROR(impl->MakeBuffers());
  std::unique_ptr<DirectExpertTransport> transport(new DirectExpertTransport(std::move(impl)));
  // Collective: on all hosts as soon as shards share one of them.
  if (!options.shm_dir.empty() && hosts.n_hosts() < hosts.n_ranks()) RETURN_IF_ERROR(transport->ChooseWays());
  return transport;
}

DirectExpertTransport::DirectExpertTransport(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DirectExpertTransport::~DirectExpertTransport() = default;
int DirectExpertTransport::rank() const { return impl_->rank; }
int DirectExpertTransport::size() const { return impl_->size; }
const std::vector<WayFigures>& DirectExpertTransport::figures() const { return impl_->figures; }
ExchangeTotals DirectExpertTransport::totals() const {
  return {impl_->n_layers.load(), impl_->exposed_ns.load(), impl_->shared_bytes.load(), impl_->sent_bytes.load()};
}

std::optional<RowWays> DirectExpertTransport::ways() const {
  for (const Impl::Source& source : impl_->sources) {
    if (!source.is_far) return impl_->ways;
  }
  return std::nullopt;
}

std::string DirectExpertTransport::Describe() const {
  const std::optional<RowWays> near = ways();
  if (!near.has_value()) return "messages";
  const bool any_far =
      std::any_of(impl_->sources.begin(), impl_->sources.end(), [](const auto& s) { return s.is_far; });
  return absl::StrCat("shared memory (rows ", RowWayName(near->dispatch), ", results ", RowWayName(near->combine), ")",
                      any_far ? " on a host, messages between hosts" : "");
}

void DirectExpertTransport::SetPlacement(const ExpertPlacement& placement) {
  LONGSHELF_CHECK(placement.n_experts() == impl_->options.n_experts && placement.n_ranks() == impl_->size);
  impl_->routes.clear();
  for (uint32_t l = 0; l < placement.n_layers(); ++l) {
    impl_->routes.emplace_back(placement, l, impl_->hosts, impl_->rank);
  }
}

std::byte* DirectExpertTransport::RowMemory(size_t n_bytes) {
  const Impl& s = *impl_;
  if (!s.pulls(s.ways.dispatch) || n_bytes > s.outbox(s.rank).rows_bytes()) return nullptr;
  return s.outbox(s.rank).rows();
}

void DirectExpertTransport::BeginStep(uint64_t seq) {
  impl_->clock.seq = seq;
  impl_->clock.layer_count = 0;
}

// Messages move only while somebody asks, and others may wait for those of this shard while it waits for a flag.
absl::Status DirectExpertTransport::Impl::Progress() {
  const auto test = [this](Communicator::Transfer& transfer) -> absl::Status {
    return transfer.is_open() ? communicator.IsDone(transfer).status() : absl::OkStatus();
  };
  for (Target& target : targets) RETURN_IF_ERROR(test(target.sending));
  for (Source& source : sources) {
    if (!source.is_far) continue;
    RETURN_IF_ERROR(test(source.sending));
    RETURN_IF_ERROR(test(source.collecting));
    if (!source.receiving.is_open()) continue;
    RETURN_IF_ERROR(test(source.receiving));
    if (!source.receiving.is_open()) {
      own().dispatched(source.rank).store(n_exchanges, std::memory_order_release);
    }
  }
  return absl::OkStatus();
}

// A dead peer is the watch's business.
template <typename Ready>
absl::Status DirectExpertTransport::Impl::WaitFor(Ready ready) {
  for (int n = 0; !ready(); ++n) {
    RETURN_IF_ERROR(Progress());
    if (n < options.n_spins) {
      _mm_pause();
    } else {
      sched_yield();
    }
  }
  return absl::OkStatus();
}

absl::Status DirectExpertTransport::Impl::Await(Communicator::Transfer& transfer) {
  return WaitFor([&] { return !transfer.is_open(); });
}

// Who computes what, for shards and for targets.
absl::Status DirectExpertTransport::Impl::GroupPairs(std::span<const ExpertAssignment> pairs, size_t n_tokens) {
  RETURN_IF_ERROR(RoutePairs(pairs, n_tokens, *layer_routes, rank_of_pair));
  by_rank.Group(pairs, rank_of_pair);
  if (!by_target.has_value()) return absl::OkStatus();
  target_of_pair.resize(pairs.size());
  for (size_t i = 0; i < pairs.size(); ++i) {
    target_of_pair[i] = static_cast<uint16_t>(target_of_rank[rank_of_pair[i]]);
  }
  by_target->Group(pairs, target_of_pair);
  return absl::OkStatus();
}

absl::Status DirectExpertTransport::Impl::SendDispatch(Target& target, size_t index) {
  const bool pulled = !target.is_far && pulls(ways.dispatch);
  MessageHeader header =
      MakeHeader(pulled ? MessageKind::kDispatchPulled : MessageKind::kDispatch, rank, target.rank, clock);
  FillDispatchHeader(of_targets(), static_cast<int>(index), row_bytes, header);
  // A neighbour puts its results where they belong; from elsewhere they come in messages.
  header.first_row = target.is_far ? 0 : static_cast<uint32_t>(by_rank.begin(target.rank));
  SealHeader(header);
  if (!target.is_far) {
    const bool streamed = ways.dispatch == RowWay::kStream;
    PackDispatch(header, of_targets(), static_cast<int>(index), outgoing,
                 streamed ? RowStore::kStream : RowStore::kPlain, inbox(target.rank).dispatch(rank));
    if (streamed) FenceResults();
    inbox(target.rank).dispatched(rank).store(n_exchanges, std::memory_order_release);
    shared_bytes += header.n_bytes + (pulled ? header.n_tokens * row_bytes : 0);
    return absl::OkStatus();
  }
  PackDispatch(header, of_targets(), static_cast<int>(index), outgoing, RowStore::kPlain, target.staging.data());
  ASSIGN_OR_RETURN(target.sending, communicator.StartSend(target.rank, kDispatchTag, target.staging.data(),
                                                          header.n_bytes / kExchangeUnitBytes));
  sent_bytes += header.n_bytes;
  return absl::OkStatus();
}

// Of rows for this host, before anything is sent.
absl::Status DirectExpertTransport::Impl::PostReceives() {
  for (Source& source : sources) {
    if (!source.is_far || source.receiver != rank || near_only) continue;
    ASSIGN_OR_RETURN(source.receiving, communicator.StartReceive(source.rank, kDispatchTag, own().dispatch(source.rank),
                                                                 shape.dispatch_bytes / kExchangeUnitBytes));
  }
  return absl::OkStatus();
}

absl::Status DirectExpertTransport::BeginDispatch(uint32_t layer, std::span<const std::byte> rows, size_t row_bytes,
                                                  std::span<const ExpertAssignment> assignments) {
  Impl& s = *impl_;
  const Stopwatch stopwatch(s.exposed_ns);
  RETURN_IF_ERROR(CheckDispatchArguments(rows, row_bytes));
  const size_t n_tokens = rows.size() / row_bytes;
  if (n_tokens > s.options.n_tokens_max || row_bytes > s.options.row_bytes_max ||
      assignments.size() > s.shape.combine_rows) {
    return absl::InternalError(absl::StrCat("dispatch of ", n_tokens, " rows of ", row_bytes, " bytes to ",
                                            assignments.size(), " experts; the inboxes are for ",
                                            s.options.n_tokens_max, " of ", s.options.row_bytes_max, " to ",
                                            s.shape.combine_rows));
  }
  ASSIGN_OR_RETURN(s.layer_routes, RoutesOf(s.routes, layer));
  s.row_bytes = row_bytes;
  ++s.clock.layer_count;
  ++s.n_exchanges;
  RETURN_IF_ERROR(s.PostReceives());
  RETURN_IF_ERROR(s.GroupPairs(assignments, n_tokens));
  s.outgoing = {rows, assignments, s.rank_of_pair};
  for (Impl::Source& source : s.sources) {
    if (!source.is_far || s.near_only) continue;
    const size_t n_bytes = sizeof(MessageHeader) + s.by_rank.n_rows(source.rank) * s.shape.result_stride;
    ASSIGN_OR_RETURN(source.collecting, s.communicator.StartReceive(source.rank, kCombineTag, source.results.data(),
                                                                    n_bytes / kExchangeUnitBytes));
  }
  if (s.pulls(s.ways.dispatch) && rows.data() != s.outbox(s.rank).rows() && !rows.empty()) {
    std::memcpy(s.outbox(s.rank).rows(), rows.data(), rows.size());
  }
  // From the next shard on, so that not all of them send to the first one first.
  for (size_t i = 0; i < s.targets.size(); ++i) {
    const size_t at = (i + static_cast<size_t>(s.rank) + 1) % s.targets.size();
    Impl::Target& target = s.targets[at];
    if (target.rank != s.rank && !(target.is_far && s.near_only)) RETURN_IF_ERROR(s.SendDispatch(target, at));
  }
  return absl::OkStatus();
}

absl::Status DirectExpertTransport::Impl::AwaitDispatch(Source& source) {
  const std::atomic<uint64_t>& flag = inbox(source.receiver).dispatched(source.rank);
  return WaitFor([&] { return flag.load(std::memory_order_acquire) >= n_exchanges; });
}

absl::Status DirectExpertTransport::Impl::ReadSource(Source& source) {
  IncomingDispatch incoming;
  incoming.message = inbox(source.receiver).dispatch(source.rank);
  std::memcpy(&incoming.header, incoming.message, sizeof(incoming.header));
  const MessageHeader& header = incoming.header;
  const bool pulled = !source.is_far && pulls(ways.dispatch);
  RETURN_IF_ERROR(CheckHeader(header, pulled ? MessageKind::kDispatchPulled : MessageKind::kDispatch, source.rank,
                              source.receiver, clock));
  RETURN_IF_ERROR(CheckDispatchCounts(header, row_bytes, layer_routes->n_experts()));
  if (header.n_bytes > shape.dispatch_bytes || header.first_row + uint64_t{header.n_rows} > shape.combine_rows) {
    return OutOfStep("message size", source.rank, header.n_bytes, shape.dispatch_bytes);
  }
  if (pulled) {
    incoming.rows = outbox(source.rank).rows();
    incoming.n_rows_max = outbox(source.rank).rows_bytes() / row_bytes;
  }
  incoming.all_are_ours = !source.is_far || options.shm_dir.empty();
  source.first_arrival = arrivals.size();
  source.first_row = header.first_row;
  RETURN_IF_ERROR(ReadDispatch(incoming, *layer_routes, arrivals));
  source.n_arrivals = arrivals.size() - source.first_arrival;
  return absl::OkStatus();
}

absl::Status DirectExpertTransport::FinishDispatch(std::vector<DispatchedRow>& received) {
  Impl& s = *impl_;
  const Stopwatch stopwatch(s.exposed_ns);
  // What this shard receives for its neighbours too comes first: they wait for it, and it computes next.
  for (Impl::Source& source : s.sources) {
    if (source.receiving.is_open()) RETURN_IF_ERROR(s.Await(source.receiving));
  }
  s.arrivals.clear();
  for (int r = 0; r < s.size; ++r) {
    if (r != s.rank) {
      Impl::Source& source = s.sources[static_cast<size_t>(r < s.rank ? r : r - 1)];
      if (!s.takes_part(source)) continue;
      RETURN_IF_ERROR(s.AwaitDispatch(source));
      RETURN_IF_ERROR(s.ReadSource(source));
      continue;
    }
    s.own_first = s.arrivals.size();
    for (const uint32_t i : s.by_rank.of(s.rank)) {
      const ExpertAssignment& a = s.outgoing.assignments[i];
      s.arrivals.push_back({a.expert, a.weight, s.outgoing.rows.data() + a.token * s.row_bytes});
    }
  }
  if (s.options.watch != nullptr) s.options.watch->MarkProgress();
  s.order.Order(s.arrivals, s.layer_routes->n_experts(), received);
  return absl::OkStatus();
}

// n_pulled: rows of the outbox that are taken.
void DirectExpertTransport::Impl::PlaceResultsOf(Source& source, size_t& n_pulled, std::span<DispatchedRow> received) {
  std::byte* to = nullptr;
  RowStore store = RowStore::kPlain;
  source.pulls = false;
  if (source.is_far) {
    to = source.staging.data() + sizeof(MessageHeader);
  } else if (pulls(ways.combine) && (n_pulled + source.n_arrivals) * result_stride <= outbox(rank).results_bytes()) {
    source.pulls = true;
    source.first_pulled = static_cast<uint32_t>(n_pulled);
    to = outbox(rank).results() + n_pulled * result_stride;
    n_pulled += source.n_arrivals;
  } else {
    to = inbox(source.rank).results() + source.first_row * result_stride;
    if (ways.combine == RowWay::kStream) store = RowStore::kStream;
  }
  for (size_t i = 0; i < source.n_arrivals; ++i, to += result_stride) {
    DispatchedRow& row = received[order.place(source.first_arrival + i)];
    row.result = to;
    row.store = store;
  }
}

absl::Status DirectExpertTransport::PlaceResults(std::span<std::byte> results, size_t result_bytes,
                                                 std::span<DispatchedRow> received) {
  Impl& s = *impl_;
  const Stopwatch stopwatch(s.exposed_ns);
  RETURN_IF_ERROR(CheckCombineArguments(results, result_bytes, s.arrivals.size()));
  if (result_bytes > s.options.result_bytes_max || received.size() != s.arrivals.size()) {
    return absl::InternalError(absl::StrCat("combine of ", received.size(), " results of ", result_bytes,
                                            " bytes; it is ", s.arrivals.size(), ", and the inboxes are for ",
                                            s.options.result_bytes_max));
  }
  s.results = results;
  s.result_bytes = result_bytes;
  s.result_stride = RoundUpTo(result_bytes, kMessageUnitBytes);
  for (size_t i = s.own_first; i < s.own_first + s.by_rank.n_rows(s.rank); ++i) {
    received[s.order.place(i)].result = results.data() + s.order.place(i) * result_bytes;
  }
  size_t n_pulled = 0;
  for (Impl::Source& source : s.sources) {
    if (s.takes_part(source)) s.PlaceResultsOf(source, n_pulled, received);
  }
  return absl::OkStatus();
}

absl::Status DirectExpertTransport::Impl::SendResults(Source& source) {
  MessageHeader header =
      MakeHeader(source.pulls ? MessageKind::kCombinePulled : MessageKind::kCombine, rank, source.rank, clock);
  header.n_rows = static_cast<uint32_t>(source.n_arrivals);
  header.row_bytes = static_cast<uint32_t>(result_bytes);
  header.n_bytes = sizeof(header) + source.n_arrivals * result_stride;
  if (source.pulls) header.first_row = source.first_pulled;
  SealHeader(header);
  if (!source.is_far) {
    inbox(source.rank).combine_header(rank) = header;
    inbox(source.rank).combined(rank).store(n_exchanges, std::memory_order_release);
    shared_bytes += header.n_bytes;
    return absl::OkStatus();
  }
  std::memcpy(source.staging.data(), &header, sizeof(header));
  ASSIGN_OR_RETURN(source.sending, communicator.StartSend(source.rank, kCombineTag, source.staging.data(),
                                                          header.n_bytes / kExchangeUnitBytes));
  sent_bytes += header.n_bytes;
  return absl::OkStatus();
}

absl::Status DirectExpertTransport::BeginCombine() {
  Impl& s = *impl_;
  const Stopwatch stopwatch(s.exposed_ns);
  for (size_t i = 0; i < s.sources.size(); ++i) {
    Impl::Source& source = s.sources[(i + static_cast<size_t>(s.rank)) % s.sources.size()];
    if (s.takes_part(source)) RETURN_IF_ERROR(s.SendResults(source));
  }
  return absl::OkStatus();
}

absl::Status DirectExpertTransport::Impl::TakeResults(Source& source, std::vector<const std::byte*>& combined) {
  const std::span<const uint32_t> pairs = by_rank.of(source.rank);
  MessageHeader header;
  const std::byte* from = nullptr;
  if (source.is_far) {
    RETURN_IF_ERROR(Await(source.collecting));
    std::memcpy(&header, source.results.data(), sizeof(header));
    from = source.results.data() + sizeof(header);
  } else {
    std::atomic<uint64_t>& flag = own().combined(source.rank);
    RETURN_IF_ERROR(WaitFor([&] { return flag.load(std::memory_order_acquire) >= n_exchanges; }));
    header = own().combine_header(source.rank);
    from = own().results() + by_rank.begin(source.rank) * result_stride;
  }
  const bool pulled = !source.is_far && pulls(ways.combine) && header.kind == MessageKind::kCombinePulled;
  RETURN_IF_ERROR(
      CheckHeader(header, pulled ? MessageKind::kCombinePulled : MessageKind::kCombine, source.rank, rank, clock));
  if (header.row_bytes != result_bytes) return OutOfStep("row size", source.rank, header.row_bytes, result_bytes);
  if (header.n_rows != pairs.size()) return OutOfStep("row count", source.rank, header.n_rows, pairs.size());
  if (pulled) {
    const size_t n_rows_max = outbox(source.rank).results_bytes() / result_stride;
    if (header.first_row + pairs.size() > n_rows_max) {
      return OutOfStep("place of results", source.rank, header.first_row, n_rows_max);
    }
    from = outbox(source.rank).results() + header.first_row * result_stride;
  }
  for (size_t i = 0; i < pairs.size(); ++i) combined[pairs[i]] = from + i * result_stride;
  return absl::OkStatus();
}

absl::Status DirectExpertTransport::FinishCombine(std::vector<const std::byte*>& combined) {
  Impl& s = *impl_;
  const Stopwatch stopwatch(s.exposed_ns);
  combined.resize(s.by_rank.n_all());
  const std::span<const uint32_t> own = s.by_rank.of(s.rank);
  for (size_t i = 0; i < own.size(); ++i) {
    combined[own[i]] = s.results.data() + s.order.place(s.own_first + i) * s.result_bytes;
  }
  for (Impl::Source& source : s.sources) {
    if (s.takes_part(source)) RETURN_IF_ERROR(s.TakeResults(source, combined));
  }
  // This shard may sleep next, and nothing moves while it does.
  for (Impl::Source& source : s.sources) RETURN_IF_ERROR(s.Await(source.sending));
  for (Impl::Target& target : s.targets) RETURN_IF_ERROR(s.Await(target.sending));
  s.n_layers.fetch_add(1, std::memory_order_relaxed);
  if (s.options.watch != nullptr) s.options.watch->MarkProgress();
  return absl::OkStatus();
}

}  // namespace longshelf::engine
