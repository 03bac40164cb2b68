#include <algorithm>
#include <cstring>
#include <numeric>

#include "engine/comm/expert_transport.h"

namespace longshelf::engine {

absl::Status LocalExpertTransport::Dispatch(std::span<const std::byte> rows, size_t row_bytes,
                                            std::span<const ExpertAssignment> assignments,
                                            std::vector<DispatchedRow>& received) {
  order_.resize(assignments.size());
  std::iota(order_.begin(), order_.end(), 0U);
  // Ascending expert, then token: what a stable sort would give, without its buffer.
  std::sort(order_.begin(), order_.end(), [&](uint32_t a, uint32_t b) {
    return assignments[a].expert != assignments[b].expert ? assignments[a].expert < assignments[b].expert : a < b;
  });
  received.clear();
  received.reserve(assignments.size());
  for (const uint32_t i : order_) {
    const ExpertAssignment& a = assignments[i];
    received.push_back({a.expert, a.weight, rows.data() + a.token * row_bytes});
  }
  return absl::OkStatus();
}

absl::Status LocalExpertTransport::Combine(std::span<const std::byte> results, size_t result_bytes,
                                           std::span<std::byte> combined) {
  for (size_t i = 0; i < order_.size(); ++i) {
    std::memcpy(combined.data() + order_[i] * result_bytes, results.data() + i * result_bytes, result_bytes);
  }
  return absl::OkStatus();
}

}  // namespace longshelf::engine
