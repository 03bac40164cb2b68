#include "session_parks.h"

#include <algorithm>
#include <span>

#include "kvstore/namespace_id.h"
#include "manifests.h"
#include "session_errors.h"
#include "session_objects.h"

namespace longshelf::router {
namespace {

using kvstore::BlockKey;

constexpr std::string_view kParked = "parked";
constexpr std::string_view kUnavailable = "worker_unavailable";
constexpr absl::Duration kFirstPause = absl::Seconds(1);  // each further one is twice as long

bool IsStoreDown(const absl::Status& status) { return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status); }

}  // namespace

void SessionParks::Park(const EntryPtr& entry, ParkTerms terms, uint32_t n_tries, Done done) {
  if (is_stopped_) return done(Draining());
  entry->at_end.reset();
  if (entry->running != nullptr) entry->running->Interrupt(kParked);
  const auto manifest = std::make_shared<Manifest>();
  running_.emplace(std::pair(entry->tenant.name, entry->session.id), manifest);
  manifest->entry = entry;
  manifest->n_tries = n_tries;
  manifest->pause = kFirstPause;
  manifest->done = std::move(done);
  SessionInfo& info = manifest->info;
  info = entry->Info();
  info.parked_at = versions_.Next();
  info.retain_until = info.parked_at + terms.retention;
  info.durability = terms.durability;
  if (!entry->worker.has_value()) return KeepState(manifest, "no_worker");
  if (leaves_workers_) return KeepState(manifest, kUnavailable);
  ParkOrder order;
  order.tokens = AllTokens(entry->session);
  order.namespace_id = entry->session.namespace_id;
  order.namespace_salt = entry->namespace_salt;
  order.terms = terms;
  order.retain_until = info.retain_until;
  manifest->waits_for_worker = true;
  dispatcher_.Park(*entry->worker, order,
                   [this, manifest](const absl::StatusOr<ParkedState>& parked) { OnParked(manifest, parked); });
}

SessionParks::EntryPtr SessionParks::Cancel(const Tenant& tenant, const std::string& id) {
  EntryPtr any;
  const auto [begin, end] = running_.equal_range({tenant.name, id});
  for (auto it = begin; it != end; ++it) {
    any = it->second->entry;
    any->is_deleted = true;
  }
  return any;
}

absl::Time SessionParks::NewestOf(const SessionEntry& entry) const {
  absl::Time newest = absl::InfinitePast();
  const auto [begin, end] = running_.equal_range({entry.tenant.name, entry.session.id});
  for (auto it = begin; it != end; ++it) {
    if (it->second->entry->IsSameAnswer(entry)) newest = std::max(newest, it->second->info.parked_at);
  }
  return newest;
}

void SessionParks::LeaveWorkers() {
  leaves_workers_ = true;
  for (const auto& [name, manifest] : std::multimap(running_)) {
    if (std::exchange(manifest->waits_for_worker, false)) KeepState(manifest, kUnavailable);
  }
  for (Retry& retry : retries_) retry.at = clock_.Now();
}

void SessionParks::Stop() {
  is_stopped_ = true;
  retries_.clear();
  for (const auto& [name, manifest] : std::multimap(running_)) {
    manifest->waits_for_worker = false;
    Answer(manifest, Draining());
  }
}

void SessionParks::OnParked(const ManifestPtr& manifest, const absl::StatusOr<ParkedState>& parked) {
  if (!std::exchange(manifest->waits_for_worker, false)) return;
  if (parked.ok()) {
    manifest->info.kv = KvOf(*manifest->entry, *parked);
    return Enqueue(manifest);
  }
  const bool is_deleted = kvstore::IsNamespaceDeleted(parked.status());
  if (absl::IsResourceExhausted(parked.status()) || (absl::IsFailedPrecondition(parked.status()) && !is_deleted)) {
    return End(manifest, SessionStoreError(parked.status()));
  }
  const bool is_held = !is_deleted && !absl::IsNotFound(parked.status());
  KeepState(manifest, is_held ? kUnavailable : "not_held");
}

// The tokens are what counts: without its state the session is parked all the same. But what is in the store from an
// earlier time is kept as long as the session.
void SessionParks::KeepState(const ManifestPtr& manifest, std::string_view missing) {
  const EntryPtr& entry = manifest->entry;
  manifest->info.kv_missing = missing;
  if (entry->is_deleted || !entry->kv.has_value() || entry->session.fingerprint.empty()) return Enqueue(manifest);
  SessionInfo with_state = manifest->info;
  with_state.kv = entry->kv;
  with_state.kv_missing = "";
  auto keys = ObjectsOf(with_state, entry->session, entry->namespace_salt);
  store_.Retain(std::move(keys), with_state.retain_until, with_state.durability,
                [this, manifest, with_state](const absl::StatusOr<bool>& kept) {
                  if (kept.ok() && *kept) manifest->info = with_state;
                  Enqueue(manifest);
                });
}

std::optional<ParkedKv> SessionParks::KvOf(const SessionEntry& entry, const ParkedState& state) const {
  const auto& worker = dispatcher_.model();
  if (!worker.has_value() || KeyText(worker->fingerprint) != entry.session.fingerprint ||
      state.checkpoint_key.size() != BlockKey().size())
    return std::nullopt;
  const PromptKeys keys =
      MakePromptKeys(worker->fingerprint, entry.namespace_salt, worker->block_tokens, AllTokens(entry.session));
  return ParkedKv{.state = state,
                  .block_tokens = worker->block_tokens,
                  .trail = TrailOf(std::span(keys.chain).subspan(1), worker->block_tokens, state.n_tokens)};
}

void SessionParks::Enqueue(const ManifestPtr& manifest) {
  auto& queue = manifest->entry->manifests;
  manifest->is_queued = true;
  queue.push_back([this, manifest] { Store(manifest); });
  if (queue.size() == 1) Store(manifest);
}

void SessionParks::Store(const ManifestPtr& manifest) {
  const EntryPtr& entry = manifest->entry;
  if (entry->is_deleted) return OnNotStored(manifest, absl::NotFoundError("the session was deleted"));
  store_.Put(entry->scope, manifest->info, entry->session,
             [this, manifest](const absl::StatusOr<SessionStore::Stored>& stored) { OnStored(manifest, stored); });
}

void SessionParks::OnStored(const ManifestPtr& manifest, const absl::StatusOr<SessionStore::Stored>& stored) {
  const EntryPtr& entry = manifest->entry;
  if (!stored.ok()) return OnNotStored(manifest, stored.status());
  const auto drop = [&](const SessionStore::Heads& versions) {
    if (versions.empty()) return;
    drops_.Drop({.scope = entry->scope, .versions = versions, .states = {}, .done = [](const auto&) {}});
  };
  drop(stored->replaced);
  if (entry->is_deleted) {
    // While it was being stored: who deleted it has not seen it.
    drop({stored->head});
    return End(manifest, NoSuchSession());
  }
  versions_.Saw(stored->card.parked_at);
  entry->session.stands_on = stored->card.parked_at;
  entry->session.answer_at = stored->card.answer_at;
  entry->parked = stored->card;
  entry->kv = stored->card.kv;
  End(manifest, stored->card);
}

void SessionParks::OnNotStored(const ManifestPtr& manifest, const absl::Status& why) {
  // A later park of the same answer makes up for this one.
  const bool is_last = manifest->entry->manifests.size() == 1;
  if (IsStoreDown(why) && --manifest->n_tries > 0 && is_last) {
    retries_.push_back({clock_.Now() + manifest->pause, manifest});
    manifest->pause *= 2;
    return;
  }
  drops_.DropState(manifest->entry->scope, manifest->info, manifest->entry->session);
  End(manifest, SessionStoreError(why));
}

void SessionParks::Tick() {
  const absl::Time now = clock_.Now();
  for (auto it = retries_.begin(); it != retries_.end();) {
    const bool is_waited_for = it->manifest->entry->manifests.size() > 1;
    if (it->at > now && !is_waited_for) {
      ++it;
      continue;
    }
    const ManifestPtr manifest = it->manifest;
    it = retries_.erase(it);
    Store(manifest);
  }
}

void SessionParks::End(const ManifestPtr& manifest, const std::variant<SessionInfo, ApiError>& result) {
  const EntryPtr entry = manifest->entry;
  const auto [begin, end] = running_.equal_range({entry->tenant.name, entry->session.id});
  running_.erase(std::find_if(begin, end, [&](const auto& each) { return each.second == manifest; }));
  Answer(manifest, result);
  if (!manifest->is_queued) return;
  entry->manifests.pop_front();
  if (!entry->manifests.empty()) entry->manifests.front()();
}

void SessionParks::Answer(const ManifestPtr& manifest, const std::variant<SessionInfo, ApiError>& result) {
  if (const Done done = std::exchange(manifest->done, nullptr)) done(result);
}

}  // namespace longshelf::router
