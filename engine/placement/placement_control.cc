#include "engine/placement/placement_control.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status.h"
#include "engine/placement/plan_placement.h"

namespace longshelf::engine {
namespace {

// Steps between two questions whether everybody has what it shall hold: each costs as much as a barrier.
constexpr uint64_t kStepsPerQuestion = 16;

std::vector<ExpertId> HeldBy(int rank, const ExpertPlacement& placement, const ExpertPlacement& but_not) {
  std::vector<ExpertId> out;
  for (uint32_t l = 0; l < placement.n_layers(); ++l) {
    for (uint32_t e = 0; e < placement.n_experts(); ++e) {
      if (placement.Holds(rank, l, e) && !but_not.Holds(rank, l, e)) out.push_back({l, e});
    }
  }
  return out;
}

double Balance(const std::vector<double>& rows) {
  const double largest = *std::max_element(rows.begin(), rows.end());
  const double mean = std::accumulate(rows.begin(), rows.end(), 0.0) / static_cast<double>(rows.size());
  return largest > 0 ? mean / largest : 1.0;
}

}  // namespace

class PlacementControl::CountingTransport final : public ForwardingExpertTransport {
 public:
  CountingTransport(ExpertTransport& inner, ExpertLoads& loads) : ForwardingExpertTransport(inner), loads_(loads) {}
  void set_phase(StepPhase phase) { phase_ = phase; }

  absl::Status BeginDispatch(int lane, uint32_t layer, std::span<const std::byte> rows, size_t row_bytes,
                             std::span<const ExpertAssignment> assignments) override {
    loads_.Add(phase_, layer, assignments);
    return ForwardingExpertTransport::BeginDispatch(lane, layer, rows, row_bytes, assignments);
  }

 private:
  ExpertLoads& loads_;
  StepPhase phase_ = StepPhase::kDecode;
};

PlacementControl::PlacementControl(Communicator& communicator, ExpertTransport& transport, ExpertMover& mover,
                                   uint32_t n_layers, uint32_t n_experts, PlacementOptions options)
    : communicator_(communicator),
      mover_(mover),
      options_(std::move(options)),
      loads_(n_layers, n_experts),
      transport_(std::make_unique<CountingTransport>(transport, loads_)),
      placement_(ExpertPlacement::Even(n_layers, n_experts, communicator.size())) {}

PlacementControl::~PlacementControl() = default;

ExpertTransport& PlacementControl::transport() { return *transport_; }

void PlacementControl::Say(const std::string& text) const {
  if (options_.say) options_.say(text);
}

absl::Status PlacementControl::BeginStep(StepPhase phase, uint64_t announced_epoch) {
  transport_->set_phase(phase);
  if (announced_epoch != epoch_to_announce()) {
    return absl::InternalError(absl::StrCat("the leader announces placement epoch ", announced_epoch,
                                            "; this shard expects ", epoch_to_announce()));
  }
  if (is_ready_) Switch();
  return absl::OkStatus();
}

// What was retired at the switch before is let go, unless it came back. What is retired now stays until the next one:
// it is still in memory should the plan be taken back.
void PlacementControl::Switch() {
  const int rank = transport_->rank();
  std::erase_if(retired_, [&](ExpertId id) {
    return placement_.Holds(rank, id.layer, id.expert) || next_->Holds(rank, id.layer, id.expert);
  });
  mover_.Release(std::move(retired_));
  retired_ = HeldBy(rank, placement_, *next_);
  placement_ = *next_;
  next_.reset();
  is_ready_ = false;
  ++epoch_;
  transport_->SetPlacement(placement_);
  Say(absl::StrCat("experts lie as planned from this step on: placement epoch ", epoch_));
  const std::lock_guard lock(mutex_);
  report_.epoch = epoch_;
  report_.n_moved += n_to_fetch_;
}

absl::Status PlacementControl::EndStep(uint64_t seq) {
  if (next_ != nullptr && !is_ready_) {
    mover_.AllowOne();
    return seq % kStepsPerQuestion == 0 ? AskWhetherAllAreThere() : absl::OkStatus();
  }
  const uint64_t at = seq % options_.interval_steps;
  if (at == 0 && !is_ready_) RETURN_IF_ERROR(Consider());
  if (at == (options_.interval_steps - options_.window_steps) % options_.interval_steps) loads_.Clear();
  return absl::OkStatus();
}

absl::Status PlacementControl::Consider() {
  ASSIGN_OR_RETURN(const std::vector<std::string> all, AllGather(communicator_, loads_.bytes()));
  ExpertLoads total(loads_.n_layers(), loads_.n_experts());
  for (const std::string& one : all) RETURN_IF_ERROR(total.AddBytes(one));
  Report(total);
  auto next = std::make_unique<ExpertPlacement>(PlanPlacement(total, options_.n_redundant, placement_));
  const double now = PredictSlowest(placement_, total);
  const double then = PredictSlowest(*next, total);
  if (now <= 0 || then * options_.gain_min > now) return absl::OkStatus();
  next_ = std::move(next);
  std::vector<ExpertId> missing = HeldBy(transport_->rank(), *next_, placement_);
  n_to_fetch_ = missing.size();
  Say(
      absl::StrFormat("the slowest shards would compute %.1f %% fewer rows with experts placed anew; this shard "
                      "fetches %d of them, one in a step",
                      100.0 * (1.0 - then / now), n_to_fetch_));
  mover_.Fetch(std::move(missing));
  return absl::OkStatus();
}

// Everybody or nobody.
absl::Status PlacementControl::AskWhetherAllAreThere() {
  const std::optional<ExpertMover::State> state = mover_.Look();
  std::string mine = state.has_value() && state->n_left == 0 ? "+" : "-";
  if (state.has_value() && !state->status.ok()) mine = absl::StrCat("!", std::string(state->status.message()));
  ASSIGN_OR_RETURN(const std::vector<std::string> all, AllGather(communicator_, mine));
  is_ready_ = true;
  for (size_t r = 0; r < all.size(); ++r) {
    is_ready_ = is_ready_ && all[r] == "+";
    if (all[r].empty() || all[r][0] != '!') continue;
    is_ready_ = false;
    next_.reset();
    mover_.Fetch({});
    Say(absl::StrCat("experts stay where they are: shard ", r, " refuses what it fetched: ", all[r].substr(1)));
    const std::lock_guard lock(mutex_);
    ++report_.n_refused;
    return absl::OkStatus();
  }
  return absl::OkStatus();
}

void PlacementControl::Report(const ExpertLoads& all) {
  PlacementReport fresh;
  fresh.rank_rows.assign(static_cast<size_t>(placement_.n_ranks()), 0.0);
  for (uint32_t l = 0; l < all.n_layers(); ++l) {
    for (size_t p = 0; p < kStepPhases; ++p) {
      const std::vector<double> rows = PredictRankRows(placement_, all, static_cast<StepPhase>(p), l);
      fresh.balance[p].push_back(Balance(rows));
      for (size_t r = 0; r < rows.size(); ++r) fresh.rank_rows[r] += rows[r];
    }
  }
  const std::lock_guard lock(mutex_);
  report_.rank_rows = std::move(fresh.rank_rows);
  for (size_t p = 0; p < kStepPhases; ++p) report_.balance[p] = std::move(fresh.balance[p]);
}

PlacementReport PlacementControl::report() const {
  const std::lock_guard lock(mutex_);
  return report_;
}

}  // namespace longshelf::engine
