#pragma once

#include <emmintrin.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/status.h"
#include "engine/comm/communicator.h"
#include "engine/comm/direct_expert_transport.h"
#include "engine/comm/expert_transport.h"
#include "engine/comm/host_map.h"
#include "engine/comm/row_way.h"
#include "expert_messages.h"
#include "inbox.h"
#include "mapped_memory.h"

namespace longshelf::engine {

class DirectLane;

// Whether `rank` sees what another shard, or itself, writes.
bool IsNear(const HostMap& hosts, int rank, bool has_shared_memory, int other);

// Neighbours are targets of dispatch by themselves, other hosts as a whole, through the shard there that receives.
// Without shared memory every shard is on its own.
struct TargetMap {
  TargetMap(const HostMap& hosts, int rank, bool has_shared_memory);
  std::vector<int> of_rank;    // by rank
  std::vector<int> receivers;  // by target
};

// The shard of `host` that receives what `source` sends to it: the one in the same place.
int ReceiverOn(const HostMap& hosts, int host, int source);

// Looks at a flag at least, however little that has helped: to see that waits have become short again.
inline constexpr int kSpinsMin = 16;

// What the lanes of a transport have in common. Owner: the transport, and so the engine's thread.
struct DirectGroup {
  DirectGroup(Communicator& the_communicator, const HostMap& host_map, const DirectTransportOptions& the_options);
  ~DirectGroup();

  // Whether shards see each other's memory.
  bool is_near(int r) const { return IsNear(hosts, rank, !options.shm_dir.empty(), r); }
  // Shards of this host, this one among them.
  size_t n_near() const { return options.shm_dir.empty() ? 1 : hosts.RanksOf(hosts.host_of(rank)).size(); }
  // Moves the messages of all lanes: others may wait for those of one while this shard waits on another.
  absl::Status Progress();
  template <typename Ready>
  absl::Status WaitFor(Ready ready);
  // For the next call that can say it.
  void Keep(const absl::Status& status) {
    if (!status.ok()) failed = status;
  }

  Communicator& communicator;
  const HostMap hosts;
  const DirectTransportOptions options;
  const int rank;
  const int size;
  const TargetMap map;
  std::vector<ExpertRoutes> routes;  // by layer, or one for all
  WayTable ways;
  bool near_only = false;  // while ways are measured nothing goes to other hosts
  absl::Status failed;     // what went wrong in a call that cannot say so
  // Looks at a flag before the processor is given away: more when that was enough lately, fewer when it was not. With
  // options.n_spins at most, and none if that is none.
  int n_spins;
  std::atomic<uint64_t> n_layers{0};
  std::atomic<uint64_t> n_second{0};
  std::atomic<uint64_t> exposed_ns{0};
  std::atomic<uint64_t> shared_bytes{0};
  std::atomic<uint64_t> sent_bytes{0};
  std::vector<std::unique_ptr<DirectLane>> lanes;
};

// Results for another host leave in so many messages, each as soon as it is whole. Sender and receiver agree on them
// by the number of results.
inline constexpr size_t kResultPiecesMax = 8;
struct ResultPieces {
  ResultPieces() : ResultPieces(0, 0) {}
  ResultPieces(size_t rows, size_t stride_max);
  size_t begin(size_t piece) const { return n_rows * piece / n; }
  size_t count(size_t piece) const { return begin(piece + 1) - begin(piece); }
  // Where a piece lies in a buffer for all of them: a header, then results.
  size_t offset(size_t piece) const { return piece * sizeof(MessageHeader) + begin(piece) * stride; }

  size_t n_rows;
  size_t stride;  // of the largest results
  size_t n;
};

// One exchange at a time of a direct transport, in buffers of its own. Calls: see ExpertTransport.
class DirectLane {
 public:
  // n_tokens_max: of each shard.
  DirectLane(DirectGroup& group, int number, size_t n_tokens_max);

  // Collective, in this order.
  absl::Status MakeInboxes();
  absl::Status MakeBuffers();
  // Collective. For so many tokens of each shard.
  absl::Status MakeOutboxes(size_t n_tokens);
  void DropOutboxes() { outboxes_.clear(); }
  size_t n_tokens_max() const { return n_tokens_max_; }
  // Of all buffers of a lane, at most.
  static uint64_t NumBytes(const HostMap& hosts, int rank, const DirectTransportOptions& options, size_t n_tokens_max);

  void BeginStep(uint64_t seq);
  absl::Status Progress();
  bool has_open() const;

  std::byte* RowMemory(size_t n_tokens, size_t row_bytes) const;
  absl::Status BeginDispatch(uint32_t layer, std::span<const std::byte> rows, size_t row_bytes,
                             std::span<const ExpertAssignment> assignments);
  void OwnRows(std::vector<DispatchedRow>& own) const;
  bool HasArrived();
  absl::Status FinishDispatch(std::span<const DispatchedRow> done, std::vector<DispatchedRow>& received);
  absl::Status PlaceResults(std::span<std::byte> results, size_t result_bytes, std::span<DispatchedRow> received);
  absl::Status ResultsWritten(size_t n);
  absl::Status BeginCombine();
  absl::Status FinishCombine(std::vector<const std::byte*>& combined);

 private:
  // Somewhere that dispatch messages go: a neighbour, or all shards of another host through the one that receives.
  struct Target {
    int rank = 0;  // who receives
    bool is_far = false;
    MappedMemory staging;  // far: what is being sent
    Communicator::Transfer sending;
  };
  using PieceTransfers = std::array<Communicator::Transfer, kResultPiecesMax>;
  // Another shard whose messages come here.
  struct Source {
    int rank = 0;
    bool is_far = false;
    int receiver = 0;  // whose inbox its dispatch arrives in
    size_t n_arrivals = 0;
    size_t first_arrival = 0;
    uint32_t first_row = 0;     // where its results go
    bool pulls = false;         // it reads them in this shard's outbox
    uint32_t first_pulled = 0;  // where, in rows
    ResultPieces pieces;        // far: of the results for it
    size_t piece = 0;           // the last one that has a place
    size_t n_placed = 0;        // of these results
    size_t n_written = 0;       // of these results
    size_t n_pieces_sent = 0;
    MappedMemory staging;              // far: results for it
    MappedMemory results;              // far: results from it
    Communicator::Transfer receiving;  // far, receiver == this shard: its dispatch
    PieceTransfers sending;            // far: results for it
    PieceTransfers collecting;         // far: results from it
  };
  static constexpr uint16_t kNoSource = UINT16_MAX;

  // Lanes have neighbouring numbers.
  static constexpr int kDispatchTag = 110;
  static constexpr int kCombineTag = 120;

  Inbox& own() { return inboxes_[static_cast<size_t>(group_.rank)]; }
  Inbox& inbox(int r) { return inboxes_[static_cast<size_t>(r)]; }
  const Outbox& outbox(int r) const { return outboxes_[static_cast<size_t>(r)]; }
  bool pulls(RowWay way) const { return way == RowWay::kPull && !outboxes_.empty(); }
  RowWay DispatchWay(size_t n_tokens) const { return group_.ways.Of(n_tokens).dispatch; }
  RowWay CombineWay() const;
  bool takes_part(const Source& source) const { return !source.is_far || !group_.near_only; }
  const Grouping& of_targets() const { return by_target_.has_value() ? *by_target_ : by_rank_; }
  ResultPieces PiecesOf(size_t n_rows) const { return {n_rows, shape_.result_stride}; }
  int tag(int kind) const { return kind + number_; }
  std::string NameOf(const char* what) const { return std::string(number_ == 0 ? "" : "second-") + what; }

  absl::Status Await(Communicator::Transfer& transfer);
  absl::Status EndIfDone(Communicator::Transfer& transfer);
  absl::Status GroupPairs(std::span<const ExpertAssignment> pairs, size_t n_tokens);
  // Assignments of a destination by ascending (expert, token).
  void OrderByExpert(std::span<const uint32_t> pairs, std::vector<uint32_t>& ordered);
  absl::Status PostReceives();
  absl::Status SendDispatch(Target& target, size_t index);
  bool HasArrived(const Source& source);
  absl::Status ReadSource(Source& source);
  void PlaceNear(Source& source, size_t& n_pulled, std::span<DispatchedRow> received);
  void PlaceFar(std::span<DispatchedRow> received);
  void SendNear(Source& source);
  absl::Status SendPieces(Source& source);
  absl::Status TakeNear(Source& source, std::vector<const std::byte*>& combined);
  absl::Status TakePieces(Source& source, std::vector<const std::byte*>& combined);
  absl::Status CheckResults(const MessageHeader& header, MessageKind kind, int source, size_t n_rows) const;

  DirectGroup& group_;
  const int number_;
  const size_t n_tokens_max_;
  const InboxShape shape_;
  std::vector<Target> targets_;
  std::vector<Source> sources_;
  std::vector<Inbox> inboxes_;    // by rank; not mapped: not on this host
  std::vector<Outbox> outboxes_;  // by rank; empty unless something is pulled
  uint64_t n_exchanges_ = 0;      // dispatches ever, the flags' value
  MessageClock clock_;

  // Of the exchange that is under way.
  OutgoingRows outgoing_;
  size_t row_bytes_ = 0;
  RowWay dispatch_way_ = RowWay::kStream;  // of this shard; every other one chooses its own
  RowWay combine_way_ = RowWay::kStream;
  const ExpertRoutes* routes_ = nullptr;
  std::vector<uint16_t> rank_of_pair_;
  std::vector<uint16_t> target_of_pair_;
  Grouping by_rank_;
  std::optional<Grouping> by_target_;       // when some target is more than one shard; else that is the same
  std::vector<uint32_t> own_;               // this shard's own assignments, ascending (expert, token)
  std::vector<const std::byte*> own_done_;  // where the results of the leading ones lie already
  std::vector<uint32_t> ordered_;           // of one source, while its results are taken
  std::vector<uint32_t> cursor_;            // by expert, while assignments are ordered
  std::vector<Arrival> arrivals_;
  size_t own_first_ = 0;  // of the rest of own_ among the arrivals
  ArrivalOrder order_;
  std::span<std::byte> results_;
  size_t result_bytes_ = 0;
  size_t result_stride_ = 0;
  std::vector<uint16_t> far_source_;  // of each received row
  size_t n_written_ = 0;              // leading results that were said to be written
};

// A dead peer is the watch's business.
template <typename Ready>
absl::Status DirectGroup::WaitFor(Ready ready) {
  int n = 0;
  for (; !ready(); ++n) {
    RETURN_IF_ERROR(failed);
    RETURN_IF_ERROR(Progress());
    if (n < n_spins) {
      _mm_pause();
    } else {
      sched_yield();
    }
  }
  if (n == 0) return absl::OkStatus();
  n_spins = std::min(std::max(n <= n_spins ? 2 * n_spins : n_spins / 2, kSpinsMin), options.n_spins);
  return absl::OkStatus();
}

}  // namespace longshelf::engine
