#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/comm/communicator.h"
#include "engine/comm/expert_transport.h"

namespace longshelf::bench {

// What somebody would write by hand over MPI's collectives, to compare with: one exchange of counts, one of packed
// rows, one of results, with no header, no check and no placement but the even one. Its messages have as many bytes as
// a transport's.
class PlainTransport final : public engine::ExpertTransport {
 public:
  PlainTransport(engine::Communicator& communicator, uint32_t n_experts);

  int rank() const override { return communicator_.rank(); }
  int size() const override { return communicator_.size(); }
  absl::Status BeginDispatch(int lane, uint32_t layer, std::span<const std::byte> rows, size_t row_bytes,
                             std::span<const engine::ExpertAssignment> assignments) override;
  absl::Status FinishDispatch(int lane, std::span<const engine::DispatchedRow> done,
                              std::vector<engine::DispatchedRow>& received) override;
  absl::Status PlaceResults(int lane, std::span<std::byte> results, size_t result_bytes,
                            std::span<engine::DispatchedRow> received) override;
  absl::Status BeginCombine(int lane) override;
  absl::Status FinishCombine(int lane, std::vector<const std::byte*>& combined) override;

 private:
  struct alignas(engine::kExchangeUnitBytes) Unit {
    std::byte bytes[engine::kExchangeUnitBytes];
  };
  struct Counts {
    uint32_t n_tokens;
    uint32_t n_pairs;
  };
  struct Pair {
    uint32_t row;  // of the message
    uint32_t expert;
    float weight;
  };
  size_t UnitsOf(const Counts& counts) const;
  void Place(const std::vector<size_t>& n_units, std::vector<engine::ExchangePart>& parts, std::vector<Unit>& buffer);
  void Pack();
  void Sort(std::vector<engine::DispatchedRow>& received);

  engine::Communicator& communicator_;
  const uint32_t n_experts_;
  std::vector<uint16_t> owner_;  // by expert
  std::span<const std::byte> rows_;
  std::span<const engine::ExpertAssignment> assignments_;
  size_t row_units_ = 0;
  size_t row_bytes_ = 0;
  size_t result_units_ = 0;
  size_t result_bytes_ = 0;
  std::span<std::byte> results_;
  std::vector<Counts> sent_;
  std::vector<Counts> received_;
  std::vector<engine::ExchangePart> send_parts_;
  std::vector<engine::ExchangePart> receive_parts_;
  std::vector<Unit> send_;
  std::vector<Unit> receive_;
  std::vector<Unit> receive_results_;
  struct Arrived {
    Pair pair;
    const std::byte* row;
  };
  std::vector<Arrived> arrived_;  // by source, then as sent
  std::vector<uint32_t> place_;   // of each among the received
  std::vector<uint32_t> cursor_;  // by expert
};

}  // namespace longshelf::bench
