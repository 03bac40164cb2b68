#include <algorithm>
#include <numeric>

#include "engine/comm/expert_transport.h"

namespace longshelf::engine {

absl::Status LocalExpertTransport::BeginDispatch(uint32_t, std::span<const std::byte> rows, size_t row_bytes,
                                                 std::span<const ExpertAssignment> assignments) {
  rows_ = rows;
  row_bytes_ = row_bytes;
  assignments_ = assignments;
  return absl::OkStatus();
}

absl::Status LocalExpertTransport::FinishDispatch(std::vector<DispatchedRow>& received) {
  order_.resize(assignments_.size());
  std::iota(order_.begin(), order_.end(), 0U);
  // Ascending expert, then token: what a stable sort would give, without its buffer.
  std::sort(order_.begin(), order_.end(), [&](uint32_t a, uint32_t b) {
    return assignments_[a].expert != assignments_[b].expert ? assignments_[a].expert < assignments_[b].expert : a < b;
  });
  received.clear();
  received.reserve(assignments_.size());
  for (const uint32_t i : order_) {
    const ExpertAssignment& a = assignments_[i];
    received.push_back({.expert = a.expert, .weight = a.weight, .row = rows_.data() + a.token * row_bytes_});
  }
  return absl::OkStatus();
}

absl::Status LocalExpertTransport::PlaceResults(std::span<std::byte> results, size_t result_bytes,
                                                std::span<DispatchedRow> received) {
  results_ = results;
  result_bytes_ = result_bytes;
  for (size_t i = 0; i < received.size(); ++i) received[i].result = results.data() + i * result_bytes;
  return absl::OkStatus();
}

absl::Status LocalExpertTransport::BeginCombine() { return absl::OkStatus(); }

absl::Status LocalExpertTransport::FinishCombine(std::vector<const std::byte*>& combined) {
  combined.resize(order_.size());
  for (size_t i = 0; i < order_.size(); ++i) combined[order_[i]] = results_.data() + i * result_bytes_;
  return absl::OkStatus();
}

}  // namespace longshelf::engine
