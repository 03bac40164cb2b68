#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/comm/expert_placement.h"

namespace longshelf::engine {

// One (token, expert) pair of a dispatch. `token` indexes the rows given by this shard.
struct ExpertAssignment {
  uint32_t token = 0;
  uint32_t expert = 0;  // logical expert id
  float weight = 0.0F;  // routing weight, applied before w2
};

// How memory that another core reads next is written: as any other, or past the caches.
enum class RowStore : uint8_t { kPlain, kStream };

// A row that arrived for a local expert.
struct DispatchedRow {
  uint32_t expert = 0;
  float weight = 0.0F;
  const std::byte* row = nullptr;  // row_bytes, valid until the next BeginDispatch
  std::byte* result = nullptr;     // where its result is to be written, once PlaceResults() has said so
  RowStore store = RowStore::kPlain;
};

// Writes a piece of a row's result. `offset` is a multiple of 64. Any thread, each its own pieces; who has written
// pieces calls FenceResults() before it says so to the transport's thread.
void StoreResult(const DispatchedRow& row, size_t offset, std::span<const std::byte> piece);
void FenceResults();

// Expert all-to-all: rows go to the shards that hold their experts, and results come back. Rows are opaque bytes, and
// lie in buffers of the transport wherever they arrive; a result is written where its home shard will look for it, as
// soon as it is known. Both ways have two halves, so that a shard can compute between what it sends and what it waits
// for. Collective: every shard calls the five in this order once per MoE layer, also with nothing to send. One thread
// (the engine's). UNAVAILABLE: a peer is gone. INTERNAL: a peer is out of step, or an argument is out of bounds; either
// way the group must end.
class ExpertTransport {
 public:
  virtual ~ExpertTransport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Before each step's first BeginDispatch. Peers that are at another step are noticed.
  virtual void BeginStep(uint64_t seq) { static_cast<void>(seq); }

  // Between steps, the same on every shard; before the first one an even placement is taken, the same on each layer. A
  // placement of one layer is that of all.
  virtual void SetPlacement(const ExpertPlacement& placement) { static_cast<void>(placement); }

  // Memory for the rows of the next BeginDispatch, where other shards can read them as they lie. Null: any will do.
  virtual std::byte* RowMemory(size_t n_bytes) {
    static_cast<void>(n_bytes);
    return nullptr;
  }

  // rows: [n_tokens, row_bytes], to be left alone until FinishCombine. assignments: ascending token, then ascending
  // expert; each token's row travels once per destination.
  virtual absl::Status BeginDispatch(uint32_t layer, std::span<const std::byte> rows, size_t row_bytes,
                                     std::span<const ExpertAssignment> assignments) = 0;
  // received: ascending (expert, source rank, source token), a pure function of routing.
  virtual absl::Status FinishDispatch(std::vector<DispatchedRow>& received) = 0;

  // Says where each result of `received` is to be written: in memory of the transport, or in `results`,
  // [received.size(), result_bytes], to be left alone until FinishCombine.
  virtual absl::Status PlaceResults(std::span<std::byte> results, size_t result_bytes,
                                    std::span<DispatchedRow> received) = 0;
  // All results are written.
  virtual absl::Status BeginCombine() = 0;
  // combined: where each assignment's result lies, in the order of `assignments`, until the next BeginDispatch; the
  // caller sums them in ascending expert id.
  virtual absl::Status FinishCombine(std::vector<const std::byte*>& combined) = 0;
};

// Everything as another one does it: for those that only want to know of some of it. `inner` outlives it.
class ForwardingExpertTransport : public ExpertTransport {
 public:
  explicit ForwardingExpertTransport(ExpertTransport& inner) : inner_(inner) {}
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  void BeginStep(uint64_t seq) override { inner_.BeginStep(seq); }
  void SetPlacement(const ExpertPlacement& placement) override { inner_.SetPlacement(placement); }
  std::byte* RowMemory(size_t n_bytes) override { return inner_.RowMemory(n_bytes); }
  absl::Status BeginDispatch(uint32_t layer, std::span<const std::byte> rows, size_t row_bytes,
                             std::span<const ExpertAssignment> assignments) override {
    return inner_.BeginDispatch(layer, rows, row_bytes, assignments);
  }
  absl::Status FinishDispatch(std::vector<DispatchedRow>& received) override { return inner_.FinishDispatch(received); }
  absl::Status PlaceResults(std::span<std::byte> results, size_t result_bytes,
                            std::span<DispatchedRow> received) override {
    return inner_.PlaceResults(results, result_bytes, received);
  }
  absl::Status BeginCombine() override { return inner_.BeginCombine(); }
  absl::Status FinishCombine(std::vector<const std::byte*>& combined) override {
    return inner_.FinishCombine(combined);
  }

 private:
  ExpertTransport& inner_;
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
  absl::Status BeginDispatch(uint32_t layer, std::span<const std::byte> rows, size_t row_bytes,
                             std::span<const ExpertAssignment> assignments) override;
  absl::Status FinishDispatch(std::vector<DispatchedRow>& received) override;
  absl::Status PlaceResults(std::span<std::byte> results, size_t result_bytes,
                            std::span<DispatchedRow> received) override;
  absl::Status BeginCombine() override;
  absl::Status FinishCombine(std::vector<const std::byte*>& combined) override;

 private:
  std::span<const std::byte> rows_;
  size_t row_bytes_ = 0;
  std::span<const ExpertAssignment> assignments_;
  std::span<std::byte> results_;
  size_t result_bytes_ = 0;
  std::vector<uint32_t> order_;  // received position -> assignment index
};

}  // namespace longshelf::engine
