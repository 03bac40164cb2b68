#pragma once

#include <array>
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

// Exchanges that may be under way at a time, each on a lane: for the microbatches of a step.
inline constexpr int kExchangeLanes = 2;

// Expert all-to-all: rows go to the shards that hold their experts, and results come back. Rows are opaque bytes, and
// lie in buffers of the transport wherever they arrive; a result is written where its home shard will look for it, as
// soon as it is known. Both ways have two halves, so that a shard can compute between what it sends and what it waits
// for. An exchange is BeginDispatch, FinishDispatch, PlaceResults, BeginCombine and FinishCombine, once per MoE layer
// and microbatch, also with nothing to send. Collective: every shard makes these calls in the same order. lane:
// [0, n_lanes()); exchanges on different lanes may overlap. One thread (the engine's). UNAVAILABLE: a peer is gone.
// INTERNAL: a peer is out of step, or an argument is out of bounds; either way the group must end.
class ExpertTransport {
 public:
  virtual ~ExpertTransport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int n_lanes() const { return 1; }

  // Before each step's first BeginDispatch. Peers that are at another step are noticed.
  virtual void BeginStep(uint64_t seq) { static_cast<void>(seq); }

  // Between steps, the same on every shard; before the first one an even placement is taken, the same on each layer. A
  // placement of one layer is that of all.
  virtual void SetPlacement(const ExpertPlacement& placement) { static_cast<void>(placement); }

  // Messages between machines move only while somebody asks: to be called between pieces of computation. Cheap. What
  // goes wrong is said by the call that waits for it.
  virtual void Poll() {}

  // Memory for the rows of the next BeginDispatch, where other shards can read them as they lie. Null: any will do.
  virtual std::byte* RowMemory(int lane, size_t n_tokens, size_t row_bytes) {
    static_cast<void>(lane);
    static_cast<void>(n_tokens);
    static_cast<void>(row_bytes);
    return nullptr;
  }

  // rows: [n_tokens, row_bytes], to be left alone until FinishCombine. assignments: ascending token, then ascending
  // expert; each token's row travels once per destination.
  virtual absl::Status BeginDispatch(int lane, uint32_t layer, std::span<const std::byte> rows, size_t row_bytes,
                                     std::span<const ExpertAssignment> assignments) = 0;

  // After BeginDispatch, what there is to compute before others' rows are here. own: the rows that stay on this shard,
  // ascending (expert, token); a transport that never makes anybody wait has none.
  virtual void OwnRows(int lane, std::vector<DispatchedRow>& own) {
    static_cast<void>(lane);
    own.clear();
  }
  // Whether FinishDispatch would return at once.
  virtual bool HasArrived(int lane) {
    static_cast<void>(lane);
    return true;
  }

  // done: the leading ones of `own` that were computed already, their results in memory of the caller's, to be left
  // alone until FinishCombine. received: all others, ascending (expert, source rank, source token), a pure function of
  // routing and `done`.
  virtual absl::Status FinishDispatch(int lane, std::span<const DispatchedRow> done,
                                      std::vector<DispatchedRow>& received) = 0;

  // Says where each result of `received` is to be written: in memory of the transport, or in `results`,
  // [received.size(), result_bytes], to be left alone until FinishCombine.
  virtual absl::Status PlaceResults(int lane, std::span<std::byte> results, size_t result_bytes,
                                    std::span<DispatchedRow> received) = 0;
  // The first n results of `received` are written: what is for another machine can leave. Need not be called.
  virtual void ResultsWritten(int lane, size_t n) {
    static_cast<void>(lane);
    static_cast<void>(n);
  }
  // All results are written.
  virtual absl::Status BeginCombine(int lane) = 0;
  // combined: where each assignment's result lies, in the order of `assignments`, until the lane's next BeginDispatch;
  // the caller sums them in ascending expert id.
  virtual absl::Status FinishCombine(int lane, std::vector<const std::byte*>& combined) = 0;
};

// Everything as another one does it: for those that only want to know of some of it. `inner` outlives it.
class ForwardingExpertTransport : public ExpertTransport {
 public:
  explicit ForwardingExpertTransport(ExpertTransport& inner) : inner_(inner) {}
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  int n_lanes() const override { return inner_.n_lanes(); }
  void BeginStep(uint64_t seq) override { inner_.BeginStep(seq); }
  void SetPlacement(const ExpertPlacement& placement) override { inner_.SetPlacement(placement); }
  void Poll() override { inner_.Poll(); }
  std::byte* RowMemory(int lane, size_t n_tokens, size_t row_bytes) override {
    return inner_.RowMemory(lane, n_tokens, row_bytes);
  }
  absl::Status BeginDispatch(int lane, uint32_t layer, std::span<const std::byte> rows, size_t row_bytes,
                             std::span<const ExpertAssignment> assignments) override {
    return inner_.BeginDispatch(lane, layer, rows, row_bytes, assignments);
  }
  void OwnRows(int lane, std::vector<DispatchedRow>& own) override { inner_.OwnRows(lane, own); }
  bool HasArrived(int lane) override { return inner_.HasArrived(lane); }
  absl::Status FinishDispatch(int lane, std::span<const DispatchedRow> done,
                              std::vector<DispatchedRow>& received) override {
    return inner_.FinishDispatch(lane, done, received);
  }
  absl::Status PlaceResults(int lane, std::span<std::byte> results, size_t result_bytes,
                            std::span<DispatchedRow> received) override {
    return inner_.PlaceResults(lane, results, result_bytes, received);
  }
  void ResultsWritten(int lane, size_t n) override { inner_.ResultsWritten(lane, n); }
  absl::Status BeginCombine(int lane) override { return inner_.BeginCombine(lane); }
  absl::Status FinishCombine(int lane, std::vector<const std::byte*>& combined) override {
    return inner_.FinishCombine(lane, combined);
  }

 private:
  ExpertTransport& inner_;
};

// First expert of `rank` when n_experts are spread evenly and contiguously over n_ranks (sizes differ by at most one).
constexpr uint32_t FirstExpertOf(int rank, uint32_t n_experts, int n_ranks) {
  return static_cast<uint32_t>(static_cast<uint64_t>(n_experts) * static_cast<uint64_t>(rank) /
                               static_cast<uint64_t>(n_ranks));
}

// R = 1: nothing is copied, and nobody waits.
class LocalExpertTransport final : public ExpertTransport {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  int n_lanes() const override { return kExchangeLanes; }
  absl::Status BeginDispatch(int lane, uint32_t layer, std::span<const std::byte> rows, size_t row_bytes,
                             std::span<const ExpertAssignment> assignments) override;
  absl::Status FinishDispatch(int lane, std::span<const DispatchedRow> done,
                              std::vector<DispatchedRow>& received) override;
  absl::Status PlaceResults(int lane, std::span<std::byte> results, size_t result_bytes,
                            std::span<DispatchedRow> received) override;
  absl::Status BeginCombine(int lane) override;
  absl::Status FinishCombine(int lane, std::vector<const std::byte*>& combined) override;

 private:
  struct Exchange {
    std::span<const std::byte> rows;
    size_t row_bytes = 0;
    std::span<const ExpertAssignment> assignments;
    std::span<std::byte> results;
    size_t result_bytes = 0;
    std::vector<uint32_t> order;  // received position -> assignment index
  };
  Exchange& lane(int n) { return lanes_[static_cast<size_t>(n)]; }
  std::array<Exchange, kExchangeLanes> lanes_;
};

}  // namespace longshelf::engine
