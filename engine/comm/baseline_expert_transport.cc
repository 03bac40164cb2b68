#include "engine/comm/baseline_expert_transport.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "expert_messages.h"

namespace longshelf::engine {
namespace {

static_assert(kMessageUnitBytes == kExchangeUnitBytes);

struct alignas(kExchangeUnitBytes) Unit {
  std::byte bytes[kExchangeUnitBytes];
};

std::byte* Bytes(std::vector<Unit>& buffer) { return reinterpret_cast<std::byte*>(buffer.data()); }

// Places messages of these sizes one behind the other.
void PlaceParts(std::span<const size_t> n_bytes, std::vector<ExchangePart>& parts, std::vector<Unit>& buffer) {
  parts.resize(n_bytes.size());
  size_t n_units = 0;
  for (size_t r = 0; r < n_bytes.size(); ++r) {
    parts[r] = {n_units, n_bytes[r] / kExchangeUnitBytes};
    n_units += parts[r].n_units;
  }
  if (buffer.size() < n_units) buffer.resize(n_units);
}

// Nothing when there are no rows.
size_t CombineBytes(size_t n_rows, size_t result_bytes) {
  return n_rows == 0 ? 0 : sizeof(MessageHeader) + n_rows * RoundUpTo(result_bytes, kMessageUnitBytes);
}

}  // namespace

struct BaselineExpertTransport::Impl {
  Communicator& communicator;
  const int rank;
  const int size;
  std::vector<ExpertRoutes> routes;  // by layer, or one for all
  const ExpertRoutes* layer_routes = nullptr;
  std::vector<uint16_t> rank_of_pair;
  Grouping grouping;
  MessageClock clock;
  OutgoingRows outgoing;
  size_t row_bytes = 0;
  std::span<std::byte> results;
  size_t result_bytes = 0;

  std::vector<MessageHeader> sent_headers;
  std::vector<MessageHeader> received_headers;
  std::vector<size_t> n_bytes;
  std::vector<ExchangePart> send_parts;
  std::vector<ExchangePart> receive_parts;
  std::vector<Unit> send;
  std::vector<Unit> receive_rows;  // what `received` points into
  std::vector<Unit> receive_results;
  std::vector<Arrival> arrivals;
  std::vector<size_t> arrival_begin;  // [size + 1], by source
  ArrivalOrder order;

  Impl(Communicator& the_communicator, uint32_t n_experts, uint64_t generation)
      : communicator(the_communicator), rank(communicator.rank()), size(communicator.size()), grouping(size) {
    SetPlacement(ExpertPlacement::Even(1, n_experts, size));
    clock.generation = generation;
    const auto n = static_cast<size_t>(size);
    sent_headers.resize(n);
    received_headers.resize(n);
    n_bytes.resize(n);
    arrival_begin.resize(n + 1);
  }

  size_t n_arrivals(int source) const {
    const auto s = static_cast<size_t>(source);
    return arrival_begin[s + 1] - arrival_begin[s];
  }

  void SetPlacement(const ExpertPlacement& placement);
  absl::Status ExchangeHeaders();
  absl::Status ReadArrivals();
};

// It knows nothing of hosts.
void BaselineExpertTransport::Impl::SetPlacement(const ExpertPlacement& placement) {
  routes.clear();
  for (uint32_t l = 0; l < placement.n_layers(); ++l) routes.emplace_back(placement, l, HostMap(size), rank);
}

BaselineExpertTransport::BaselineExpertTransport(Communicator& communicator, uint32_t n_experts, uint64_t generation)
    : impl_(std::make_unique<Impl>(communicator, n_experts, generation)) {}
BaselineExpertTransport::~BaselineExpertTransport() = default;

int BaselineExpertTransport::rank() const { return impl_->rank; }
int BaselineExpertTransport::size() const { return impl_->size; }

void BaselineExpertTransport::SetPlacement(const ExpertPlacement& placement) { impl_->SetPlacement(placement); }

void BaselineExpertTransport::BeginStep(uint64_t seq) {
  impl_->clock.seq = seq;
  impl_->clock.layer_count = 0;
}

// Counts and the lockstep check in one small exchange; afterwards both sides know every message's size.
absl::Status BaselineExpertTransport::Impl::ExchangeHeaders() {
  for (int d = 0; d < size; ++d) {
    MessageHeader& header = sent_headers[static_cast<size_t>(d)];
    header = MakeHeader(MessageKind::kDispatch, rank, d, clock);
    FillDispatchHeader(grouping, d, row_bytes, header);
    SealHeader(header);
  }
  RETURN_IF_ERROR(communicator.ExchangeFixed(std::as_bytes(std::span(sent_headers)),
                                             std::as_writable_bytes(std::span(received_headers))));
  for (int s = 0; s < size; ++s) {
    const MessageHeader& header = received_headers[static_cast<size_t>(s)];
    RETURN_IF_ERROR(CheckHeader(header, MessageKind::kDispatch, s, rank, clock));
    RETURN_IF_ERROR(CheckDispatchCounts(header, row_bytes, layer_routes->n_experts()));
  }
  return absl::OkStatus();
}

absl::Status BaselineExpertTransport::BeginDispatch(uint32_t layer, std::span<const std::byte> rows, size_t row_bytes,
                                                    std::span<const ExpertAssignment> assignments) {
  Impl& s = *impl_;
  RETURN_IF_ERROR(CheckDispatchArguments(rows, row_bytes));
  s.row_bytes = row_bytes;
  ++s.clock.layer_count;
  ASSIGN_OR_RETURN(s.layer_routes, RoutesOf(s.routes, layer));
  RETURN_IF_ERROR(RoutePairs(assignments, rows.size() / row_bytes, *s.layer_routes, s.rank_of_pair));
  s.grouping.Group(assignments, s.rank_of_pair);
  s.outgoing = {rows, assignments, s.rank_of_pair};
  RETURN_IF_ERROR(s.ExchangeHeaders());
  for (size_t d = 0; d < s.n_bytes.size(); ++d) {
    s.n_bytes[d] = d == static_cast<size_t>(s.rank) || s.sent_headers[d].n_rows == 0 ? 0 : s.sent_headers[d].n_bytes;
  }
  PlaceParts(s.n_bytes, s.send_parts, s.send);
  for (int d = 0; d < s.size; ++d) {
    const auto at = static_cast<size_t>(d);
    if (s.n_bytes[at] == 0) continue;
    PackDispatch(s.sent_headers[at], s.grouping, d, s.outgoing, RowStore::kPlain,
                 s.send[s.send_parts[at].first_unit].bytes);
  }
  for (size_t i = 0; i < s.n_bytes.size(); ++i) {
    const MessageHeader& header = s.received_headers[i];
    s.n_bytes[i] = i == static_cast<size_t>(s.rank) || header.n_rows == 0 ? 0 : header.n_bytes;
  }
  PlaceParts(s.n_bytes, s.receive_parts, s.receive_rows);
  return s.communicator.ExchangeUnits(Bytes(s.send), s.send_parts, Bytes(s.receive_rows), s.receive_parts);
}

absl::Status BaselineExpertTransport::Impl::ReadArrivals() {
  arrivals.clear();
  for (int source = 0; source < size; ++source) {
    const auto at = static_cast<size_t>(source);
    arrival_begin[at] = arrivals.size();
    if (source == rank) {
      // This shard's own pairs never leave it.
      for (const uint32_t i : grouping.of(rank)) {
        const ExpertAssignment& a = outgoing.assignments[i];
        arrivals.push_back({a.expert, a.weight, outgoing.rows.data() + a.token * row_bytes});
      }
    } else if (receive_parts[at].n_units > 0) {
      IncomingDispatch incoming;
      incoming.header = received_headers[at];
      incoming.message = receive_rows[receive_parts[at].first_unit].bytes;
      RETURN_IF_ERROR(ReadDispatch(incoming, *layer_routes, arrivals));
    }
  }
  arrival_begin.back() = arrivals.size();
  return absl::OkStatus();
}

absl::Status BaselineExpertTransport::FinishDispatch(std::vector<DispatchedRow>& received) {
  RETURN_IF_ERROR(impl_->ReadArrivals());
  impl_->order.Order(impl_->arrivals, impl_->layer_routes->n_experts(), received);
  return absl::OkStatus();
}

absl::Status BaselineExpertTransport::PlaceResults(std::span<std::byte> results, size_t result_bytes,
                                                   std::span<DispatchedRow> received) {
  Impl& s = *impl_;
  RETURN_IF_ERROR(CheckCombineArguments(results, result_bytes, s.arrivals.size()));
  s.results = results;
  s.result_bytes = result_bytes;
  for (size_t i = 0; i < received.size(); ++i) received[i].result = results.data() + i * result_bytes;
  return absl::OkStatus();
}

absl::Status BaselineExpertTransport::BeginCombine() {
  Impl& s = *impl_;
  const size_t result_bytes = s.result_bytes;
  for (int d = 0; d < s.size; ++d) {
    s.n_bytes[static_cast<size_t>(d)] = d == s.rank ? 0 : CombineBytes(s.n_arrivals(d), result_bytes);
  }
  PlaceParts(s.n_bytes, s.send_parts, s.send);
  for (int d = 0; d < s.size; ++d) {
    const auto at = static_cast<size_t>(d);
    if (s.n_bytes[at] == 0) continue;
    MessageHeader header = MakeHeader(MessageKind::kCombine, s.rank, d, s.clock);
    header.n_rows = static_cast<uint32_t>(s.n_arrivals(d));
    header.row_bytes = static_cast<uint32_t>(result_bytes);
    header.n_bytes = s.n_bytes[at];
    SealHeader(header);
    std::byte* to = s.send[s.send_parts[at].first_unit].bytes;
    std::memcpy(to, &header, sizeof(header));
    to += sizeof(header);
    for (size_t i = s.arrival_begin[at]; i < s.arrival_begin[at + 1]; ++i) {
      std::memcpy(to, s.results.data() + s.order.place(i) * result_bytes, result_bytes);
      to += RoundUpTo(result_bytes, kMessageUnitBytes);
    }
  }
  for (int r = 0; r < s.size; ++r) {
    s.n_bytes[static_cast<size_t>(r)] = r == s.rank ? 0 : CombineBytes(s.grouping.n_rows(r), result_bytes);
  }
  PlaceParts(s.n_bytes, s.receive_parts, s.receive_results);
  return s.communicator.ExchangeUnits(Bytes(s.send), s.send_parts, Bytes(s.receive_results), s.receive_parts);
}

// Every result is found at the address of its assignment; nothing depends on the order of arrival.
absl::Status BaselineExpertTransport::FinishCombine(std::vector<const std::byte*>& combined) {
  Impl& s = *impl_;
  combined.resize(s.grouping.n_all());
  const size_t stride = RoundUpTo(s.result_bytes, kMessageUnitBytes);
  for (int r = 0; r < s.size; ++r) {
    const std::span<const uint32_t> pairs = s.grouping.of(r);
    if (pairs.empty()) continue;
    const auto at = static_cast<size_t>(r);
    const std::byte* from = nullptr;
    if (r != s.rank) {
      MessageHeader header;
      const std::byte* message = s.receive_results[s.receive_parts[at].first_unit].bytes;
      std::memcpy(&header, message, sizeof(header));
      RETURN_IF_ERROR(CheckHeader(header, MessageKind::kCombine, r, s.rank, s.clock));
      if (header.row_bytes != s.result_bytes) return OutOfStep("row size", r, header.row_bytes, s.result_bytes);
      if (header.n_rows != pairs.size()) return OutOfStep("row count", r, header.n_rows, pairs.size());
      from = message + sizeof(header);
    }
    for (size_t i = 0; i < pairs.size(); ++i) {
      combined[pairs[i]] = from != nullptr ? from + i * stride
                                           : s.results.data() + s.order.place(s.arrival_begin[at] + i) * s.result_bytes;
    }
  }
  return absl::OkStatus();
}

}  // namespace longshelf::engine
