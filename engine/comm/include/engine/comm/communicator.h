#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace longshelf::engine {

// Bulk exchanges move whole units, so that a message's size never has to fit an int of bytes.
inline constexpr size_t kExchangeUnitBytes = 64;

// Where one peer's message lies in an exchange buffer, in units.
struct ExchangePart {
  size_t first_unit = 0;
  size_t n_units = 0;
};

// The collectives that a shard group needs, as an argument: MPI in a cluster, threads in a test. Every member calls the
// same sequence of operations. One thread (the engine's) makes all calls. Errors are UNAVAILABLE: the group must end.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  virtual absl::Status Barrier() = 0;

  // `bytes` is read at rank 0 and written everywhere else.
  virtual absl::Status Broadcast(std::string& bytes) = 0;

  // Rank 0 gets everybody's bytes by rank; the others get nothing.
  virtual absl::StatusOr<std::vector<std::string>> Gather(std::string_view bytes) = 0;

  // send, receive: [size(), n] bytes of equal length; row i goes to, or comes from, rank i.
  virtual absl::Status ExchangeFixed(std::span<const std::byte> send, std::span<std::byte> receive) = 0;

  // One message per peer, of sizes both sides already know: send_parts[i] of `send` goes to rank i, receive_parts[i] of
  // `receive` comes from rank i. Buffers are aligned to kExchangeUnitBytes.
  virtual absl::Status ExchangeUnits(const std::byte* send, std::span<const ExchangePart> send_parts,
                                     std::byte* receive, std::span<const ExchangePart> receive_parts) = 0;

  // One message from member to member, in whole units, while the caller goes on. Messages of one pair and tag arrive in
  // the order in which they were sent. Buffers are left alone until IsDone() has said yes, which ends the transfer;
  // nothing moves but inside of calls.
  struct Transfer {
    int id = -1;
    bool is_open() const { return id >= 0; }
  };
  virtual absl::StatusOr<Transfer> StartSend(int peer, int tag, const std::byte* bytes, size_t n_units) = 0;
  // A message of more than `n_units_max` is an error.
  virtual absl::StatusOr<Transfer> StartReceive(int peer, int tag, std::byte* bytes, size_t n_units_max) = 0;
  // Moves all open transfers along, for the cost of one look at the network.
  virtual absl::Status Advance() = 0;
  // Whether it had ended when they were last moved along.
  virtual absl::StatusOr<bool> IsDone(Transfer& transfer) = 0;
};

// Everybody gets everybody's bytes, by rank.
absl::StatusOr<std::vector<std::string>> AllGather(Communicator& communicator, std::string_view bytes);

// Seconds of one barrier, in the median of a few, on the slowest member; everybody gets it. On one machine it takes
// some tens of microseconds, unless members wait for a processor that another one spins on.
absl::StatusOr<double> MeasureBarrier(Communicator& communicator);

// What must be equal on every shard before a group may form: build, weights, numerics, kernels, block layout.
struct IdentityField {
  std::string name;
  std::string value;
};

// FAILED_PRECONDITION on every member when a field differs, naming the field, the ranks and both values.
absl::Status AgreeOnIdentity(Communicator& communicator, std::span<const IdentityField> fields);

}  // namespace longshelf::engine
