#pragma once

#include <mpi.h>

#include <thread>

#include "engine/comm/communicator.h"
#include "engine/comm/group_watch.h"

namespace longshelf::engine {

// Every MPI call of the tree except start and end (mpi_session.cc). Funneled: calls come from the thread that built it.
class MpiCommunicator final : public Communicator {
 public:
  // Takes over `comm`, whose errors must be returned. `watch` (may be null) learns of every finished collective.
  MpiCommunicator(MPI_Comm comm, GroupWatch* watch);
  ~MpiCommunicator() override;
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  absl::Status Barrier() override;
  absl::Status Broadcast(std::string& bytes) override;
  absl::StatusOr<std::vector<std::string>> Gather(std::string_view bytes) override;
  absl::Status ExchangeFixed(std::span<const std::byte> send, std::span<std::byte> receive) override;
  absl::Status ExchangeUnits(const std::byte* send, std::span<const ExchangePart> send_parts, std::byte* receive,
                             std::span<const ExchangePart> receive_parts) override;
  absl::StatusOr<Transfer> StartSend(int peer, int tag, const std::byte* bytes, size_t n_units) override;
  absl::StatusOr<Transfer> StartReceive(int peer, int tag, std::byte* bytes, size_t n_units_max) override;
  absl::Status Advance() override;
  absl::StatusOr<bool> IsDone(Transfer& transfer) override;
  // Gives MPI's handles back. Before MPI_Finalize.
  void Release();

 private:
  absl::Status Check(int code, const char* call);
  Transfer TakeSlot();

  MPI_Comm comm_;
  MPI_Datatype unit_ = MPI_DATATYPE_NULL;  // kExchangeUnitBytes contiguous bytes
  GroupWatch* watch_;
  int rank_ = 0;
  int size_ = 1;
  const std::thread::id owner_;
  std::vector<std::byte> frames_;
  struct Outcome {
    bool is_used = false;
    bool is_done = false;
    absl::Status status;
  };
  std::vector<MPI_Request> transfers_;  // by id; MPI_REQUEST_NULL: done, or free
  std::vector<Outcome> outcomes_;       // by id
  int n_open_ = 0;                      // that MPI has not ended
  std::vector<int> ended_;              // as MPI fills them in
  std::vector<MPI_Status> ended_statuses_;
  std::vector<int> counts_;  // send counts, send offsets, receive counts, receive offsets
};

// OK, or UNAVAILABLE with the name of the call and MPI's text.
absl::Status MpiStatus(int code, const char* call);

}  // namespace longshelf::engine
