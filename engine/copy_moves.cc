#include "copy_moves.h"

#include <cstring>
#include <deque>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace longshelf::engine {
namespace {

constexpr int kMoveTag = 103;  // 101 and 102 are the expert transport's

size_t UnitsOf(uint64_t n_bytes) {
  return static_cast<size_t>((n_bytes + kExchangeUnitBytes - 1) / kExchangeUnitBytes);
}

struct Move {
  const StepPlan::MoveCopy* what;
  bool receives;
  std::vector<std::byte> bytes;  // padded to whole units
  Communicator::Transfer transfer;
};

absl::Status Start(Move& move, Communicator& communicator, const KvCopies& copies) {
  const size_t n_units = UnitsOf(move.what->n_bytes);
  move.bytes.resize(n_units * kExchangeUnitBytes);
  if (move.receives) {
    ASSIGN_OR_RETURN(move.transfer, communicator.StartReceive(move.what->from, kMoveTag, move.bytes.data(), n_units));
    return absl::OkStatus();
  }
  const KvCopies::Bytes held = copies.Find(move.what->copy);
  if (held == nullptr || held->size() != move.what->n_bytes) {
    return absl::InternalError(absl::StrCat("step plan does not fit this shard: it is to send copy ", move.what->copy,
                                            " of ", move.what->n_bytes, " bytes, and has ",
                                            held == nullptr ? 0 : held->size()));
  }
  std::memcpy(move.bytes.data(), held->data(), held->size());
  ASSIGN_OR_RETURN(move.transfer, communicator.StartSend(move.what->to, kMoveTag, move.bytes.data(), n_units));
  return absl::OkStatus();
}

}  // namespace

absl::Status MoveCopies(const StepPlan& plan, Communicator& communicator, KvCopies& copies) {
  std::deque<Move> moves;
  for (const StepPlan::MoveCopy& what : plan.move_copies) {
    const int rank = communicator.rank();
    if (what.from != rank && what.to != rank) continue;
    moves.push_back({.what = &what, .receives = what.to == rank, .bytes = {}, .transfer = {}});
    RETURN_IF_ERROR(Start(moves.back(), communicator, copies));
  }
  // All together: bytes move within calls only, and two shards may wait for each other.
  while (!moves.empty()) {
    RETURN_IF_ERROR(communicator.Advance());
    Move move = std::move(moves.front());
    moves.pop_front();
    ASSIGN_OR_RETURN(const bool is_done, communicator.IsDone(move.transfer));
    if (!is_done) {
      moves.push_back(std::move(move));
      std::this_thread::yield();
    } else if (move.receives) {
      move.bytes.resize(move.what->n_bytes);
      copies.Add(move.what->new_copy, std::make_shared<const std::vector<std::byte>>(std::move(move.bytes)));
    }
  }
  return absl::OkStatus();
}

}  // namespace longshelf::engine
