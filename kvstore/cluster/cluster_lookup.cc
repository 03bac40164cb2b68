#include "cluster_lookup.h"

#include <algorithm>
#include <set>
#include <utility>

namespace longshelf::kvstore {
namespace {

// Before the rest: where cache objects lie, and where the second copy of parked ones does.
constexpr size_t kAskedFirst = 2;

bool IsBoundary(const CheckpointInfo& info) { return info.hash == info.parent; }

// What either of two nodes has.
void Merge(const LookupResult& other, LookupResult& into) {
  into.n_present = std::max(into.n_present, other.n_present);
  for (const CheckpointInfo& info : other.checkpoints) {
    const auto known = std::find_if(into.checkpoints.begin(), into.checkpoints.end(),
                                    [&](const CheckpointInfo& each) { return each.hash == info.hash; });
    if (known == into.checkpoints.end()) {
      into.checkpoints.push_back(info);
    } else if (info.has_tail && !known->has_tail) {
      *known = info;
    }
  }
}

// Deepest first, as many as one store would list, and the probes.
void Trim(const std::vector<BlockKey>& probes, std::vector<CheckpointInfo>& checkpoints) {
  std::stable_sort(checkpoints.begin(), checkpoints.end(),
                   [](const CheckpointInfo& a, const CheckpointInfo& b) { return a.depth_tokens > b.depth_tokens; });
  const std::set<BlockKey> wanted(probes.begin(), probes.end());
  size_t n_tails = 0;
  size_t n_boundaries = 0;
  std::erase_if(checkpoints, [&](const CheckpointInfo& info) {
    if (wanted.contains(info.hash)) return false;
    return IsBoundary(info) ? ++n_boundaries > kMaxListedBoundaries : ++n_tails > kMaxListedTails;
  });
}

}  // namespace

ClusterLookup::ClusterLookup(ClusterCore& core, LookupQuery query, absl::Duration timeout,
                             Client::Done<LookupResult> done)
    : core_(core),
      view_(core.view),
      query_(std::move(query)),
      deadline_(core.clock.Now() + timeout),
      done_(std::move(done)) {}

void ClusterLookup::Start() {
  Split();
  n_open_ = extents_.size();
  for (size_t i = 0; i < extents_.size(); ++i) Ask(i, kAskedFirst);
  // For those that neither answer nor fail.
  core_.loop->At(deadline_, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr) return;
    for (Extent& extent : self->extents_) {
      if (!extent.has_answer) extent.failure = absl::DeadlineExceededError("the KV stores did not answer in time");
    }
    self->Finish();
  });
}

void ClusterLookup::Split() {
  const std::vector<BlockKey>& chain = query_.chain;
  // What begins at the end of a full last extent lies in the next one.
  for (size_t first = 0; first <= chain.size(); first += kExtentBlocks) {
    const size_t end = std::min(chain.size(), first + kExtentBlocks);
    if (first > 0 && first == chain.size() && !query_.want_checkpoints) break;
    Extent& extent = extents_.emplace_back();
    extent.query.fingerprint = query_.fingerprint;
    extent.query.root = first == 0 ? query_.root : chain[first - 1];
    extent.query.chain.assign(chain.begin() + static_cast<std::ptrdiff_t>(first),
                              chain.begin() + static_cast<std::ptrdiff_t>(end));
    extent.query.want_checkpoints = query_.want_checkpoints;
    // Behind the last block: in its extent, or in the one that begins there.
    if (end == chain.size()) extent.query.probes = query_.probes;
    extent.candidates = view_->Candidates(extent.query.root, core_.n_candidates());
  }
}

void ClusterLookup::Ask(size_t index, size_t n) {
  Extent& extent = extents_[index];
  absl::Duration late = absl::ZeroDuration();
  for (; n > 0 && extent.next < extent.candidates.size(); ++extent.next) {
    const std::shared_ptr<ClusterNode>& node = extent.candidates[extent.next];
    if (!core_.MayCall(*node)) continue;
    --n;
    ++extent.n_waiting;
    const absl::Time begun = core_.clock.Now();
    late = std::max(late, node->latency.HedgeAfter());
    node->client->Lookup(
        extent.query, deadline_ - begun,
        [self = shared_from_this(), loop = core_.loop, index, node, begun](const absl::StatusOr<LookupResult>& result) {
          loop->Post([self, index, node, begun, result] { self->OnAnswer(index, node, begun, result); });
        });
  }
  if (extent.n_waiting == 0) return EndExtent(index);
  const bool all_asked = extent.next >= extent.candidates.size();
  core_.loop->At(core_.clock.Now() + late, [weak = weak_from_this(), index, all_asked] {
    if (const auto self = weak.lock()) self->OnLate(index, all_asked);
  });
}

void ClusterLookup::OnAnswer(size_t index, const std::shared_ptr<ClusterNode>& node, absl::Time begun,
                             const absl::StatusOr<LookupResult>& result) {
  core_.Report(*node, result.status(), core_.clock.Now() - begun);
  if (result.ok()) node->latency.Observe(core_.clock.Now() - begun);
  Extent& extent = extents_[index];
  --extent.n_waiting;
  if (extent.is_done) return;
  if (!result.ok()) {
    extent.failure = result.status();
  } else if (result->n_present <= extent.query.chain.size()) {
    extent.has_answer = true;
    Merge(*result, extent.found);
  }
  const bool is_complete = extent.has_answer && extent.found.n_present == extent.query.chain.size() &&
                           (!query_.want_checkpoints || extent.n_waiting == 0);
  if (is_complete || (extent.has_answer && extent.is_late)) return EndExtent(index);
  if (extent.n_waiting == 0) Ask(index, extent.candidates.size());
}

void ClusterLookup::OnLate(size_t index, bool all_asked) {
  Extent& extent = extents_[index];
  if (extent.is_done) return;
  extent.is_late = all_asked;
  if (extent.has_answer && all_asked) return EndExtent(index);
  if (extent.next >= extent.candidates.size()) return;
  if (core_.counters != nullptr) core_.counters->hedged.Increment();
  Ask(index, extent.candidates.size());
}

void ClusterLookup::EndExtent(size_t index) {
  if (std::exchange(extents_[index].is_done, true)) return;
  if (--n_open_ == 0) Finish();
}

void ClusterLookup::Finish() {
  const auto done = std::exchange(done_, nullptr);
  if (done == nullptr) return;
  for (Extent& extent : extents_) extent.is_done = true;
  // Without the first extent nothing is known.
  if (!extents_[0].has_answer) return done(extents_[0].failure);
  LookupResult result;
  for (Extent& extent : extents_) {
    if (!extent.has_answer) break;
    result.n_present += extent.found.n_present;
    for (CheckpointInfo& info : extent.found.checkpoints) result.checkpoints.push_back(info);
    if (extent.found.n_present < extent.query.chain.size()) break;
  }
  Trim(query_.probes, result.checkpoints);
  done(std::move(result));
}

void ClusterLookup::Abandon(const absl::Status& status) {
  if (const auto done = std::exchange(done_, nullptr)) done(status);
}

}  // namespace longshelf::kvstore
