#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/comm/communicator.h"
#include "engine/comm/expert_transport.h"

namespace longshelf::engine {

// The plain transport over a communicator's collectives, and the oracle of the others: headers with counts by one fixed
// exchange, then one exchange of rows for dispatch and one of results for combine. Nothing overlaps: the Begin halves
// do all of the waiting, and of two lanes one waits after the other. Every header is checked against this shard's own
// generation, step and layer count, so a shard that fell out of step is noticed at the next layer and not in the
// output.
class BaselineExpertTransport final : public ExpertTransport {
 public:
  // `communicator` must outlive this.
  BaselineExpertTransport(Communicator& communicator, uint32_t n_experts, uint64_t generation);
  ~BaselineExpertTransport() override;

  int rank() const override;
  int size() const override;
  int n_lanes() const override { return kExchangeLanes; }
  void BeginStep(uint64_t seq) override;
  void SetPlacement(const ExpertPlacement& placement) override;
  absl::Status BeginDispatch(int lane, uint32_t layer, std::span<const std::byte> rows, size_t row_bytes,
                             std::span<const ExpertAssignment> assignments) override;
  absl::Status FinishDispatch(int lane, std::span<const DispatchedRow> done,
                              std::vector<DispatchedRow>& received) override;
  absl::Status PlaceResults(int lane, std::span<std::byte> results, size_t result_bytes,
                            std::span<DispatchedRow> received) override;
  absl::Status BeginCombine(int lane) override;
  absl::Status FinishCombine(int lane, std::vector<const std::byte*>& combined) override;

 private:
  class Exchange;
  Communicator& communicator_;
  std::vector<ExpertRoutes> routes_;  // by layer, or one for all
  std::vector<Exchange> lanes_;
};

}  // namespace longshelf::engine
