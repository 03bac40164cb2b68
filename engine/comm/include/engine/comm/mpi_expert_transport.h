#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/comm/communicator.h"
#include "engine/comm/expert_transport.h"

namespace longshelf::engine {

// The transport over MPI: headers with counts by one fixed exchange, then one exchange of rows for dispatch and one for
// combine. A token's row travels once per destination shard with its {expert, weight} list; a shard's own rows are
// never copied on dispatch. Every header is checked against this shard's own generation, step and layer count, so a
// shard that fell out of step is noticed at the next layer and not in the output.
class MpiExpertTransport final : public ExpertTransport {
 public:
  // Experts are spread evenly and contiguously (FirstExpertOf). `communicator` must outlive this.
  MpiExpertTransport(Communicator& communicator, uint32_t n_experts, uint64_t generation);

  // Before each step's first Dispatch; the layer count restarts.
  void BeginStep(uint64_t seq);

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  // INTERNAL: a peer's message is not of this step and layer, or is malformed; the group must end.
  absl::Status Dispatch(std::span<const std::byte> rows, size_t row_bytes,
                        std::span<const ExpertAssignment> assignments, std::vector<DispatchedRow>& received) override;
  absl::Status Combine(std::span<const std::byte> results, size_t result_bytes, std::span<std::byte> combined) override;

 private:
  struct alignas(kExchangeUnitBytes) Unit {
    std::byte bytes[kExchangeUnitBytes];
  };
  // Leads every message; also carries the counts.
  struct Header {
    uint32_t magic = 0;
    uint16_t kind = 0;  // dispatch or combine
    uint16_t source = 0;
    uint64_t generation = 0;
    uint64_t seq = 0;
    uint64_t layer_count = 0;  // dispatches since the step began
    uint32_t destination = 0;
    uint32_t n_tokens = 0;  // distinct rows
    uint32_t n_rows = 0;    // {token, expert} pairs
    uint32_t row_bytes = 0;
    uint64_t n_units = 0;  // of the message that follows
    uint32_t reserved = 0;
    uint32_t checksum = 0;  // XXH32 of all before
  };
  static_assert(sizeof(Header) == kExchangeUnitBytes);
  // A pair that reached this shard, in the order (source rank, token, expert).
  struct Arrival {
    uint32_t expert;
    float weight;
    const std::byte* row;
  };

  absl::Status GroupByOwner(std::span<const ExpertAssignment> assignments, size_t n_tokens);
  absl::Status ExchangeHeaders(size_t row_bytes);
  void PackRows(std::span<const std::byte> rows, size_t row_bytes, std::span<const ExpertAssignment> assignments);
  absl::Status ReadArrivals(std::span<const std::byte> rows, size_t row_bytes,
                            std::span<const ExpertAssignment> assignments);
  absl::Status ReadMessage(int source, size_t row_bytes);
  void OrderByExpert(std::vector<DispatchedRow>& received);
  absl::Status PlaceResults(std::span<const std::byte> results, size_t result_bytes, std::span<std::byte> combined);
  absl::Status CheckHeader(const Header& header, uint16_t kind, int source) const;
  Header MakeHeader(uint16_t kind, int destination) const;
  void PlaceParts(std::span<const size_t> n_units, std::vector<ExchangePart>& parts, std::vector<Unit>& buffer);

  Communicator& communicator_;
  const int rank_;
  const int size_;
  const uint32_t n_experts_;
  const uint64_t generation_;
  std::vector<int> owner_;  // by expert
  uint64_t seq_ = 0;
  uint64_t n_dispatched_ = 0;  // dispatches in this step
  size_t row_bytes_ = 0;

  // By destination: which assignments go there, and how many distinct tokens they name.
  std::vector<uint32_t> by_owner_;   // assignment indexes, stable by destination
  std::vector<size_t> owner_begin_;  // [size + 1] into by_owner_
  std::vector<uint32_t> n_tokens_to_;

  std::vector<Header> sent_headers_;
  std::vector<Header> received_headers_;
  std::vector<size_t> n_units_;
  std::vector<ExchangePart> send_parts_;
  std::vector<ExchangePart> receive_parts_;
  std::vector<Unit> send_;
  std::vector<Unit> receive_rows_;  // what `received` points into
  std::vector<Unit> receive_results_;

  std::vector<Arrival> arrivals_;
  std::vector<size_t> arrival_begin_;    // [size + 1], by source
  std::vector<uint32_t> place_;          // arrival -> index in `received`
  std::vector<uint32_t> expert_cursor_;  // by local expert
};

}  // namespace longshelf::engine
