#include "repair.h"

#include <algorithm>
#include <map>
#include <utility>

#include "common/log.h"

namespace longshelf::kvstore {
namespace {

constexpr size_t kHeadsPerPage = 512;
constexpr absl::Duration kAskTimeout = absl::Seconds(1);
constexpr absl::Duration kCopyTimeout = absl::Seconds(30);
// Between two passes because of damage: a disk that goes bad is found to, object after object.
constexpr absl::Duration kMendInterval = absl::Seconds(20);

}  // namespace

RepairMetrics::RepairMetrics(Metrics& metrics)
    : missing(
          metrics.AddGauge("longshelf_kvstore_underreplicated_objects",
                           "Retained objects that were on fewer live nodes than they should be after the last pass")),
      members_down(
          metrics.AddGauge("longshelf_kvstore_members_down", "Other stores of the cluster that do not answer")),
      copied(metrics.AddCounter("longshelf_kvstore_repaired_objects_total",
                                "Retained objects sent to a store that lacked them")),
      copied_bytes(metrics.AddCounter("longshelf_kvstore_repaired_bytes_total", "Payload bytes of those")),
      passes(metrics.AddCounter("longshelf_kvstore_repair_passes_total",
                                "Times that all retained objects were gone over")) {}

void Repair::Start() {
  SeeMembers();
  CheckMembers();
  // What was put while this node was away is looked after once the others were heard of.
  core_.loop->At(core_.clock.Now() + 2 * options_.check_interval, [self = shared_from_this()] { self->BeginPass(); });
}

void Repair::SeeMembers() {
  std::map<const ClusterNode*, Seen> seen;
  for (const NodePtr& node : core_.view->nodes) {
    const auto known = seen_.find(node.get());
    seen[node.get()] = known != seen_.end() ? known->second : Seen{.at = core_.clock.Now()};
  }
  seen_ = std::move(seen);
}

void Repair::OnMembers() {
  SeeMembers();
  BeginPass();
}

void Repair::HandOver(std::function<void()> done) {
  is_leaving_ = true;
  on_handed_over_ = std::move(done);
  again_ = is_running_;
  if (!is_running_) BeginPass();
}

bool Repair::IsLive(const ClusterNode& node) const {
  if (IsSelf(node)) return !is_leaving_;
  const auto it = seen_.find(&node);
  return it != seen_.end() && it->second.is_live;
}

std::vector<Repair::NodePtr> Repair::TargetsOf(const ObjectHead& head) const {
  const size_t n_wanted = head.key.kind == ObjectKind::kManifest ? options_.n_manifests : options_.n_replicas;
  std::vector<NodePtr> targets = core_.view->Candidates(head.extent, core_.view->nodes.size());
  std::erase_if(targets, [this](const NodePtr& node) { return !IsLive(*node); });
  if (targets.size() > n_wanted) targets.resize(n_wanted);
  std::erase_if(targets, [this](const NodePtr& node) { return IsSelf(*node); });
  return targets;
}

void Repair::CheckMembers() {
  if (core_.is_closed) return;
  for (const NodePtr& node : core_.view->nodes) {
    Seen& seen = seen_.at(node.get());
    if (IsSelf(*node) || seen.is_asked) continue;
    seen.is_asked = true;
    node->client->Stats(kAskTimeout,
                        [self = shared_from_this(), loop = core_.loop, node](const absl::StatusOr<StoreStats>& stats) {
                          loop->Post([self, node, stats] { self->OnChecked(node, stats); });
                        });
  }
  core_.loop->At(core_.clock.Now() + options_.check_interval, [self = shared_from_this()] { self->CheckMembers(); });
}

void Repair::OnChecked(const NodePtr& node, const absl::StatusOr<StoreStats>& stats) {
  const auto asked = seen_.find(node.get());
  if (asked == seen_.end()) return;  // it has left
  Seen& seen = asked->second;
  seen.is_asked = false;
  const absl::Time now = core_.clock.Now();
  if (stats.ok()) {
    seen.at = now;
    const uint64_t n_before = std::exchange(seen.n_damaged, stats->n_quarantined);
    if (seen.n_damaged > n_before) MendSoon();
  }
  const bool was_live = seen.is_live;
  seen.is_live = now - seen.at < options_.down_after;
  if (metrics_ != nullptr) {
    metrics_->members_down.Set(
        static_cast<double>(std::count_if(seen_.begin(), seen_.end(), [now, this](const auto& each) {
          return !IsSelf(*each.first) && now - each.second.at > 3 * options_.check_interval;
        })));
  }
  if (seen.is_live == was_live) return;
  if (seen.is_live) {
    spdlog::info("store {} is back", node->member.address);
  } else {
    spdlog::warn("store {} was not heard of for {}: what it had is replicated elsewhere", node->member.address,
                 absl::FormatDuration(options_.down_after));
  }
  BeginPass();
}

void Repair::MendSoon() {
  if (std::exchange(will_mend_, true)) return;
  core_.loop->At(std::max(core_.clock.Now(), mended_at_ + kMendInterval), [self = shared_from_this()] {
    self->will_mend_ = false;
    self->mended_at_ = self->core_.clock.Now();
    self->BeginPass();
  });
}

void Repair::BeginPass() {
  if (core_.is_closed) return;
  if (std::exchange(is_running_, true)) {
    again_ = true;
    return;
  }
  again_ = false;
  ++pass_;
  cursor_ = {};
  n_missing_ = 0;
  NextPage();
}

void Repair::NextPage() {
  batches_.clear();
  const std::vector<ObjectHead> page = store_.Retained(cursor_, kHeadsPerPage);
  if (page.empty()) return EndPass();
  std::map<std::pair<const ClusterNode*, absl::Time>, Batch> batches;
  for (const ObjectHead& head : page) {
    const std::vector<NodePtr> targets = TargetsOf(head);
    if (is_leaving_ && targets.empty()) ++n_missing_;  // nobody is there to take it
    for (const NodePtr& node : targets) {
      Batch& batch = batches[{node.get(), head.retain_until}];
      batch.node = node;
      batch.until = head.retain_until;
      batch.heads.push_back(head);
    }
  }
  for (auto& [key, batch] : batches) batches_.push_back(std::move(batch));
  NextBatch();
}

void Repair::NextBatch() {
  if (core_.is_closed) return;
  if (batches_.empty()) {
    // Others have their turn between two pages.
    return core_.loop->Post([self = shared_from_this()] { self->NextPage(); });
  }
  const Batch batch = std::move(batches_.back());
  batches_.pop_back();
  TouchQuery query{.keys = {}, .retain_until = batch.until};
  for (const ObjectHead& head : batch.heads) query.keys.push_back({head.key, head.extent});
  batch.node->client->Touch(
      std::move(query), kAskTimeout,
      [self = shared_from_this(), loop = core_.loop, batch](const absl::StatusOr<TouchResult>& touched) {
        loop->Post([self, batch, touched] { self->OnTouched(batch, touched); });
      });
}

void Repair::OnTouched(const Batch& batch, const absl::StatusOr<TouchResult>& touched) {
  lacking_ = {.node = batch.node, .until = batch.until, .heads = {}};
  if (!touched.ok()) {
    n_missing_ += batch.heads.size();
    return NextBatch();
  }
  for (size_t i = 0; i < batch.heads.size(); ++i) {
    if (!touched->retained[i]) lacking_.heads.push_back(batch.heads[i]);
  }
  CopyNext();
}

void Repair::CopyNext() {
  if (core_.is_closed) return;
  if (lacking_.heads.empty()) return NextBatch();
  const absl::Time now = core_.clock.Now();
  if (now < may_send_at_) {
    return core_.loop->At(may_send_at_, [self = shared_from_this()] { self->CopyNext(); });
  }
  const ObjectHead head = std::move(lacking_.heads.back());
  lacking_.heads.pop_back();
  may_send_at_ =
      now + absl::Seconds(static_cast<double>(head.payload_bytes) / static_cast<double>(options_.bytes_per_s));
  Read(head, [self = shared_from_this(), loop = core_.loop](absl::StatusOr<PutItem> item) {
    loop->Post([self, item = std::move(item)] { self->OnRead(item); });
  });
}

void Repair::Read(const ObjectHead& head, std::function<void(absl::StatusOr<PutItem>)> done) {
  store_.Fetch(head.key, head.fingerprint, [head, done = std::move(done)](absl::StatusOr<Store::Reader> found) {
    if (!found.ok()) return done(found.status());
    auto payload = std::make_shared<std::vector<std::byte>>(found->head().payload_bytes);
    if (const absl::Status read = found->Read(*payload); !read.ok()) return done(read);
    PutItem item{head, std::move(payload)};
    item.head.object_class = ObjectClass::kParked;
    done(std::move(item));
  });
}

void Repair::OnRead(absl::StatusOr<PutItem> item) {
  if (core_.is_closed) return;
  if (!item.ok()) {
    // Dropped meanwhile, or damaged: then another has to look after it.
    if (!absl::IsNotFound(item.status()) && !absl::IsDataLoss(item.status())) ++n_missing_;
    return CopyNext();
  }
  const uint64_t n_bytes = item->payload->size();
  const auto outcome = std::make_shared<absl::StatusOr<PutOutcome>>(absl::UnavailableError("no answer"));
  const auto put = lacking_.node->client->Put(
      kCopyTimeout, {.on_outcome = [outcome](size_t, absl::StatusOr<PutOutcome> given) { *outcome = std::move(given); },
                     .on_done =
                         [self = shared_from_this(), loop = core_.loop, outcome, n_bytes](const absl::Status& call) {
                           loop->Post([self, outcome, n_bytes, call] { self->OnPut(n_bytes, *outcome, call); });
                         }});
  put->Offer(*std::move(item));
  put->Finish();
}

void Repair::OnPut(uint64_t n_bytes, const absl::StatusOr<PutOutcome>& outcome, const absl::Status& call) {
  if (!outcome.ok()) {
    ++n_missing_;
    if (!call.ok()) {  // the rest would fail too
      n_missing_ += lacking_.heads.size();
      lacking_.heads.clear();
    } else if (absl::IsUnavailable(outcome.status())) {
      MendSoon();  // what it reads and takes now will not fill its memory for long
    }
  } else if (!outcome->existed && metrics_ != nullptr) {
    metrics_->copied.Increment();
    metrics_->copied_bytes.Increment(static_cast<double>(n_bytes));
  }
  CopyNext();
}

void Repair::EndPass() {
  is_running_ = false;
  if (metrics_ != nullptr) {
    metrics_->passes.Increment();
    metrics_->missing.Set(static_cast<double>(n_missing_));
  }
  if (again_) return BeginPass();
  if (is_leaving_ && n_missing_ == 0) {
    if (const auto done = std::exchange(on_handed_over_, nullptr)) done();
    return;
  }
  // The next pass, unless another has begun by then for a reason of its own.
  // One that leaves does not wait so long: who was not there, or full, may be back.
  const absl::Duration interval = is_leaving_ ? options_.check_interval : options_.interval;
  core_.loop->At(core_.clock.Now() + interval, [self = shared_from_this(), pass = pass_] {
    if (self->pass_ == pass) self->BeginPass();
  });
}

}  // namespace longshelf::kvstore
