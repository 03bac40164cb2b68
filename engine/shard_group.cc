#include "engine/shard_group.h"

#include <chrono>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status.h"
#include "copy_moves.h"

namespace longshelf::engine {
namespace {

// How long a follower sleeps at most before it looks again; the ring ends the sleep at once.
constexpr absl::Duration kBellTimeout = absl::Seconds(2);

// Leads every broadcast plan: the group's own fence, whatever the plan says, where experts lie in this step and how it
// is run.
struct Envelope {
  uint64_t generation;
  uint64_t seq;
  uint64_t placement_epoch;
  uint64_t n_microbatches;  // in which the step is run
};

// A step that computes more of some prompt than one certain token and guesses is one of prefill.
StepPhase PhaseOf(const StepPlan& plan) {
  for (const StepPlan::Row& row : plan.rows) {
    if (row.tokens.size() > 1 + size_t{row.n_drafts}) return StepPhase::kPrefill;
  }
  return StepPhase::kDecode;
}

absl::Status BeginPlaced(const ShardGroup& group, const StepPlan& plan, uint64_t epoch) {
  if (group.placement != nullptr) return group.placement->BeginStep(PhaseOf(plan), epoch);
  if (epoch == 0) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("the leader announces placement epoch ", epoch, "; on this shard experts stay where they are"));
}

std::string Seal(const Envelope& envelope, const StepPlan& plan) {
  std::string bytes(sizeof(envelope), '\0');
  std::memcpy(bytes.data(), &envelope, sizeof(envelope));
  bytes += plan.Serialize();
  return bytes;
}

// expected: on return with the rest of what was announced.
absl::StatusOr<StepPlan> Unseal(Envelope& expected, std::string_view bytes) {
  Envelope envelope{};
  if (bytes.size() < sizeof(envelope)) return absl::InternalError("a step plan without an envelope arrived");
  std::memcpy(&envelope, bytes.data(), sizeof(envelope));
  if (envelope.generation != expected.generation || envelope.seq != expected.seq) {
    return absl::InternalError(absl::StrCat("the leader announces step ", envelope.seq, " of generation ",
                                            envelope.generation, "; this shard expects step ", expected.seq,
                                            " of generation ", expected.generation));
  }
  expected = envelope;
  return StepPlan::Parse(bytes.substr(sizeof(envelope)));
}

// Tells the watch that a step is under way; between steps a shard may stand still for ever.
class StepMark {
 public:
  StepMark(GroupWatch* watch, uint64_t seq) : watch_(watch) {
    if (watch_ != nullptr) watch_->BeginStep(seq);
  }
  ~StepMark() {
    if (watch_ != nullptr) watch_->EndStep();
  }
  StepMark(const StepMark&) = delete;
  StepMark& operator=(const StepMark&) = delete;

 private:
  GroupWatch* watch_;
};

}  // namespace

absl::Status ShardGroupRunner::Announce(const StepPlan& plan, uint64_t epoch, int n_microbatches) {
  LONGSHELF_CHECK(!shut_down_);
  ++seq_;
  group_.doorbell.Ring();
  if (group_.links != nullptr) group_.links->Ring();
  std::string bytes = Seal({group_.generation, seq_, epoch, static_cast<uint64_t>(n_microbatches)}, plan);
  return group_.communicator.Broadcast(bytes);
}

absl::StatusOr<StepResult> ShardGroupRunner::Run(const StepPlan& plan) {
  if (plan.opcode == StepPlan::Opcode::kShutdown) {
    RETURN_IF_ERROR(Shutdown());
    return StepResult();
  }
  const StepMark mark(group_.watch, seq_ + 1);
  const uint64_t epoch = group_.placement == nullptr ? 0 : group_.placement->epoch_to_announce();
  const int n_microbatches = microbatches_.Next(plan, group_.communicator.size());
  const auto start = std::chrono::steady_clock::now();
  RETURN_IF_ERROR(Announce(plan, epoch, n_microbatches));
  RETURN_IF_ERROR(BeginPlaced(group_, plan, epoch));
  group_.transport.BeginStep(seq_);
  RETURN_IF_ERROR(MoveCopies(plan, group_.communicator, executor_.copies()));
  std::vector<StepResult> results(1);
  ASSIGN_OR_RETURN(results[0], executor_.Execute(plan, 0, n_microbatches));
  ASSIGN_OR_RETURN(const std::vector<std::string> gathered, group_.communicator.Gather(""));
  for (size_t shard = 1; shard < gathered.size(); ++shard) {
    auto result = StepResult::Parse(gathered[shard]);
    if (!result.ok()) return Annotate(result.status(), absl::StrCat("result of shard ", shard));
    results.push_back(*std::move(result));
  }
  microbatches_.Observe(absl::FromChrono(std::chrono::steady_clock::now() - start));
  if (group_.placement != nullptr) RETURN_IF_ERROR(group_.placement->EndStep(seq_));
  return MergeResults(plan, std::move(results));
}

absl::Status ShardGroupRunner::Shutdown() {
  if (shut_down_) return absl::OkStatus();
  StepPlan plan;
  plan.opcode = StepPlan::Opcode::kShutdown;
  absl::Status status = Announce(plan, 0, 1);
  shut_down_ = true;
  return status;
}

absl::Status RunFollower(const ShardGroup& group, Executor& executor) {
  const int rank = group.communicator.rank();
  std::string bytes;
  for (uint64_t seq = 1;; ++seq) {
    // A dead leader is the watch's business; here an idle shard only sleeps.
    while (!group.doorbell.Wait(kBellTimeout)) {
    }
    const StepMark mark(group.watch, seq);
    RETURN_IF_ERROR(group.communicator.Broadcast(bytes));
    Envelope envelope{group.generation, seq, 0, 1};
    ASSIGN_OR_RETURN(const StepPlan plan, Unseal(envelope, bytes));
    if (plan.opcode == StepPlan::Opcode::kShutdown) return absl::OkStatus();
    RETURN_IF_ERROR(BeginPlaced(group, plan, envelope.placement_epoch));
    group.transport.BeginStep(seq);
    RETURN_IF_ERROR(MoveCopies(plan, group.communicator, executor.copies()));
    ASSIGN_OR_RETURN(const StepResult result, executor.Execute(plan, rank, static_cast<int>(envelope.n_microbatches)));
    ASSIGN_OR_RETURN(const auto unused, group.communicator.Gather(result.Serialize()));
    (void)unused;
    if (group.placement != nullptr) RETURN_IF_ERROR(group.placement->EndStep(seq));
  }
}

}  // namespace longshelf::engine
