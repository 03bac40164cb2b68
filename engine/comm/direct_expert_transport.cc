#include "engine/comm/direct_expert_transport.h"

#include <emmintrin.h>
#include <sched.h>
#include <unistd.h>

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

std::vector<int> TargetOfExperts(uint32_t n_experts, const TargetMap& map) {
  std::vector<int> owner = EvenOwners(n_experts, static_cast<int>(map.of_rank.size()));
  for (int& o : owner) o = map.of_rank[static_cast<size_t>(o)];
  return owner;
}

InboxShape ShapeFor(const DirectTransportOptions& options, int n_shards) {
  const size_t n_pairs = options.n_tokens_max * options.n_experts_per_token;
  return {.n_sources = n_shards,
          .dispatch_bytes = DispatchLayout(options.n_tokens_max, n_pairs, options.row_bytes_max).n_bytes,
          .combine_rows = n_pairs,
          .result_stride = RoundUpTo(options.result_bytes_max, kMessageUnitBytes)};
}

// Of results in one message.
size_t ResultBytesMax(const InboxShape& shape) {
  return sizeof(MessageHeader) + shape.combine_rows * shape.result_stride;
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
  Grouping by_rank;
  std::optional<Grouping> by_target;  // when some target is more than one shard; else that is the same
  std::vector<Target> targets;
  std::vector<Source> sources;
  std::vector<std::unique_ptr<Inbox>> inboxes;  // by rank; null: not on this host
  MessageClock clock;
  uint64_t n_exchanges = 0;  // dispatches ever, the flags' value
  std::atomic<uint64_t> n_layers{0};
  std::atomic<uint64_t> exposed_ns{0};
  std::atomic<uint64_t> shared_bytes{0};
  std::atomic<uint64_t> sent_bytes{0};

  std::span<const std::byte> rows;
  size_t row_bytes = 0;
  std::span<const ExpertAssignment> assignments;
  std::span<const std::byte> results;
  size_t result_bytes = 0;
  std::vector<Arrival> arrivals;
  size_t own_first = 0;  // of this shard's own pairs among the arrivals
  ArrivalOrder order;

  Impl(Communicator& the_communicator, const HostMap& host_map, const DirectTransportOptions& the_options);

  Inbox& own() { return *inboxes[static_cast<size_t>(rank)]; }
  Inbox& inbox(int r) { return *inboxes[static_cast<size_t>(r)]; }
  const Grouping& of_targets() const { return by_target.has_value() ? *by_target : by_rank; }
  bool is_near(int r) const { return !options.shm_dir.empty() && hosts.host_of(r) == hosts.host_of(rank); }
  absl::Status MakeInboxes();
  absl::Status MakeBuffers();
  absl::Status Progress();
  absl::Status Await(Communicator::Transfer& transfer);
  template <typename Ready>
  absl::Status WaitFor(Ready ready);
  absl::Status SendDispatch(Target& target, size_t index);
  absl::Status AwaitDispatch(Source& source);
  absl::Status ReadSource(Source& source);
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
      by_rank(EvenOwners(options.n_experts, size), size) {
  clock.generation = options.generation;
  shape = ShapeFor(options, size);
  const TargetMap map = MapTargets(hosts, rank, !options.shm_dir.empty());
  if (map.receivers.size() < static_cast<size_t>(size))
    by_target.emplace(TargetOfExperts(options.n_experts, map), size);
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
  inboxes.resize(static_cast<size_t>(size));
  if (options.shm_dir.empty()) {
    ASSIGN_OR_RETURN(inboxes[static_cast<size_t>(rank)], Inbox::Private(shape));
    return absl::OkStatus();
  }
  const auto path = [this](int r) { return absl::StrCat(options.shm_dir, "/inbox-", r); };
  auto made = Inbox::Make(path(rank), shape);
  // Everybody or nobody: a shard that went on alone would wait for ever.
  ASSIGN_OR_RETURN(const std::vector<std::string> all, AllGather(communicator, std::string(made.status().message())));
  for (size_t r = 0; r < all.size(); ++r) {
    if (all[r].empty()) continue;
    // Shared memory that nobody is going to use.
    if (made.ok()) unlink(path(rank).c_str());
    return absl::ResourceExhaustedError(absl::StrCat("shard ", r, ": ", all[r]));
  }
  inboxes[static_cast<size_t>(rank)] = *std::move(made);
  for (int r = 0; r < size; ++r) {
    if (r == rank || !is_near(r)) continue;
    ASSIGN_OR_RETURN(inboxes[static_cast<size_t>(r)], Inbox::Open(path(r), shape));
  }
  RETURN_IF_ERROR(communicator.Barrier());
  // The mappings stay.
  unlink(path(rank).c_str());
  return absl::OkStatus();
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

uint64_t BytesOfBuffers(const HostMap& hosts, int rank, const DirectTransportOptions& options) {
  const InboxShape shape = ShapeFor(options, hosts.n_ranks());
  const bool has_shared_memory = !options.shm_dir.empty();
  const auto is_near = [&](int r) {
    return r == rank || (has_shared_memory && hosts.host_of(r) == hosts.host_of(rank));
  };
  uint64_t n_bytes = shape.n_bytes();
  for (const int receiver : MapTargets(hosts, rank, has_shared_memory).receivers) {
    if (!is_near(receiver)) n_bytes += shape.dispatch_bytes;
  }
  for (int r = 0; r < hosts.n_ranks(); ++r) {
    if (!is_near(r)) n_bytes += 2 * ResultBytesMax(shape);
  }
  return n_bytes;
}

absl::StatusOr<std::unique_ptr<DirectExpertTransport>> DirectExpertTransport::Create(
    Communicator& communicator, const HostMap& hosts, const DirectTransportOptions& options) {
  LONGSHELF_CHECK(hosts.n_ranks() == communicator.size());
  auto impl = std::make_unique<Impl>(communicator, hosts, options);
  RETURN_IF_ERROR(impl->MakeInboxes());
  RETURN_IF_ERROR(impl->MakeBuffers());
  return std::unique_ptr<DirectExpertTransport>(new DirectExpertTransport(std::move(impl)));
}

DirectExpertTransport::DirectExpertTransport(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DirectExpertTransport::~DirectExpertTransport() = default;
int DirectExpertTransport::rank() const { return impl_->rank; }
int DirectExpertTransport::size() const { return impl_->size; }
ExchangeTotals DirectExpertTransport::totals() const {
  return {impl_->n_layers.load(), impl_->exposed_ns.load(), impl_->shared_bytes.load(), impl_->sent_bytes.load()};
}

std::string DirectExpertTransport::Describe() const {
  bool any_far = false;
  bool any_near = false;
  for (const Impl::Source& source : impl_->sources) (source.is_far ? any_far : any_near) = true;
  if (any_far && any_near) return "shared memory on a host, messages between hosts";
  return any_near ? "shared memory" : "messages";
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

absl::Status DirectExpertTransport::Impl::SendDispatch(Target& target, size_t index) {
  MessageHeader header = MakeHeader(MessageKind::kDispatch, rank, target.rank, clock);
  FillDispatchHeader(of_targets(), static_cast<int>(index), row_bytes, header);
  // A neighbour puts its results where they belong; from elsewhere they come in messages.
  header.first_row = target.is_far ? 0 : static_cast<uint32_t>(by_rank.begin(target.rank));
  SealHeader(header);
  if (!target.is_far) {
    PackDispatch(header, of_targets(), static_cast<int>(index), rows, assignments, CopyRows::kStream,
                 inbox(target.rank).dispatch(rank));
    StreamFence();
    inbox(target.rank).dispatched(rank).store(n_exchanges, std::memory_order_release);
    shared_bytes += header.n_bytes;
    return absl::OkStatus();
  }
  PackDispatch(header, of_targets(), static_cast<int>(index), rows, assignments, CopyRows::kPlain,
               target.staging.data());
  ASSIGN_OR_RETURN(target.sending, communicator.StartSend(target.rank, kDispatchTag, target.staging.data(),
                                                          header.n_bytes / kExchangeUnitBytes));
  sent_bytes += header.n_bytes;
  return absl::OkStatus();
}

absl::Status DirectExpertTransport::BeginDispatch(std::span<const std::byte> rows, size_t row_bytes,
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
  s.rows = rows;
  s.row_bytes = row_bytes;
  s.assignments = assignments;
  ++s.clock.layer_count;
  ++s.n_exchanges;
  for (Impl::Source& source : s.sources) {
    if (!source.is_far || source.receiver != s.rank) continue;
    ASSIGN_OR_RETURN(source.receiving,
                     s.communicator.StartReceive(source.rank, kDispatchTag, s.own().dispatch(source.rank),
                                                 s.shape.dispatch_bytes / kExchangeUnitBytes));
  }
  RETURN_IF_ERROR(s.by_rank.Group(assignments, n_tokens));
  if (s.by_target.has_value()) RETURN_IF_ERROR(s.by_target->Group(assignments, n_tokens));
  for (Impl::Source& source : s.sources) {
    if (!source.is_far) continue;
    const size_t n_bytes = sizeof(MessageHeader) + s.by_rank.n_rows(source.rank) * s.shape.result_stride;
    ASSIGN_OR_RETURN(source.collecting, s.communicator.StartReceive(source.rank, kCombineTag, source.results.data(),
                                                                    n_bytes / kExchangeUnitBytes));
  }
  // From the next shard on, so that not all of them send to the first one first.
  for (size_t i = 0; i < s.targets.size(); ++i) {
    const size_t at = (i + static_cast<size_t>(s.rank) + 1) % s.targets.size();
    if (s.targets[at].rank != s.rank) RETURN_IF_ERROR(s.SendDispatch(s.targets[at], at));
  }
  return absl::OkStatus();
}

absl::Status DirectExpertTransport::Impl::AwaitDispatch(Source& source) {
  const std::atomic<uint64_t>& flag = inbox(source.receiver).dispatched(source.rank);
  return WaitFor([&] { return flag.load(std::memory_order_acquire) >= n_exchanges; });
}

absl::Status DirectExpertTransport::Impl::ReadSource(Source& source) {
  const std::byte* message = inbox(source.receiver).dispatch(source.rank);
  MessageHeader header;
  std::memcpy(&header, message, sizeof(header));
  RETURN_IF_ERROR(CheckHeader(header, MessageKind::kDispatch, source.rank, source.receiver, clock));
  RETURN_IF_ERROR(CheckDispatchCounts(header, row_bytes, by_rank.n_experts()));
  if (header.n_bytes > shape.dispatch_bytes || header.first_row + uint64_t{header.n_rows} > shape.combine_rows) {
    return OutOfStep("message size", source.rank, header.n_bytes, shape.dispatch_bytes);
  }
  source.first_arrival = arrivals.size();
  source.first_row = header.first_row;
  RETURN_IF_ERROR(ReadDispatch(header, message, by_rank, rank,
                               /*all_rows_are_ours=*/!source.is_far || options.shm_dir.empty(), arrivals));
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
      RETURN_IF_ERROR(s.AwaitDispatch(source));
      RETURN_IF_ERROR(s.ReadSource(source));
      continue;
    }
    s.own_first = s.arrivals.size();
    for (const uint32_t i : s.by_rank.of(s.rank)) {
      const ExpertAssignment& a = s.assignments[i];
      s.arrivals.push_back({a.expert, a.weight, s.rows.data() + a.token * s.row_bytes});
    }
  }
  if (s.options.watch != nullptr) s.options.watch->MarkProgress();
  s.order.Order(s.arrivals, s.by_rank.n_experts(), received);
  return absl::OkStatus();
}

absl::Status DirectExpertTransport::Impl::SendResults(Source& source) {
  const size_t stride = RoundUpTo(result_bytes, kMessageUnitBytes);
  MessageHeader header = MakeHeader(MessageKind::kCombine, rank, source.rank, clock);
  header.n_rows = static_cast<uint32_t>(source.n_arrivals);
  header.row_bytes = static_cast<uint32_t>(result_bytes);
  header.n_bytes = sizeof(header) + source.n_arrivals * stride;
  SealHeader(header);
  std::byte* to =
      source.is_far ? source.staging.data() + sizeof(header) : inbox(source.rank).results() + source.first_row * stride;
  const CopyRows how = source.is_far ? CopyRows::kPlain : CopyRows::kStream;
  for (size_t i = 0; i < source.n_arrivals; ++i, to += stride) {
    CopyBytes(how, results.data() + order.place(source.first_arrival + i) * result_bytes, result_bytes, to);
  }
  if (!source.is_far) {
    inbox(source.rank).combine_header(rank) = header;
    StreamFence();
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

absl::Status DirectExpertTransport::BeginCombine(std::span<const std::byte> results, size_t result_bytes) {
  Impl& s = *impl_;
  const Stopwatch stopwatch(s.exposed_ns);
  RETURN_IF_ERROR(CheckCombineArguments(results, result_bytes, s.arrivals.size()));
  if (result_bytes > s.options.result_bytes_max) {
    return absl::InternalError(absl::StrCat("combine of results of ", result_bytes, " bytes; the inboxes are for ",
                                            s.options.result_bytes_max));
  }
  s.results = results;
  s.result_bytes = result_bytes;
  for (size_t i = 0; i < s.sources.size(); ++i) {
    RETURN_IF_ERROR(s.SendResults(s.sources[(i + static_cast<size_t>(s.rank)) % s.sources.size()]));
  }
  return absl::OkStatus();
}

absl::Status DirectExpertTransport::Impl::TakeResults(Source& source, std::vector<const std::byte*>& combined) {
  const size_t stride = RoundUpTo(result_bytes, kMessageUnitBytes);
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
    from = own().results() + by_rank.begin(source.rank) * stride;
  }
  RETURN_IF_ERROR(CheckHeader(header, MessageKind::kCombine, source.rank, rank, clock));
  if (header.row_bytes != result_bytes) return OutOfStep("row size", source.rank, header.row_bytes, result_bytes);
  if (header.n_rows != pairs.size()) return OutOfStep("row count", source.rank, header.n_rows, pairs.size());
  for (size_t i = 0; i < pairs.size(); ++i) combined[pairs[i]] = from + i * stride;
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
  for (Impl::Source& source : s.sources) RETURN_IF_ERROR(s.TakeResults(source, combined));
  // This shard may sleep next, and nothing moves while it does.
  for (Impl::Source& source : s.sources) RETURN_IF_ERROR(s.Await(source.sending));
  for (Impl::Target& target : s.targets) RETURN_IF_ERROR(s.Await(target.sending));
  s.n_layers.fetch_add(1, std::memory_order_relaxed);
  if (s.options.watch != nullptr) s.options.watch->MarkProgress();
  return absl::OkStatus();
}

}  // namespace longshelf::engine
