#include <algorithm>
#include <numeric>

#include "engine/comm/expert_transport.h"

namespace longshelf::engine {

absl::Status LocalExpertTransport::BeginDispatch(int n, uint32_t, std::span<const std::byte> rows, size_t row_bytes,
                                                 std::span<const ExpertAssignment> assignments) {
  Exchange& x = lane(n);
  x.rows = rows;
  x.row_bytes = row_bytes;
  x.assignments = assignments;
  return absl::OkStatus();
}

absl::Status LocalExpertTransport::FinishDispatch(int n, std::span<const DispatchedRow>,
                                                  std::vector<DispatchedRow>& received) {
  Exchange& x = lane(n);
  x.order.resize(x.assignments.size());
  std::iota(x.order.begin(), x.order.end(), 0U);
  // Ascending expert, then token: what a stable sort would give, without its buffer.
  std::sort(x.order.begin(), x.order.end(), [&](uint32_t a, uint32_t b) {
    const uint32_t of_a = x.assignments[a].expert;
    const uint32_t of_b = x.assignments[b].expert;
    return of_a != of_b ? of_a < of_b : a < b;
  });
  received.clear();
  received.reserve(x.assignments.size());
  for (const uint32_t i : x.order) {
    const ExpertAssignment& a = x.assignments[i];
    received.push_back({.expert = a.expert, .weight = a.weight, .row = x.rows.data() + a.token * x.row_bytes});
  }
  return absl::OkStatus();
}

absl::Status LocalExpertTransport::PlaceResults(int n, std::span<std::byte> results, size_t result_bytes,
                                                std::span<DispatchedRow> received) {
  Exchange& x = lane(n);
  x.results = results;
  x.result_bytes = result_bytes;
  for (size_t i = 0; i < received.size(); ++i) received[i].result = results.data() + i * result_bytes;
  return absl::OkStatus();
}

absl::Status LocalExpertTransport::BeginCombine(int) { return absl::OkStatus(); }

absl::Status LocalExpertTransport::FinishCombine(int n, std::vector<const std::byte*>& combined) {
  const Exchange& x = lane(n);
  combined.resize(x.order.size());
  for (size_t i = 0; i < x.order.size(); ++i) combined[x.order[i]] = x.results.data() + i * x.result_bytes;
  return absl::OkStatus();
}

}  // namespace longshelf::engine
