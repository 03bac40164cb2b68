#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/comm/expert_transport.h"

namespace longshelf::engine {

// Bounds on what a peer may announce before anything is allocated or read for it.
inline constexpr uint32_t kExchangeTokensMax = 1U << 20;
inline constexpr uint32_t kExchangeRowBytesMax = 1U << 20;
// Messages are whole cache lines, and so are rows' places in them.
inline constexpr size_t kMessageUnitBytes = 64;

constexpr size_t RoundUpTo(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

enum class MessageKind : uint16_t { kDispatch = 1, kCombine = 2 };

// Leads every message: who, to whom, and which layer of which step of which generation.
struct alignas(kMessageUnitBytes) MessageHeader {
  uint32_t magic = 0;
  MessageKind kind = MessageKind::kDispatch;
  uint16_t source = 0;
  uint64_t generation = 0;
  uint64_t seq = 0;
  uint64_t layer_count = 0;  // dispatches since the step began
  uint32_t destination = 0;
  uint32_t n_tokens = 0;  // distinct rows; of a dispatch
  uint32_t n_rows = 0;    // {token, expert} pairs
  uint32_t row_bytes = 0;
  uint64_t n_bytes = 0;    // of the message, this header included
  uint32_t first_row = 0;  // of a dispatch: where the results go in the source's order
  uint32_t checksum = 0;   // XXH32 of all before
};
static_assert(sizeof(MessageHeader) == kMessageUnitBytes);

// Where a member of a group stands: what every message of it carries.
struct MessageClock {
  uint64_t generation = 0;
  uint64_t seq = 0;
  uint64_t layer_count = 0;
};

// A dispatch message: header | rows [n_tokens], each padded to a line | TokenEntry [n_tokens] | ExpertEntry [n_rows].
struct DispatchLayout {
  DispatchLayout(size_t n_tokens, size_t n_rows, size_t row_bytes);
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
  uint32_t expert;
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

// The assignments of a dispatch by destination. A destination is whoever holds experts: `owner[e]` in [0, n).
class Grouping {
 public:
  Grouping(std::vector<int> owner, int n_owners);
  // INTERNAL: an assignment is out of range or out of order.
  absl::Status Group(std::span<const ExpertAssignment> assignments, size_t n_tokens);

  uint32_t n_experts() const { return static_cast<uint32_t>(owner_.size()); }
  int owner(uint32_t expert) const { return owner_[expert]; }
  // Assignments of an owner, as indexes in ascending order.
  std::span<const uint32_t> of(int owner) const;
  size_t begin(int owner) const { return begin_[static_cast<size_t>(owner)]; }
  size_t n_rows(int owner) const { return of(owner).size(); }
  uint32_t n_tokens(int owner) const { return n_tokens_[static_cast<size_t>(owner)]; }
  size_t n_all() const { return by_owner_.size(); }

 private:
  const std::vector<int> owner_;    // by expert
  std::vector<uint32_t> by_owner_;  // assignment indexes, stable by owner
  std::vector<size_t> begin_;       // [n + 1] into by_owner_
  std::vector<uint32_t> n_tokens_;  // distinct tokens of each
  std::vector<size_t> cursor_;
};

// Sizes and counts of what goes to `owner`.
void FillDispatchHeader(const Grouping& grouping, int owner, size_t row_bytes, MessageHeader& header);

// How rows are copied into a message: into memory that this core will read again, or past the caches, when it is
// another core that reads them.
enum class CopyRows : uint8_t { kPlain, kStream };

// The message with this sealed header, at `out` (64-byte aligned, header.n_bytes).
void PackDispatch(const MessageHeader& header, const Grouping& grouping, int owner, std::span<const std::byte> rows,
                  std::span<const ExpertAssignment> assignments, CopyRows how, std::byte* out);

// `to` is 16-byte aligned. Streamed bytes are seen by others only after StreamFence().
void CopyBytes(CopyRows how, const std::byte* from, size_t n, std::byte* to);
void StreamFence();

// INTERNAL: out of bounds.
absl::Status CheckDispatchArguments(std::span<const std::byte> rows, size_t row_bytes);
absl::Status CheckCombineArguments(std::span<const std::byte> results, size_t result_bytes, size_t n_received);

// Shards of experts that are spread evenly and contiguously.
std::vector<int> EvenOwners(uint32_t n_experts, int n_ranks);

// A pair that reached this shard, in the order (source rank, token, expert).
struct Arrival {
  uint32_t expert;
  float weight;
  const std::byte* row;
};

// Adds what of a checked message is for experts of `rank`. INTERNAL: malformed. `all_rows_are_ours`: a pair for another
// shard is an error, and not something for a neighbour.
absl::Status ReadDispatch(const MessageHeader& header, const std::byte* message, const Grouping& grouping, int rank,
                          bool all_rows_are_ours, std::vector<Arrival>& arrivals);

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
