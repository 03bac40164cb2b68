#include "mpi_communicator.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status.h"

namespace longshelf::engine {
namespace {

constexpr int kLeader = 0;
constexpr int kGatherTag = 17;
// Short values travel with their length in one fixed frame; the rest of long ones follows in chunks that fit an int.
constexpr size_t kBroadcastFrameBytes = 8192;
constexpr size_t kGatherFrameBytes = 2048;
constexpr size_t kChunkBytes = size_t{1} << 30;
constexpr uint64_t kValueBytesMax = uint64_t{1} << 38;

void PutFrame(std::byte* frame, size_t frame_bytes, std::string_view value) {
  const uint64_t n = value.size();
  std::memcpy(frame, &n, sizeof(n));
  std::memcpy(frame + sizeof(n), value.data(), std::min(value.size(), frame_bytes - sizeof(n)));
}

// Sizes `value` and fills its beginning; returns how many bytes that was.
absl::StatusOr<size_t> TakeFrame(const std::byte* frame, size_t frame_bytes, std::string& value) {
  uint64_t n = 0;
  std::memcpy(&n, frame, sizeof(n));
  if (n > kValueBytesMax) {
    return absl::InternalError(absl::StrCat("a shard announces ", n, " bytes; the limit is ", kValueBytesMax));
  }
  value.resize(n);
  const size_t here = std::min<size_t>(n, frame_bytes - sizeof(n));
  std::memcpy(value.data(), frame + sizeof(n), here);
  return here;
}

}  // namespace

absl::Status MpiStatus(int code, const char* call) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING] = {};
  int n = 0;
  MPI_Error_string(code, text, &n);
  return absl::UnavailableError(absl::StrCat(call, ": ", std::string(text, static_cast<size_t>(std::max(n, 0)))));
}

MpiCommunicator::MpiCommunicator(MPI_Comm comm, GroupWatch* watch)
    : comm_(comm), watch_(watch), owner_(std::this_thread::get_id()) {
  LONGSHELF_CHECK(MPI_Comm_rank(comm_, &rank_) == MPI_SUCCESS && MPI_Comm_size(comm_, &size_) == MPI_SUCCESS);
  LONGSHELF_CHECK(MPI_Type_contiguous(kExchangeUnitBytes, MPI_BYTE, &unit_) == MPI_SUCCESS &&
                  MPI_Type_commit(&unit_) == MPI_SUCCESS);
  counts_.resize(4 * static_cast<size_t>(size_));
}

MpiCommunicator::~MpiCommunicator() = default;

void MpiCommunicator::Release() {
  if (unit_ != MPI_DATATYPE_NULL) MPI_Type_free(&unit_);
  if (comm_ != MPI_COMM_NULL) MPI_Comm_free(&comm_);
}

absl::Status MpiCommunicator::Check(int code, const char* call) {
  LONGSHELF_CHECK(std::this_thread::get_id() == owner_);
  if (watch_ != nullptr) watch_->MarkProgress();
  return MpiStatus(code, call);
}

absl::Status MpiCommunicator::Barrier() { return Check(MPI_Barrier(comm_), "MPI_Barrier"); }

absl::Status MpiCommunicator::Broadcast(std::string& bytes) {
  frames_.resize(std::max(frames_.size(), kBroadcastFrameBytes));
  if (rank_ == kLeader) {
    LONGSHELF_CHECK(bytes.size() <= kValueBytesMax);
    PutFrame(frames_.data(), kBroadcastFrameBytes, bytes);
  }
  RETURN_IF_ERROR(Check(MPI_Bcast(frames_.data(), kBroadcastFrameBytes, MPI_BYTE, kLeader, comm_), "MPI_Bcast"));
  size_t done = std::min(bytes.size(), kBroadcastFrameBytes - sizeof(uint64_t));
  if (rank_ != kLeader) {
    ASSIGN_OR_RETURN(done, TakeFrame(frames_.data(), kBroadcastFrameBytes, bytes));
  }
  for (; done < bytes.size(); done += std::min(kChunkBytes, bytes.size() - done)) {
    const auto n = static_cast<int>(std::min(kChunkBytes, bytes.size() - done));
    RETURN_IF_ERROR(Check(MPI_Bcast(bytes.data() + done, n, MPI_BYTE, kLeader, comm_), "MPI_Bcast"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> MpiCommunicator::Gather(std::string_view bytes) {
  LONGSHELF_CHECK(bytes.size() <= kValueBytesMax);
  const auto n_members = static_cast<size_t>(size_);
  // The first frame is this member's; the leader receives all behind it.
  frames_.resize(std::max(frames_.size(), kGatherFrameBytes * (n_members + 1)));
  std::byte* all = frames_.data() + kGatherFrameBytes;
  PutFrame(frames_.data(), kGatherFrameBytes, bytes);
  RETURN_IF_ERROR(
      Check(MPI_Gather(frames_.data(), kGatherFrameBytes, MPI_BYTE, all, kGatherFrameBytes, MPI_BYTE, kLeader, comm_),
            "MPI_Gather"));
  if (rank_ != kLeader) {
    size_t done = std::min(bytes.size(), kGatherFrameBytes - sizeof(uint64_t));
    for (; done < bytes.size(); done += std::min(kChunkBytes, bytes.size() - done)) {
      const auto n = static_cast<int>(std::min(kChunkBytes, bytes.size() - done));
      RETURN_IF_ERROR(Check(MPI_Send(bytes.data() + done, n, MPI_BYTE, kLeader, kGatherTag, comm_), "MPI_Send"));
    }
    return std::vector<std::string>();
  }
  std::vector<std::string> gathered(n_members);
  gathered[kLeader] = std::string(bytes);
  for (int r = 1; r < size_; ++r) {
    std::string& value = gathered[static_cast<size_t>(r)];
    ASSIGN_OR_RETURN(size_t done,
                     TakeFrame(all + static_cast<size_t>(r) * kGatherFrameBytes, kGatherFrameBytes, value));
    for (; done < value.size(); done += std::min(kChunkBytes, value.size() - done)) {
      const auto n = static_cast<int>(std::min(kChunkBytes, value.size() - done));
      RETURN_IF_ERROR(
          Check(MPI_Recv(value.data() + done, n, MPI_BYTE, r, kGatherTag, comm_, MPI_STATUS_IGNORE), "MPI_Recv"));
    }
  }
  return gathered;
}

absl::Status MpiCommunicator::ExchangeFixed(std::span<const std::byte> send, std::span<std::byte> receive) {
  LONGSHELF_CHECK(send.size() == receive.size() && send.size() % static_cast<size_t>(size_) == 0);
  const auto n = static_cast<int>(send.size() / static_cast<size_t>(size_));
  return Check(MPI_Alltoall(send.data(), n, MPI_BYTE, receive.data(), n, MPI_BYTE, comm_), "MPI_Alltoall");
}

absl::Status MpiCommunicator::ExchangeUnits(const std::byte* send, std::span<const ExchangePart> send_parts,
                                            std::byte* receive, std::span<const ExchangePart> receive_parts) {
  const auto n_members = static_cast<size_t>(size_);
  LONGSHELF_CHECK(send_parts.size() == n_members && receive_parts.size() == n_members);
  const auto fill = [&](std::span<const ExchangePart> parts, size_t at) {
    for (size_t r = 0; r < n_members; ++r) {
      if (parts[r].first_unit + parts[r].n_units > std::numeric_limits<int>::max()) return false;
      counts_[at + r] = static_cast<int>(parts[r].n_units);
      counts_[at + n_members + r] = static_cast<int>(parts[r].first_unit);
    }
    return true;
  };
  if (!fill(send_parts, 0) || !fill(receive_parts, 2 * n_members)) {
    return absl::UnavailableError("expert exchange above 128 GiB; lower the step's token budget");
  }
  const int* counts = counts_.data();
  return Check(MPI_Alltoallv(send, counts, counts + n_members, unit_, receive, counts + 2 * n_members,
                             counts + 3 * n_members, unit_, comm_),
               "MPI_Alltoallv");
}

MpiCommunicator::Transfer MpiCommunicator::TakeSlot() {
  const auto free = std::find_if(outcomes_.begin(), outcomes_.end(), [](const Outcome& o) { return !o.is_used; });
  const auto id = static_cast<int>(free - outcomes_.begin());
  if (free == outcomes_.end()) {
    outcomes_.emplace_back();
    transfers_.push_back(MPI_REQUEST_NULL);
    ended_.push_back(0);
    ended_statuses_.emplace_back();
  }
  ++n_open_;
  outcomes_[static_cast<size_t>(id)] = {.is_used = true, .is_done = false, .status = {}};
  return {id};
}

absl::StatusOr<MpiCommunicator::Transfer> MpiCommunicator::StartSend(int peer, int tag, const std::byte* bytes,
                                                                     size_t n_units) {
  if (n_units > std::numeric_limits<int>::max()) return absl::UnavailableError("message above 128 GiB");
  const Transfer transfer = TakeSlot();
  RETURN_IF_ERROR(MpiStatus(MPI_Isend(bytes, static_cast<int>(n_units), unit_, peer, tag, comm_,
                                      &transfers_[static_cast<size_t>(transfer.id)]),
                            "MPI_Isend"));
  return transfer;
}

absl::StatusOr<MpiCommunicator::Transfer> MpiCommunicator::StartReceive(int peer, int tag, std::byte* bytes,
                                                                        size_t n_units_max) {
  if (n_units_max > std::numeric_limits<int>::max()) return absl::UnavailableError("message above 128 GiB");
  const Transfer transfer = TakeSlot();
  RETURN_IF_ERROR(MpiStatus(MPI_Irecv(bytes, static_cast<int>(n_units_max), unit_, peer, tag, comm_,
                                      &transfers_[static_cast<size_t>(transfer.id)]),
                            "MPI_Irecv"));
  return transfer;
}

absl::Status MpiCommunicator::Advance() {
  LONGSHELF_CHECK(std::this_thread::get_id() == owner_);
  if (n_open_ == 0) return absl::OkStatus();
  int n = 0;
  const int code =
      MPI_Testsome(static_cast<int>(transfers_.size()), transfers_.data(), &n, ended_.data(), ended_statuses_.data());
  const bool some_failed = code == MPI_ERR_IN_STATUS;
  if (!some_failed) RETURN_IF_ERROR(MpiStatus(code, "MPI_Testsome"));
  for (int i = 0; n != MPI_UNDEFINED && i < n; ++i) {
    const auto at = static_cast<size_t>(i);
    Outcome& outcome = outcomes_[static_cast<size_t>(ended_[at])];
    outcome.is_done = true;
    --n_open_;
    if (some_failed) outcome.status = MpiStatus(ended_statuses_[at].MPI_ERROR, "MPI_Testsome");
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> MpiCommunicator::IsDone(Transfer& transfer) {
  LONGSHELF_CHECK(std::this_thread::get_id() == owner_ && transfer.is_open());
  Outcome& outcome = outcomes_[static_cast<size_t>(transfer.id)];
  if (!outcome.is_done) return false;
  outcome.is_used = false;
  transfer = {};
  RETURN_IF_ERROR(outcome.status);
  return true;
}

}  // namespace longshelf::engine
