#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/comm/communicator.h"
#include "engine/comm/expert_transport.h"
#include "engine/comm/group_watch.h"
#include "engine/comm/host_map.h"
#include "engine/comm/row_way.h"

namespace longshelf::engine {

struct DirectTransportOptions {
  uint32_t n_experts = 0;
  uint64_t generation = 0;
  // The most that a layer of a step has on one shard. Together they size all buffers.
  size_t n_tokens_max = 0;
  size_t n_experts_per_token = 0;
  size_t row_bytes_max = 0;     // of dispatch
  size_t result_bytes_max = 0;  // of combine
  // Exchanges that may be under way at a time. The second lane is for half of the tokens.
  int n_lanes = 1;
  // Empty: also neighbours are reached through the communicator. Else this host's directory for shared memory.
  std::string shm_dir;
  // Between neighbours. None: measured when the transport is made, and the same on all shards.
  std::optional<RowWays> ways;
  // Looks at a neighbour's flag so often before it gives the processor away; 0 when there are more threads than
  // processors.
  int n_spins = 0;
  GroupWatch* watch = nullptr;  // learns of progress; may be null
};

// The memory that this shard's buffers take, at most: its inbox, and what is on its way to and from other hosts.
uint64_t BytesOfBuffers(const HostMap& hosts, int rank, const DirectTransportOptions& options);

class DirectLane;
struct DirectGroup;

// What a shard's exchanges have cost so far.
struct ExchangeTotals {
  uint64_t n_layers = 0;      // dispatched and combined, each microbatch for itself
  uint64_t n_second = 0;      // of these, of second microbatches
  uint64_t exposed_ns = 0;    // spent in them, copying and waiting, and so not computing
  uint64_t shared_bytes = 0;  // of messages to shards of this host, and of what they read here
  uint64_t sent_bytes = 0;    // of messages to others
};

// Every message goes straight to whom it is for, without a round of counts before it, and is read where it arrives.
//
// To a shard of the same host by one of three ways (RowWay), with a flag in its inbox in shared memory that says that
// rows are there. To another host: one message for all of its shards, so that a token crosses once however many of its
// experts are there. It is received, into an inbox that was posted beforehand, by the neighbour with this shard's place
// on its host, and read from that inbox by all of them. Results go back directly: whoever computes one writes it where
// its home shard reads it, or into the message that goes there; what is for another host leaves in pieces, each as soon
// as it is whole.
//
// A lane has buffers and messages of its own. In these no buffer is used twice too early, without any further word:
// whoever sends again has had the answer to what it sent before, from every shard, and a shard answers when it has
// read; and results of a layer are written by a shard that has the rows of that layer from everybody, who had read the
// results of the one before.
class DirectExpertTransport final : public ExpertTransport {
 public:
  // Collective. `communicator` must outlive this. RESOURCE_EXHAUSTED, on every member: shm_dir has no room for the
  // inboxes of some host; says what is needed and what there is.
  static absl::StatusOr<std::unique_ptr<DirectExpertTransport>> Create(Communicator& communicator, const HostMap& hosts,
                                                                       const DirectTransportOptions& options);
  ~DirectExpertTransport() override;

  int rank() const override;
  int size() const override;
  int n_lanes() const override;
  void BeginStep(uint64_t seq) override;
  void SetPlacement(const ExpertPlacement& placement) override;
  void Poll() override;
  std::byte* RowMemory(int lane, size_t n_tokens, size_t row_bytes) override;
  absl::Status BeginDispatch(int lane, uint32_t layer, std::span<const std::byte> rows, size_t row_bytes,
                             std::span<const ExpertAssignment> assignments) override;
  void OwnRows(int lane, std::vector<DispatchedRow>& own) override;
  bool HasArrived(int lane) override;
  absl::Status FinishDispatch(int lane, std::span<const DispatchedRow> done,
                              std::vector<DispatchedRow>& received) override;
  absl::Status PlaceResults(int lane, std::span<std::byte> results, size_t result_bytes,
                            std::span<DispatchedRow> received) override;
  void ResultsWritten(int lane, size_t n) override;
  absl::Status BeginCombine(int lane) override;
  absl::Status FinishCombine(int lane, std::vector<const std::byte*>& combined) override;

  // Which ways its messages take, in words.
  std::string Describe() const;
  // None: no neighbours.
  std::optional<WayTable> ways() const;
  // What was measured to choose them; empty when they were given.
  const std::vector<WayFigures>& figures() const;
  // Any thread.
  ExchangeTotals totals() const;

 private:
  explicit DirectExpertTransport(std::unique_ptr<DirectGroup> group);
  DirectLane& lane(int n) const;
  absl::Status ChooseWays();
  absl::StatusOr<std::vector<WayFigures>> Measure();

  std::unique_ptr<DirectGroup> group_;
  std::vector<WayFigures> figures_;
  std::chrono::steady_clock::time_point polled_{};
};

}  // namespace longshelf::engine
