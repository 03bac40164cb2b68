#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/comm/expert_placement.h"
#include "engine/comm/expert_transport.h"

namespace longshelf::engine {

// Bounds on what a peer may announce before anything is allocated or read for it.
inline constexpr uint32_t kExchangeTokensMax = 1U << 20;
inline constexpr uint32_t kExchangeRowBytesMax = 1U << 20;
// Messages are whole cache lines, and so are rows' places in them.
inline constexpr size_t kMessageUnitBytes = 64;

constexpr size_t RoundUpTo(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// The pulled ones bring no rows: these lie in the sender's own memory, to be read there.
enum class MessageKind : uint16_t { kDispatch = 1, kCombine = 2, kDispatchPulled = 3, kCombinePulled = 4 };

// Leads every message: who, to whom, and which layer of which step of which generation.
struct alignas(kMessageUnitBytes) MessageHeader {
  uint32_t magic = 0;
  MessageKind kind = MessageKind::kDispatch;
  uint16_t source = 0;
  uint64_t generation = 0;
  uint64_t seq = 0;
  uint32_t layer_count = 0;  // dispatches of the lane since the step began
  uint16_t lane = 0;
  uint16_t piece = 0;  // of a combine between hosts: results leave in pieces
  uint32_t destination = 0;
  uint32_t n_tokens = 0;  // distinct rows; of a dispatch
  uint32_t n_rows = 0;    // {token, expert} pairs
  uint32_t row_bytes = 0;
  uint64_t n_bytes = 0;  // of the message, this header included
  // Of a dispatch: where the results go in the source's order; of a pulled combine: where they lie; of a piece: how
  // many results came before it.
  uint32_t first_row = 0;
  uint32_t checksum = 0;  // XXH32 of all before
};
static_assert(sizeof(MessageHeader) == kMessageUnitBytes);

// Where a member of a group stands: what every message of it carries.
struct MessageClock {
  uint64_t generation = 0;
  uint64_t seq = 0;
  uint32_t layer_count = 0;
  uint16_t lane = 0;
};

// A dispatch message: header | rows [n_tokens], each padded to a line | TokenEntry [n_tokens] | ExpertEntry [n_rows].
// A pulled one has no rows.
struct DispatchLayout {
  DispatchLayout(MessageKind kind, size_t n_tokens, size_t n_rows, size_t row_bytes);
  size_t row_stride;
  size_t tokens;   // offset
  size_t experts;  // offset
  size_t n_bytes;
};
// One token of a message: how many of the expert entries are its.
struct TokenEntry {
  uint32_t source_token;
  uint32_t n_experts;
};
struct ExpertEntry {
  uint16_t expert;
  uint16_t rank;  // who shall compute it, of those that hold it
  float weight;
};

// Who says what to whom and when; counts and checksum are the caller's.
MessageHeader MakeHeader(MessageKind kind, int source, int destination, const MessageClock& clock);
// Fills in the checksum.
void SealHeader(MessageHeader& header);
// INTERNAL: `header` is damaged, or not what `source` must say now; names the field and both values.
absl::Status CheckHeader(const MessageHeader& header, MessageKind kind, int source, int destination,
                         const MessageClock& clock);
// INTERNAL: the counts of a checked dispatch header are out of bounds or do not fit each other.
absl::Status CheckDispatchCounts(const MessageHeader& header, size_t row_bytes, uint32_t n_experts);
absl::Status OutOfStep(const char* what, int source, uint64_t theirs, uint64_t ours);

// INTERNAL: there is no such layer. One placement may stand for all layers.
absl::StatusOr<const ExpertRoutes*> RoutesOf(std::span<const ExpertRoutes> routes, uint32_t layer);

// For each pair the shard that shall compute it. INTERNAL: an assignment is out of range or out of order.
absl::Status RoutePairs(std::span<const ExpertAssignment> assignments, size_t n_tokens, const ExpertRoutes& routes,
                        std::vector<uint16_t>& rank_of_pair);

// The assignments of a dispatch by destination, which is a number in [0, n_owners).
class Grouping {
 public:
  explicit Grouping(int n_owners);
  void Group(std::span<const ExpertAssignment> assignments, std::span<const uint16_t> owner_of_pair);

  // Assignments of an owner, as indexes in ascending order.
  std::span<const uint32_t> of(int owner) const;
  size_t begin(int owner) const { return begin_[static_cast<size_t>(owner)]; }
  size_t n_rows(int owner) const { return of(owner).size(); }
  uint32_t n_tokens(int owner) const { return n_tokens_[static_cast<size_t>(owner)]; }
  size_t n_all() const { return by_owner_.size(); }

 private:
  std::vector<uint32_t> by_owner_;    // assignment indexes, stable by owner
  std::vector<size_t> begin_;         // [n + 1] into by_owner_
  std::vector<uint32_t> n_tokens_;    // distinct tokens of each
  std::vector<uint32_t> last_token_;  // of each, while counting
  std::vector<size_t> cursor_;
};

// Sizes and counts of what goes to `owner`.
void FillDispatchHeader(const Grouping& grouping, int owner, size_t row_bytes, MessageHeader& header);

// A shard's rows of a dispatch, and who computes which of their pairs.
struct OutgoingRows {
  std::span<const std::byte> rows;
  std::span<const ExpertAssignment> assignments;
  std::span<const uint16_t> rank_of_pair;
};

// The message with this sealed header, at `out` (64-byte aligned, header.n_bytes).
void PackDispatch(const MessageHeader& header, const Grouping& grouping, int owner, const OutgoingRows& outgoing,
                  RowStore store, std::byte* out);

// `to` is 16-byte aligned. Streamed bytes are seen by others only after FenceResults().
void CopyBytes(RowStore store, const std::byte* from, size_t n, std::byte* to);

// INTERNAL: out of bounds.
absl::Status CheckDispatchArguments(std::span<const std::byte> rows, size_t row_bytes);
absl::Status CheckCombineArguments(std::span<const std::byte> results, size_t result_bytes, size_t n_received);

// A pair that reached this shard, in the order (source rank, token, expert).
struct Arrival {
  uint32_t expert;
  float weight;
  const std::byte* row;
};

// A dispatch message as it is read.
struct IncomingDispatch {
  MessageHeader header;                // checked
  const std::byte* message = nullptr;  // the header again, and what follows it
  const std::byte* rows = nullptr;     // of a pulled one: the sender's [n_rows_max, header.row_bytes]
  size_t n_rows_max = 0;
  bool all_are_ours = true;  // a pair for another shard is an error, and not something for a neighbour
};

// Adds what of a message is for the experts of routes.rank(). INTERNAL: malformed.
absl::Status ReadDispatch(const IncomingDispatch& incoming, const ExpertRoutes& routes, std::vector<Arrival>& arrivals);

// Orders arrivals by expert (ascending), stably: a pure function of the routing.
class ArrivalOrder {
 public:
  void Order(std::span<const Arrival> arrivals, uint32_t n_experts, std::vector<DispatchedRow>& received);
  // Where arrival i stands in `received`.
  uint32_t place(size_t i) const { return place_[i]; }

 private:
  std::vector<uint32_t> place_;
  std::vector<uint32_t> cursor_;
};

}  // namespace longshelf::engine
