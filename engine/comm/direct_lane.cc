#include "direct_lane.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "shared_files.h"

namespace longshelf::engine {
namespace {

static_assert(kMessageUnitBytes == kExchangeUnitBytes);

InboxShape ShapeFor(const DirectTransportOptions& options, size_t n_tokens_max, int n_shards) {
  const size_t n_pairs = n_tokens_max * options.n_experts_per_token;
  return {
      .n_sources = n_shards,
      .dispatch_bytes = DispatchLayout(MessageKind::kDispatch, n_tokens_max, n_pairs, options.row_bytes_max).n_bytes,
      .combine_rows = n_pairs,
      .result_stride = RoundUpTo(options.result_bytes_max, kMessageUnitBytes)};
}

// Of results between hosts.
size_t ResultBytesMax(const InboxShape& shape) {
  return kResultPiecesMax * sizeof(MessageHeader) + shape.combine_rows * shape.result_stride;
}

}  // namespace

bool IsNear(const HostMap& hosts, int rank, bool has_shared_memory, int other) {
  return has_shared_memory && hosts.host_of(other) == hosts.host_of(rank);
}

int ReceiverOn(const HostMap& hosts, int host, int source) {
  const std::vector<int> there = hosts.RanksOf(host);
  const std::vector<int> beside = hosts.RanksOf(hosts.host_of(source));
  const auto place = static_cast<size_t>(std::find(beside.begin(), beside.end(), source) - beside.begin());
  return there[place % there.size()];
}

TargetMap::TargetMap(const HostMap& hosts, int rank, bool has_shared_memory) {
  std::vector<int> of_host(static_cast<size_t>(hosts.n_hosts()), -1);
  for (int r = 0; r < hosts.n_ranks(); ++r) {
    const int host = hosts.host_of(r);
    int& known = of_host[static_cast<size_t>(host)];
    const bool as_host = has_shared_memory && host != hosts.host_of(rank);
    if (as_host && known >= 0) {
      of_rank.push_back(known);
      continue;
    }
    of_rank.push_back(static_cast<int>(receivers.size()));
    if (as_host) known = of_rank.back();
    receivers.push_back(as_host ? ReceiverOn(hosts, host, rank) : r);
  }
}

DirectGroup::DirectGroup(Communicator& the_communicator, const HostMap& host_map,
                         const DirectTransportOptions& the_options)
    : communicator(the_communicator),
      hosts(host_map),
      options(the_options),
      rank(communicator.rank()),
      size(communicator.size()),
      map(hosts, rank, !options.shm_dir.empty()),
      n_spins(options.n_spins) {
  routes.emplace_back(ExpertPlacement::Even(1, options.n_experts, size), 0, hosts, rank);
}
DirectGroup::~DirectGroup() = default;

absl::Status DirectGroup::Progress() {
  RETURN_IF_ERROR(communicator.Advance());
  for (const auto& lane : lanes) RETURN_IF_ERROR(lane->Progress());
  return absl::OkStatus();
}

DirectLane::DirectLane(DirectGroup& group, int number, size_t n_tokens_max)
    : group_(group),
      number_(number),
      n_tokens_max_(n_tokens_max),
      shape_(ShapeFor(group.options, n_tokens_max, group.size)),
      by_rank_(group.size) {
  clock_.generation = group.options.generation;
  clock_.lane = static_cast<uint16_t>(number);
  const auto n_targets = static_cast<int>(group.map.receivers.size());
  if (n_targets < group.size) by_target_.emplace(n_targets);
  for (const int receiver : group.map.receivers) {
    Target& target = targets_.emplace_back();
    target.rank = receiver;
    target.is_far = receiver != group.rank && !group.is_near(receiver);
  }
  for (int s = 0; s < group.size; ++s) {
    if (s == group.rank) continue;
    Source& source = sources_.emplace_back();
    source.rank = s;
    source.is_far = !group.is_near(s);
    source.receiver = source.is_far && !group.options.shm_dir.empty()
                          ? ReceiverOn(group.hosts, group.hosts.host_of(group.rank), s)
                          : group.rank;
  }
}

absl::Status DirectLane::MakeInboxes() {
  std::vector<MappedMemory> memory(static_cast<size_t>(group_.size));
  if (group_.options.shm_dir.empty()) {
    ASSIGN_OR_RETURN(memory[static_cast<size_t>(group_.rank)], MappedMemory::Private(shape_.n_bytes()));
  } else {
    ASSIGN_OR_RETURN(memory, ShareMemory(group_.communicator, group_.hosts, group_.options.shm_dir, NameOf("inbox"),
                                         shape_.n_bytes()));
  }
  for (MappedMemory& one : memory) inboxes_.emplace_back(std::move(one), shape_);
  return absl::OkStatus();
}

// As many results as the tokens have pairs: a shard that computes more than its share writes the others into the
// inboxes of their homes.
absl::Status DirectLane::MakeOutboxes(size_t n_tokens) {
  const size_t rows_bytes = n_tokens * group_.options.row_bytes_max;
  const size_t results_bytes = n_tokens * group_.options.n_experts_per_token * shape_.result_stride;
  outboxes_.clear();
  ASSIGN_OR_RETURN(std::vector<MappedMemory> memory,
                   ShareMemory(group_.communicator, group_.hosts, group_.options.shm_dir, NameOf("outbox"),
                               Outbox::NumBytes(rows_bytes, results_bytes)));
  for (MappedMemory& one : memory) outboxes_.emplace_back(std::move(one), rows_bytes, results_bytes);
  return absl::OkStatus();
}

absl::Status DirectLane::MakeBuffers() {
  for (Target& target : targets_) {
    if (!target.is_far) continue;
    ASSIGN_OR_RETURN(target.staging, MappedMemory::Private(shape_.dispatch_bytes));
  }
  for (Source& source : sources_) {
    if (!source.is_far) continue;
    ASSIGN_OR_RETURN(source.staging, MappedMemory::Private(ResultBytesMax(shape_)));
    ASSIGN_OR_RETURN(source.results, MappedMemory::Private(ResultBytesMax(shape_)));
  }
  return absl::OkStatus();
}

uint64_t DirectLane::NumBytes(const HostMap& hosts, int rank, const DirectTransportOptions& options,
                              size_t n_tokens_max) {
  const InboxShape shape = ShapeFor(options, n_tokens_max, hosts.n_ranks());
  const bool has_shared_memory = !options.shm_dir.empty();
  const auto is_far = [&](int r) { return r != rank && !IsNear(hosts, rank, has_shared_memory, r); };
  uint64_t n_bytes = shape.n_bytes();
  for (const int receiver : TargetMap(hosts, rank, has_shared_memory).receivers) {
    if (is_far(receiver)) n_bytes += shape.dispatch_bytes;
  }
  for (int r = 0; r < hosts.n_ranks(); ++r) {
    if (is_far(r)) n_bytes += 2 * ResultBytesMax(shape);
  }
  // Unless told otherwise it may choose to pull.
  if (has_shared_memory && (!options.ways.has_value() || WayTable(*options.ways).any_pulled())) {
    n_bytes += Outbox::NumBytes(n_tokens_max * options.row_bytes_max, shape.combine_rows * shape.result_stride);
  }
  return n_bytes;
}

void DirectLane::BeginStep(uint64_t seq) {
  clock_.seq = seq;
  clock_.layer_count = 0;
}

absl::Status DirectLane::EndIfDone(Communicator::Transfer& transfer) {
  return transfer.is_open() ? group_.communicator.IsDone(transfer).status() : absl::OkStatus();
}

bool DirectLane::has_open() const {
  const auto any = [](const PieceTransfers& pieces) {
    return std::any_of(pieces.begin(), pieces.end(), [](const auto& t) { return t.is_open(); });
  };
  return std::any_of(targets_.begin(), targets_.end(), [](const Target& t) { return t.sending.is_open(); }) ||
         std::any_of(sources_.begin(), sources_.end(), [&](const Source& s) {
           return s.is_far && (s.receiving.is_open() || any(s.sending) || any(s.collecting));
         });
}

// Messages move only while somebody asks, and others may wait for those of this shard while it waits for a flag.
absl::Status DirectLane::Progress() {
  for (Target& target : targets_) RETURN_IF_ERROR(EndIfDone(target.sending));
  for (Source& source : sources_) {
    if (!source.is_far) continue;
    for (Communicator::Transfer& piece : source.sending) RETURN_IF_ERROR(EndIfDone(piece));
    for (Communicator::Transfer& piece : source.collecting) RETURN_IF_ERROR(EndIfDone(piece));
    if (!source.receiving.is_open()) continue;
    RETURN_IF_ERROR(EndIfDone(source.receiving));
    if (!source.receiving.is_open()) {
      own().dispatched(source.rank).store(n_exchanges_, std::memory_order_release);
    }
  }
  return absl::OkStatus();
}

absl::Status DirectLane::Await(Communicator::Transfer& transfer) {
  return group_.WaitFor([&] { return !transfer.is_open(); });
}

std::byte* DirectLane::RowMemory(size_t n_tokens, size_t row_bytes) const {
  if (!pulls(DispatchWay(n_tokens)) || n_tokens * row_bytes > outbox(group_.rank).rows_bytes()) return nullptr;
  return outbox(group_.rank).rows();
}

// Who computes what, for shards and for targets.
absl::Status DirectLane::GroupPairs(std::span<const ExpertAssignment> pairs, size_t n_tokens) {
  RETURN_IF_ERROR(RoutePairs(pairs, n_tokens, *routes_, rank_of_pair_));
  by_rank_.Group(pairs, rank_of_pair_);
  if (!by_target_.has_value()) return absl::OkStatus();
  target_of_pair_.resize(pairs.size());
  for (size_t i = 0; i < pairs.size(); ++i) {
    target_of_pair_[i] = static_cast<uint16_t>(group_.map.of_rank[rank_of_pair_[i]]);
  }
  by_target_->Group(pairs, target_of_pair_);
  return absl::OkStatus();
}

void DirectLane::OrderByExpert(std::span<const uint32_t> pairs, std::vector<uint32_t>& ordered) {
  cursor_.assign(size_t{routes_->n_experts()} + 1, 0U);
  for (const uint32_t i : pairs) ++cursor_[outgoing_.assignments[i].expert + 1];
  for (size_t e = 1; e < cursor_.size(); ++e) cursor_[e] += cursor_[e - 1];
  ordered.resize(pairs.size());
  for (const uint32_t i : pairs) ordered[cursor_[outgoing_.assignments[i].expert]++] = i;
}

absl::Status DirectLane::SendDispatch(Target& target, size_t index) {
  const bool pulled = !target.is_far && pulls(dispatch_way_);
  MessageHeader header =
      MakeHeader(pulled ? MessageKind::kDispatchPulled : MessageKind::kDispatch, group_.rank, target.rank, clock_);
  FillDispatchHeader(of_targets(), static_cast<int>(index), row_bytes_, header);
  // A neighbour puts its results where they belong; from elsewhere they come in messages.
  header.first_row = target.is_far ? 0 : static_cast<uint32_t>(by_rank_.begin(target.rank));
  SealHeader(header);
  if (!target.is_far) {
    const bool streamed = dispatch_way_ == RowWay::kStream;
    PackDispatch(header, of_targets(), static_cast<int>(index), outgoing_,
                 streamed ? RowStore::kStream : RowStore::kPlain, inbox(target.rank).dispatch(group_.rank));
    if (streamed) FenceResults();
    inbox(target.rank).dispatched(group_.rank).store(n_exchanges_, std::memory_order_release);
    group_.shared_bytes += header.n_bytes + (pulled ? header.n_tokens * row_bytes_ : 0);
    return absl::OkStatus();
  }
  PackDispatch(header, of_targets(), static_cast<int>(index), outgoing_, RowStore::kPlain, target.staging.data());
  ASSIGN_OR_RETURN(target.sending, group_.communicator.StartSend(target.rank, tag(kDispatchTag), target.staging.data(),
                                                                 header.n_bytes / kExchangeUnitBytes));
  group_.sent_bytes += header.n_bytes;
  return absl::OkStatus();
}

// Of rows for this host and of results from others, before anything is sent.
absl::Status DirectLane::PostReceives() {
  for (Source& source : sources_) {
    if (!source.is_far || group_.near_only) continue;
    if (source.receiver == group_.rank) {
      ASSIGN_OR_RETURN(source.receiving,
                       group_.communicator.StartReceive(source.rank, tag(kDispatchTag), own().dispatch(source.rank),
                                                        shape_.dispatch_bytes / kExchangeUnitBytes));
    }
    const ResultPieces pieces = PiecesOf(by_rank_.n_rows(source.rank));
    for (size_t p = 0; p < pieces.n; ++p) {
      const size_t n_bytes = sizeof(MessageHeader) + pieces.count(p) * pieces.stride;
      ASSIGN_OR_RETURN(source.collecting[p], group_.communicator.StartReceive(source.rank, tag(kCombineTag),
                                                                              source.results.data() + pieces.offset(p),
                                                                              n_bytes / kExchangeUnitBytes));
    }
  }
  return absl::OkStatus();
}

absl::Status DirectLane::BeginDispatch(uint32_t layer, std::span<const std::byte> rows, size_t row_bytes,
                                       std::span<const ExpertAssignment> assignments) {
  RETURN_IF_ERROR(CheckDispatchArguments(rows, row_bytes));
  const size_t n_tokens = rows.size() / row_bytes;
  if (n_tokens > n_tokens_max_ || row_bytes > group_.options.row_bytes_max ||
      assignments.size() > shape_.combine_rows) {
    return absl::InternalError(absl::StrCat("dispatch of ", n_tokens, " rows of ", row_bytes, " bytes to ",
                                            assignments.size(), " experts; the inboxes of lane ", number_, " are for ",
                                            n_tokens_max_, " of ", group_.options.row_bytes_max, " to ",
                                            shape_.combine_rows));
  }
  ASSIGN_OR_RETURN(routes_, RoutesOf(group_.routes, layer));
  row_bytes_ = row_bytes;
  dispatch_way_ = DispatchWay(n_tokens);
  ++clock_.layer_count;
  ++n_exchanges_;
  own_done_.clear();
  RETURN_IF_ERROR(GroupPairs(assignments, n_tokens));
  outgoing_ = {rows, assignments, rank_of_pair_};
  RETURN_IF_ERROR(PostReceives());
  if (pulls(dispatch_way_) && rows.data() != outbox(group_.rank).rows() && !rows.empty()) {
    std::memcpy(outbox(group_.rank).rows(), rows.data(), rows.size());
  }
  // From the next shard on, so that not all of them send to the first one first.
  for (size_t i = 0; i < targets_.size(); ++i) {
    const size_t at = (i + static_cast<size_t>(group_.rank) + 1) % targets_.size();
    Target& target = targets_[at];
    if (target.rank != group_.rank && !(target.is_far && group_.near_only)) RETURN_IF_ERROR(SendDispatch(target, at));
  }
  OrderByExpert(by_rank_.of(group_.rank), own_);
  return absl::OkStatus();
}

void DirectLane::OwnRows(std::vector<DispatchedRow>& own) const {
  own.clear();
  for (const uint32_t i : own_) {
    const ExpertAssignment& a = outgoing_.assignments[i];
    own.push_back({.expert = a.expert, .weight = a.weight, .row = outgoing_.rows.data() + a.token * row_bytes_});
  }
}

bool DirectLane::HasArrived(const Source& source) {
  return inbox(source.receiver).dispatched(source.rank).load(std::memory_order_acquire) >= n_exchanges_;
}

// What this shard receives for its neighbours too counts: they wait for it.
bool DirectLane::HasArrived() {
  return std::all_of(sources_.begin(), sources_.end(), [this](const Source& source) {
    return !takes_part(source) || (HasArrived(source) && !source.receiving.is_open());
  });
}

absl::Status DirectLane::ReadSource(Source& source) {
  IncomingDispatch incoming;
  incoming.message = inbox(source.receiver).dispatch(source.rank);
  std::memcpy(&incoming.header, incoming.message, sizeof(incoming.header));
  const MessageHeader& header = incoming.header;
  const bool pulled = !source.is_far && !outboxes_.empty() && header.kind == MessageKind::kDispatchPulled;
  RETURN_IF_ERROR(CheckHeader(header, pulled ? MessageKind::kDispatchPulled : MessageKind::kDispatch, source.rank,
                              source.receiver, clock_));
  RETURN_IF_ERROR(CheckDispatchCounts(header, row_bytes_, routes_->n_experts()));
  if (header.n_bytes > shape_.dispatch_bytes || header.first_row + uint64_t{header.n_rows} > shape_.combine_rows) {
    return OutOfStep("message size", source.rank, header.n_bytes, shape_.dispatch_bytes);
  }
  if (pulled) {
    incoming.rows = outbox(source.rank).rows();
    incoming.n_rows_max = outbox(source.rank).rows_bytes() / row_bytes_;
  }
  incoming.all_are_ours = !source.is_far || group_.options.shm_dir.empty();
  source.first_arrival = arrivals_.size();
  source.first_row = header.first_row;
  RETURN_IF_ERROR(ReadDispatch(incoming, *routes_, arrivals_));
  source.n_arrivals = arrivals_.size() - source.first_arrival;
  return absl::OkStatus();
}

absl::Status DirectLane::FinishDispatch(std::span<const DispatchedRow> done, std::vector<DispatchedRow>& received) {
  if (done.size() > own_.size()) {
    return absl::InternalError(absl::StrCat(done.size(), " own rows were computed early; there are ", own_.size()));
  }
  for (const DispatchedRow& row : done) own_done_.push_back(row.result);
  // What this shard receives for its neighbours too comes first: they wait for it, and it computes next.
  for (Source& source : sources_) {
    if (source.receiving.is_open()) RETURN_IF_ERROR(Await(source.receiving));
  }
  arrivals_.clear();
  for (int r = 0; r < group_.size; ++r) {
    if (r != group_.rank) {
      Source& source = sources_[static_cast<size_t>(r < group_.rank ? r : r - 1)];
      if (!takes_part(source)) continue;
      RETURN_IF_ERROR(group_.WaitFor([&] { return HasArrived(source); }));
      RETURN_IF_ERROR(ReadSource(source));
      continue;
    }
    own_first_ = arrivals_.size();
    for (const uint32_t i : std::span(own_).subspan(own_done_.size())) {
      const ExpertAssignment& a = outgoing_.assignments[i];
      arrivals_.push_back({a.expert, a.weight, outgoing_.rows.data() + a.token * row_bytes_});
    }
  }
  if (group_.options.watch != nullptr) group_.options.watch->MarkProgress();
  order_.Order(arrivals_, routes_->n_experts(), received);
  return absl::OkStatus();
}

}  // namespace longshelf::engine
