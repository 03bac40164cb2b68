#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"

namespace longshelf::engine {

// One (token, expert) pair of a dispatch. `token` indexes the rows given by this shard.
struct ExpertAssignment {
  uint32_t token = 0;
  uint32_t expert = 0;  // logical expert id
  float weight = 0.0F;  // routing weight, applied before w2
};

// A row that arrived for a local expert.
struct DispatchedRow {
  uint32_t expert = 0;
  float weight = 0.0F;
  const std::byte* row = nullptr;  // row_bytes, valid until the next Dispatch
};

// Expert all-to-all: rows go to the shards that hold their experts, and results come back. Rows are opaque bytes.
// Collective: every shard calls Dispatch then Combine once per MoE layer, also with nothing to send. One thread (the
// engine's).
class ExpertTransport {
 public:
  virtual ~ExpertTransport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // rows: [n_tokens, row_bytes]. assignments: ascending token, then ascending expert; each token's row travels once per
  // destination shard. received: ascending (expert, source rank, source token), a pure function of routing.
  // UNAVAILABLE: a peer is gone.
  virtual absl::Status Dispatch(std::span<const std::byte> rows, size_t row_bytes,
                                std::span<const ExpertAssignment> assignments,
                                std::vector<DispatchedRow>& received) = 0;

  // results: [received.size(), result_bytes] in the order of `received`. combined: [assignments.size(), result_bytes]
  // in the order of `assignments`; the caller sums them in ascending expert id.
  virtual absl::Status Combine(std::span<const std::byte> results, size_t result_bytes,
                               std::span<std::byte> combined) = 0;
};

// First expert of `rank` when n_experts are spread evenly and contiguously over n_ranks (sizes differ by at most one).
constexpr uint32_t FirstExpertOf(int rank, uint32_t n_experts, int n_ranks) {
  return static_cast<uint32_t>(static_cast<uint64_t>(n_experts) * static_cast<uint64_t>(rank) /
                               static_cast<uint64_t>(n_ranks));
}

// R = 1: no copy of rows.
class LocalExpertTransport final : public ExpertTransport {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  absl::Status Dispatch(std::span<const std::byte> rows, size_t row_bytes,
                        std::span<const ExpertAssignment> assignments, std::vector<DispatchedRow>& received) override;
  absl::Status Combine(std::span<const std::byte> results, size_t result_bytes, std::span<std::byte> combined) override;

 private:
  std::vector<uint32_t> order_;  // received position -> assignment index
};

}  // namespace longshelf::engine
