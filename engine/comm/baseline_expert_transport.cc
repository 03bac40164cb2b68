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

class BaselineExpertTransport::Exchange {
 public:
  Exchange(Communicator& communicator, int lane, uint64_t generation)
      : communicator_(communicator),
        rank_(communicator.rank()),
        size_(communicator.size()),
        grouping_(size_),
        sent_headers_(static_cast<size_t>(size_)),
        received_headers_(static_cast<size_t>(size_)),
        n_bytes_(static_cast<size_t>(size_)),
        arrival_begin_(static_cast<size_t>(size_) + 1) {
    clock_.generation = generation;
    clock_.lane = static_cast<uint16_t>(lane);
  }

  void BeginStep(uint64_t seq) {
    clock_.seq = seq;
    clock_.layer_count = 0;
  }
  absl::Status BeginDispatch(const ExpertRoutes& routes, std::span<const std::byte> rows, size_t row_bytes,
                             std::span<const ExpertAssignment> assignments);
  absl::Status FinishDispatch(std::vector<DispatchedRow>& received);
  absl::Status PlaceResults(std::span<std::byte> results, size_t result_bytes, std::span<DispatchedRow> received);
  absl::Status BeginCombine();
  absl::Status FinishCombine(std::vector<const std::byte*>& combined);

 private:
  size_t n_arrivals(int source) const {
    const auto s = static_cast<size_t>(source);
    return arrival_begin_[s + 1] - arrival_begin_[s];
  }
  absl::Status ExchangeHeaders();
  absl::Status ReadArrivals();

  Communicator& communicator_;
  const int rank_;
  const int size_;
  const ExpertRoutes* routes_ = nullptr;
  std::vector<uint16_t> rank_of_pair_;
  Grouping grouping_;
  MessageClock clock_;
  OutgoingRows outgoing_;
  size_t row_bytes_ = 0;
  std::span<std::byte> results_;
  size_t result_bytes_ = 0;

  std::vector<MessageHeader> sent_headers_;
  std::vector<MessageHeader> received_headers_;
  std::vector<size_t> n_bytes_;
  std::vector<ExchangePart> send_parts_;
  std::vector<ExchangePart> receive_parts_;
  std::vector<Unit> send_;
  std::vector<Unit> receive_rows_;  // what `received` points into
  std::vector<Unit> receive_results_;
  std::vector<Arrival> arrivals_;
  std::vector<size_t> arrival_begin_;  // [size + 1], by source
  ArrivalOrder order_;
};

BaselineExpertTransport::BaselineExpertTransport(Communicator& communicator, uint32_t n_experts, uint64_t generation)
    : communicator_(communicator) {
  SetPlacement(ExpertPlacement::Even(1, n_experts, size()));
  for (int lane = 0; lane < kExchangeLanes; ++lane) lanes_.emplace_back(communicator, lane, generation);
}
BaselineExpertTransport::~BaselineExpertTransport() = default;

int BaselineExpertTransport::rank() const { return communicator_.rank(); }
int BaselineExpertTransport::size() const { return communicator_.size(); }

// It knows nothing of hosts.
void BaselineExpertTransport::SetPlacement(const ExpertPlacement& placement) {
  routes_.clear();
  for (uint32_t l = 0; l < placement.n_layers(); ++l) routes_.emplace_back(placement, l, HostMap(size()), rank());
}

void BaselineExpertTransport::BeginStep(uint64_t seq) {
  for (Exchange& lane : lanes_) lane.BeginStep(seq);
}

absl::Status BaselineExpertTransport::BeginDispatch(int lane, uint32_t layer, std::span<const std::byte> rows,
                                                    size_t row_bytes, std::span<const ExpertAssignment> assignments) {
  ASSIGN_OR_RETURN(const ExpertRoutes* routes, RoutesOf(routes_, layer));
  return lanes_[static_cast<size_t>(lane)].BeginDispatch(*routes, rows, row_bytes, assignments);
}

absl::Status BaselineExpertTransport::FinishDispatch(int lane, std::span<const DispatchedRow>,
                                                     std::vector<DispatchedRow>& received) {
  return lanes_[static_cast<size_t>(lane)].FinishDispatch(received);
}

absl::Status BaselineExpertTransport::PlaceResults(int lane, std::span<std::byte> results, size_t result_bytes,
                                                   std::span<DispatchedRow> received) {
  return lanes_[static_cast<size_t>(lane)].PlaceResults(results, result_bytes, received);
}

absl::Status BaselineExpertTransport::BeginCombine(int lane) {
  return lanes_[static_cast<size_t>(lane)].BeginCombine();
}

absl::Status BaselineExpertTransport::FinishCombine(int lane, std::vector<const std::byte*>& combined) {
  return lanes_[static_cast<size_t>(lane)].FinishCombine(combined);
}

// Counts and the lockstep check in one small exchange; afterwards both sides know every message's size.
absl::Status BaselineExpertTransport::Exchange::ExchangeHeaders() {
  for (int d = 0; d < size_; ++d) {
    MessageHeader& header = sent_headers_[static_cast<size_t>(d)];
    header = MakeHeader(MessageKind::kDispatch, rank_, d, clock_);
    FillDispatchHeader(grouping_, d, row_bytes_, header);
    SealHeader(header);
  }
  RETURN_IF_ERROR(communicator_.ExchangeFixed(std::as_bytes(std::span(sent_headers_)),
                                              std::as_writable_bytes(std::span(received_headers_))));
  for (int s = 0; s < size_; ++s) {
    const MessageHeader& header = received_headers_[static_cast<size_t>(s)];
    RETURN_IF_ERROR(CheckHeader(header, MessageKind::kDispatch, s, rank_, clock_));
    RETURN_IF_ERROR(CheckDispatchCounts(header, row_bytes_, routes_->n_experts()));
  }
  return absl::OkStatus();
}

absl::Status BaselineExpertTransport::Exchange::BeginDispatch(const ExpertRoutes& routes,
                                                              std::span<const std::byte> rows, size_t row_bytes,
                                                              std::span<const ExpertAssignment> assignments) {
  RETURN_IF_ERROR(CheckDispatchArguments(rows, row_bytes));
  row_bytes_ = row_bytes;
  ++clock_.layer_count;
  routes_ = &routes;
  RETURN_IF_ERROR(RoutePairs(assignments, rows.size() / row_bytes_, *routes_, rank_of_pair_));
  grouping_.Group(assignments, rank_of_pair_);
  outgoing_ = {rows, assignments, rank_of_pair_};
  RETURN_IF_ERROR(ExchangeHeaders());
  for (size_t d = 0; d < n_bytes_.size(); ++d) {
    n_bytes_[d] = d == static_cast<size_t>(rank_) || sent_headers_[d].n_rows == 0 ? 0 : sent_headers_[d].n_bytes;
  }
  PlaceParts(n_bytes_, send_parts_, send_);
  for (int d = 0; d < size_; ++d) {
    const auto at = static_cast<size_t>(d);
    if (n_bytes_[at] == 0) continue;
    PackDispatch(sent_headers_[at], grouping_, d, outgoing_, RowStore::kPlain, send_[send_parts_[at].first_unit].bytes);
  }
  for (size_t i = 0; i < n_bytes_.size(); ++i) {
    const MessageHeader& header = received_headers_[i];
    n_bytes_[i] = i == static_cast<size_t>(rank_) || header.n_rows == 0 ? 0 : header.n_bytes;
  }
  PlaceParts(n_bytes_, receive_parts_, receive_rows_);
  return communicator_.ExchangeUnits(Bytes(send_), send_parts_, Bytes(receive_rows_), receive_parts_);
}

absl::Status BaselineExpertTransport::Exchange::ReadArrivals() {
  arrivals_.clear();
  for (int source = 0; source < size_; ++source) {
    const auto at = static_cast<size_t>(source);
    arrival_begin_[at] = arrivals_.size();
    if (source == rank_) {
      // This shard's own pairs never leave it.
      for (const uint32_t i : grouping_.of(rank_)) {
        const ExpertAssignment& a = outgoing_.assignments[i];
        arrivals_.push_back({a.expert, a.weight, outgoing_.rows.data() + a.token * row_bytes_});
      }
    } else if (receive_parts_[at].n_units > 0) {
      IncomingDispatch incoming;
      incoming.header = received_headers_[at];
      incoming.message = receive_rows_[receive_parts_[at].first_unit].bytes;
      RETURN_IF_ERROR(ReadDispatch(incoming, *routes_, arrivals_));
    }
  }
  arrival_begin_.back() = arrivals_.size();
  return absl::OkStatus();
}

absl::Status BaselineExpertTransport::Exchange::FinishDispatch(std::vector<DispatchedRow>& received) {
  RETURN_IF_ERROR(ReadArrivals());
  order_.Order(arrivals_, routes_->n_experts(), received);
  return absl::OkStatus();
}

absl::Status BaselineExpertTransport::Exchange::PlaceResults(std::span<std::byte> results, size_t result_bytes,
                                                             std::span<DispatchedRow> received) {
  RETURN_IF_ERROR(CheckCombineArguments(results, result_bytes, arrivals_.size()));
  results_ = results;
  result_bytes_ = result_bytes;
  for (size_t i = 0; i < received.size(); ++i) received[i].result = results_.data() + i * result_bytes_;
  return absl::OkStatus();
}

absl::Status BaselineExpertTransport::Exchange::BeginCombine() {
  for (int d = 0; d < size_; ++d) {
    n_bytes_[static_cast<size_t>(d)] = d == rank_ ? 0 : CombineBytes(n_arrivals(d), result_bytes_);
  }
  PlaceParts(n_bytes_, send_parts_, send_);
  for (int d = 0; d < size_; ++d) {
    const auto at = static_cast<size_t>(d);
    if (n_bytes_[at] == 0) continue;
    MessageHeader header = MakeHeader(MessageKind::kCombine, rank_, d, clock_);
    header.n_rows = static_cast<uint32_t>(n_arrivals(d));
    header.row_bytes = static_cast<uint32_t>(result_bytes_);
    header.n_bytes = n_bytes_[at];
    SealHeader(header);
    std::byte* to = send_[send_parts_[at].first_unit].bytes;
    std::memcpy(to, &header, sizeof(header));
    to += sizeof(header);
    for (size_t i = arrival_begin_[at]; i < arrival_begin_[at + 1]; ++i) {
      std::memcpy(to, results_.data() + order_.place(i) * result_bytes_, result_bytes_);
      to += RoundUpTo(result_bytes_, kMessageUnitBytes);
    }
  }
  for (int r = 0; r < size_; ++r) {
    n_bytes_[static_cast<size_t>(r)] = r == rank_ ? 0 : CombineBytes(grouping_.n_rows(r), result_bytes_);
  }
  PlaceParts(n_bytes_, receive_parts_, receive_results_);
  return communicator_.ExchangeUnits(Bytes(send_), send_parts_, Bytes(receive_results_), receive_parts_);
}

// Every result is found at the address of its assignment; nothing depends on the order of arrival.
absl::Status BaselineExpertTransport::Exchange::FinishCombine(std::vector<const std::byte*>& combined) {
  combined.resize(grouping_.n_all());
  const size_t stride = RoundUpTo(result_bytes_, kMessageUnitBytes);
  for (int r = 0; r < size_; ++r) {
    const std::span<const uint32_t> pairs = grouping_.of(r);
    if (pairs.empty()) continue;
    const auto at = static_cast<size_t>(r);
    const std::byte* from = nullptr;
    if (r != rank_) {
      MessageHeader header;
      const std::byte* message = receive_results_[receive_parts_[at].first_unit].bytes;
      std::memcpy(&header, message, sizeof(header));
      RETURN_IF_ERROR(CheckHeader(header, MessageKind::kCombine, r, rank_, clock_));
      if (header.row_bytes != result_bytes_) return OutOfStep("row size", r, header.row_bytes, result_bytes_);
      if (header.n_rows != pairs.size()) return OutOfStep("row count", r, header.n_rows, pairs.size());
      from = message + sizeof(header);
    }
    for (size_t i = 0; i < pairs.size(); ++i) {
      combined[pairs[i]] =
          from != nullptr ? from + i * stride : results_.data() + order_.place(arrival_begin_[at] + i) * result_bytes_;
    }
  }
  return absl::OkStatus();
}

}  // namespace longshelf::engine
