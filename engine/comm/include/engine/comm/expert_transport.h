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
  const std::byte* row = nullptr;  // row_bytes, valid until the next BeginDispatch
};

// Expert all-to-all: rows go to the shards that hold their experts, and results come back. Rows are opaque bytes, and
// lie in buffers of the transport wherever they arrive. Both ways have two halves, so that a shard can compute between
// what it sends and what it waits for. Collective: every shard calls the four in this order once per MoE layer, also
// with nothing to send. One thread (the engine's). UNAVAILABLE: a peer is gone. INTERNAL: a peer is out of step, or an
// argument is out of bounds; either way the group must end.
class ExpertTransport {
 public:
  virtual ~ExpertTransport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Before each step's first BeginDispatch. Peers that are at another step are noticed.
  virtual void BeginStep(uint64_t seq) { static_cast<void>(seq); }

  // rows: [n_tokens, row_bytes], to be left alone until FinishCombine. assignments: ascending token, then ascending
  // expert; each token's row travels once per destination.
  virtual absl::Status BeginDispatch(std::span<const std::byte> rows, size_t row_bytes,
                                     std::span<const ExpertAssignment> assignments) = 0;
  // received: ascending (expert, source rank, source token), a pure function of routing.
  virtual absl::Status FinishDispatch(std::vector<DispatchedRow>& received) = 0;

  // results: [received.size(), result_bytes] in the order of `received`, to be left alone until FinishCombine.
  virtual absl::Status BeginCombine(std::span<const std::byte> results, size_t result_bytes) = 0;
  // combined: where each assignment's result lies, in the order of `assignments`, until the next BeginDispatch; the
  // caller sums them in ascending expert id.
  virtual absl::Status FinishCombine(std::vector<const std::byte*>& combined) = 0;
};

// First expert of `rank` when n_experts are spread evenly and contiguously over n_ranks (sizes differ by at most one).
constexpr uint32_t FirstExpertOf(int rank, uint32_t n_experts, int n_ranks) {
  return static_cast<uint32_t>(static_cast<uint64_t>(n_experts) * static_cast<uint64_t>(rank) /
                               static_cast<uint64_t>(n_ranks));
}

// R = 1: nothing is copied.
class LocalExpertTransport final : public ExpertTransport {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  absl::Status BeginDispatch(std::span<const std::byte> rows, size_t row_bytes,
                             std::span<const ExpertAssignment> assignments) override;
  absl::Status FinishDispatch(std::vector<DispatchedRow>& received) override;
  absl::Status BeginCombine(std::span<const std::byte> results, size_t result_bytes) override;
  absl::Status FinishCombine(std::vector<const std::byte*>& combined) override;

 private:
  std::span<const std::byte> rows_;
  size_t row_bytes_ = 0;
  std::span<const ExpertAssignment> assignments_;
  std::span<const std::byte> results_;
  size_t result_bytes_ = 0;
  std::vector<uint32_t> order_;  // received position -> assignment index
};

}  // namespace longshelf::engine
