#include "kvstore/store.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status.h"
#include "eviction_queue.h"
#include "kvstore/namespace_id.h"
#include "lookup_walk.h"
#include "store_impl.h"

namespace longshelf::kvstore {
namespace {

// The index's own memory per object: the entry, its tree and hash nodes, its namespace string. Measured below 900
// bytes.
constexpr uint64_t kObjectOverheadBytes = 1024;
// Per page: its number in the object's list, and once more in the free list.
constexpr uint64_t kPageOverheadBytes = 2 * sizeof(uint32_t);
// Routers say again what is retired, for an hour: then a store that was restarted knows it too.
constexpr absl::Duration kRetiredFor = absl::Hours(24);

bool IsShare(double share) { return share >= 0.0 && share <= 1.0; }

uint32_t PagesOf(uint64_t payload_bytes) {
  return static_cast<uint32_t>((payload_bytes + kPageBytes - 1) / kPageBytes);
}

}  // namespace

bool Store::Impl::MakeRoom(uint64_t charge, const ObjectHead& head, bool parked, std::vector<Demotion>* demoted) {
  if (charge > options.capacity_bytes) return false;
  const uint64_t limit = options.capacity_bytes - charge;
  if (InUse() <= limit) return true;
  if (!index.CanFree(InUse() - limit, head, parked)) return false;
  uint64_t n_demoted_bytes = 0;
  while (InUse() - n_demoted_bytes > limit) {
    std::unique_ptr<Entry> victim = index.Evict();
    LONGSHELF_CHECK(victim != nullptr);
    ++n_evicted;
    if (disk == nullptr || !disk->Wants(victim->head.key)) {
      arena.Free(victim->pages);
      continue;
    }
    detached_bytes += victim->charge_bytes;
    n_demoted_bytes += victim->charge_bytes;
    const ObjectHead& gone = victim->head;
    const auto it = leaving.emplace(gone.key, Leaving{.namespace_id = gone.namespace_id, .digest = gone.digest});
    demoted->push_back({std::move(victim), it});
  }
  return true;
}

void Store::Impl::Detach(Entry& entry) {
  std::unique_ptr<Entry> owned = index.Remove(entry);
  copies.erase(owned->head.key);  // who puts it again waits for a copy of his own
  if (owned->n_pins == 0) {
    arena.Free(owned->pages);
    return;
  }
  detached_bytes += owned->charge_bytes;
  detached.emplace(&entry, std::move(owned));
}

void Store::Impl::DropEntry(Entry& entry, DropResult& result) {
  ++result.n_dropped;
  result.bytes_dropped += entry.charge_bytes;
  Detach(entry);
}

bool Store::Impl::TryHold(Entry& entry, absl::Time until, absl::Time now) {
  if (until <= now || DiskRetains(entry.head.key, until)) return true;
  if (!entry.held && !ParkedFits(entry.charge_bytes)) return false;
  index.Hold(entry, until);
  return true;
}

absl::StatusOr<Store::Exists> Store::Impl::AnswerExisting(Entry& entry, const ObjectHead& head, absl::Time now) {
  if (entry.head.fingerprint != head.fingerprint) {
    return absl::AlreadyExistsError("key: held under another fingerprint");
  }
  index.Touch(entry);
  if (head.object_class == ObjectClass::kParked && !TryHold(entry, head.retain_until, now)) {
    return absl::ResourceExhaustedError("the parked share is full: raise --parked-share or --memory");
  }
  return Exists{entry.head.digest};
}

void Store::Impl::ReleaseReservation(const Reservation::State& state) {
  arena.Free(state.pages);
  reserved_bytes -= state.charge_bytes;
  reserved_parked_bytes -= state.parked_bytes;
  --n_reservations;
}

void Store::Impl::ReleaseReader(Entry* entry) {
  std::lock_guard lock(mutex);
  const auto it = detached.find(entry);
  if (it == detached.end()) {
    index.Unpin(*entry);
    return;
  }
  if (--entry->n_pins > 0) return;
  arena.Free(entry->pages);
  detached_bytes -= entry->charge_bytes;
  detached.erase(it);
}

void Store::Impl::Quarantine(Entry* entry) {
  std::lock_guard lock(mutex);
  if (detached.contains(entry)) return;  // dropped or quarantined by another reader meanwhile
  ++n_quarantined;
  Detach(*entry);
}

Store::Reservation::State::~State() {
  if (store == nullptr) return;
  std::lock_guard lock(store->mutex);
  store->ReleaseReservation(*this);
}

Store::Reservation::Reservation(std::unique_ptr<State> state) : state_(std::move(state)) {}
Store::Reservation::Reservation(Reservation&&) noexcept = default;
Store::Reservation& Store::Reservation::operator=(Reservation&&) noexcept = default;
Store::Reservation::~Reservation() = default;

const ObjectHead& Store::Reservation::head() const { return state_->head; }

absl::Status Store::Reservation::Append(uint64_t offset, std::span<const std::byte> bytes) {
  State& state = *state_;
  if (offset != state.n_written) {
    return absl::InvalidArgumentError(absl::StrCat("offset: ", offset, ", expected ", state.n_written));
  }
  if (bytes.size() > state.head.payload_bytes - state.n_written) {
    return absl::InvalidArgumentError(absl::StrCat("payload: ", bytes.size(), " bytes at offset ", offset,
                                                   " go past the announced ", state.head.payload_bytes));
  }
  state.n_written += bytes.size();
  ForEachRun(state.store->arena, state.pages, offset, bytes.size(), [&](std::span<std::byte> run) {
    while (!run.empty()) {
      // Hashed, and copied while it is in the processor's first cache.
      const auto chunk = bytes.first(std::min(kHashedBytes, run.size()));
      state.digest.Add(chunk);
      CopyToPages(run.first(chunk.size()), chunk);
      bytes = bytes.subspan(chunk.size());
      run = run.subspan(chunk.size());
    }
  });
  EndPageCopies();
  return absl::OkStatus();
}

void Store::Reservation::Announce(const Digest& digest) { state_->head.digest = digest; }

Store::Reader::State::~State() {
  std::lock_guard lock(life->mutex);
  if (life->ended) return;
  entry != nullptr ? store->ReleaseReader(entry) : store->ReleaseDiskRead(disk_read_bytes);
}

Store::Reader::Reader(std::unique_ptr<State> state) : state_(std::move(state)) {}
Store::Reader::Reader(Reader&&) noexcept = default;
Store::Reader& Store::Reader::operator=(Reader&&) noexcept = default;
Store::Reader::~Reader() = default;

const ObjectHead& Store::Reader::head() const { return state_->head; }
uint64_t Store::Reader::offset() const { return state_->offset; }

template <typename Visit>
absl::Status Store::Reader::State::Next(uint64_t n_bytes, Visit visit) {
  LONGSHELF_CHECK(n_bytes <= head.payload_bytes - offset);
  if (entry == nullptr) {
    visit(record.payload().subspan(offset, n_bytes));
  } else {
    ForEachRun(store->arena, entry->pages, offset, n_bytes, visit);
  }
  offset += n_bytes;
  if (offset < head.payload_bytes || digest.Finish() == head.digest) return absl::OkStatus();
  if (entry != nullptr) store->Quarantine(entry);
  return absl::DataLossError("the stored bytes no longer match their digest");
}

absl::Status Store::Reader::Read(std::span<std::byte> out) {
  // What goes out is hashed, not what lies in memory: nothing can change between the two.
  std::byte* target = out.data();
  return state_->Next(out.size(), [&](std::span<const std::byte> run) {
    state_->digest.AddCopied({target, run.size()}, run);
    target += run.size();
  });
}

absl::Status Store::Reader::Lend(size_t n_bytes, Runs& runs) {
  return state_->Next(n_bytes, [&](std::span<const std::byte> run) {
    state_->digest.Add(run);
    runs.push_back(run);
  });
}

std::shared_ptr<const void> Store::Reader::keeper() const { return state_; }

uint64_t Store::ChargeOf(uint64_t payload_bytes) {
  return PagesOf(payload_bytes) * (kPageBytes + kPageOverheadBytes) + kObjectOverheadBytes;
}

absl::StatusOr<std::unique_ptr<Store>> Store::Create(const StoreOptions& options) { return Create(options, nullptr); }

absl::StatusOr<std::unique_ptr<Store>> Store::Create(const StoreOptions& options,
                                                     std::unique_ptr<disk::DiskTier> disk) {
  if (!IsShare(options.parked_share) || !IsShare(options.small_share) || !IsShare(options.floor_share)) {
    return absl::InvalidArgumentError("parked share, small share, floor share: must be in 0 .. 1");
  }
  constexpr uint64_t kMinCapacity = 1 << 20;
  const uint64_t n_pages = options.capacity_bytes / (kPageBytes + kPageOverheadBytes);
  if (options.capacity_bytes < kMinCapacity || n_pages > UINT32_MAX) {
    return absl::InvalidArgumentError(absl::StrCat("memory: ", options.capacity_bytes, " bytes is not in ",
                                                   kMinCapacity, " .. ", uint64_t{UINT32_MAX} * kPageBytes));
  }
  ASSIGN_OR_RETURN(PageArena arena, PageArena::Create(static_cast<uint32_t>(n_pages)));
  return std::make_unique<Store>(std::make_unique<Impl>(options, std::move(arena), std::move(disk)));
}

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Store::~Store() {
  std::lock_guard lock(impl_->life->mutex);
  impl_->life->ended = true;
}

absl::StatusOr<std::variant<Store::Reservation, Store::Exists>> Store::Open(const ObjectHead& head, absl::Time now,
                                                                            Durable on_durable) {
  RETURN_IF_ERROR(CheckHead(head));
  Impl& impl = *impl_;
  const bool parked = head.IsRetained(now);
  while (true) {
    std::vector<Demotion> demoted;
    std::unique_lock lock(impl.mutex);
    if (impl.retired.Covers(head.namespace_id, now)) return NamespaceDeleted();
    impl.index.ExpireHolds(now);
    Entry* present = impl.index.Find(head.key);
    if (present != nullptr && !(parked && impl.IsDisksToRetain(*present, now))) {
      ASSIGN_OR_RETURN(const Exists exists, impl.AnswerExisting(*present, head, now));
      lock.unlock();
      impl.Retain(head.key, parked, head.retain_until, std::move(on_durable));
      return exists;
    }
    if (impl.disk != nullptr && impl.disk->index().Find(head.key).has_value()) {
      lock.unlock();
      std::optional<absl::StatusOr<Exists>> exists = impl.AnswerFromDisk(head, now, on_durable);
      if (!exists.has_value()) continue;  // evicted meanwhile
      RETURN_IF_ERROR(exists->status());
      return **exists;
    }
    ASSIGN_OR_RETURN(std::optional<Reservation> reservation, impl.Reserve(head, now, &demoted));
    if (reservation.has_value()) return *std::move(reservation);
    lock.unlock();
    impl.FinishDemotion(std::move(demoted));
  }
}

absl::StatusOr<std::optional<Store::Reservation>> Store::Impl::Reserve(const ObjectHead& head, absl::Time now,
                                                                       std::vector<Demotion>* demoted) {
  RETURN_IF_ERROR(index.CheckLinks(head));
  const uint64_t charge = ChargeOf(head.payload_bytes);
  if (charge > options.capacity_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("payload_bytes: ", head.payload_bytes, " can never fit into a store of ", options.capacity_bytes));
  }
  const bool parked = head.IsRetained(now);
  if (parked && !ParkedFits(charge)) {
    return absl::ResourceExhaustedError("the parked share is full: raise --parked-share or --memory");
  }
  if (!parked && !CacheFits(charge)) return absl::UnavailableError("no memory now: too much cache is under way");
  // An object must not push out the parent that makes it useful, unless that is on disk too.
  const ObjectKey parent_key{head.parent, ObjectKind::kBlock};
  Entry* parent = index.Find(parent_key);
  if (parent != nullptr && disk != nullptr && disk->index().Has(parent_key, parent->head.fingerprint)) parent = nullptr;
  if (parent != nullptr) index.Pin(*parent);
  const bool has_room = MakeRoom(charge, head, parked, demoted);
  if (parent != nullptr) index.Unpin(*parent);
  if (!has_room) {
    index.NoteRefused(head.key);
    return absl::UnavailableError("no memory now");
  }
  if (!demoted->empty()) return std::nullopt;
  auto state = std::make_unique<Reservation::State>();
  state->store = this;
  state->head = head;
  state->pages = arena.Allocate(PagesOf(head.payload_bytes));
  state->charge_bytes = charge;
  state->parked_bytes = parked ? charge : 0;
  reserved_bytes += charge;
  reserved_parked_bytes += state->parked_bytes;
  ++n_reservations;
  return Reservation(std::move(state));
}

absl::StatusOr<std::variant<Store::Committed, Store::Exists>> Store::Commit(Reservation reservation, absl::Time now,
                                                                            Durable on_durable) {
  return impl_->CommitTo(std::move(reservation), now, std::move(on_durable), /*promotes=*/false);
}

absl::StatusOr<std::variant<Store::Committed, Store::Exists>> Store::Impl::CommitTo(Reservation reservation,
                                                                                    absl::Time now, Durable on_durable,
                                                                                    bool promotes) {
  Reservation::State& state = *reservation.state_;
  if (state.n_written != state.head.payload_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("commit after ", state.n_written, " of ", state.head.payload_bytes, " bytes"));
  }
  if (state.digest.Finish() != state.head.digest) {
    return absl::DataLossError("the received bytes do not match the announced digest");
  }
  const ObjectKey key = state.head.key;
  const absl::Time until = state.head.retain_until;
  const bool parked = state.head.IsRetained(now);
  std::unique_lock lock(mutex);
  index.ExpireHolds(now);
  Entry* present = index.Find(key);
  const auto is_retired = [&] { return retired.Covers(state.head.namespace_id, now); };
  while (present == nullptr && disk != nullptr && !is_retired() &&
         disk->index().Has(key, state.head.fingerprint) != promotes) {
    // Dropped while it was read; or the disk got it while it was sent: then the first writer's is there.
    if (promotes) return absl::NotFoundError("no such object");
    lock.unlock();
    const std::optional<absl::StatusOr<Exists>> exists = AnswerFromDisk(state.head, now, on_durable);
    if (exists.has_value()) {
      RETURN_IF_ERROR(exists->status());
      return **exists;
    }
    lock.lock();  // evicted there meanwhile
    present = index.Find(key);
  }
  const std::optional<Digest> first = present == nullptr ? LeavingInstead(state.head) : std::nullopt;
  if (first.has_value()) {
    if (parked) return absl::UnavailableError("another writer's bytes are on their way to the disk");
    return Exists{*first};
  }
  absl::Status links = present == nullptr ? index.CheckLinks(state.head) : absl::OkStatus();
  if (is_retired()) links = NamespaceDeleted();
  if (present != nullptr || !links.ok()) {
    ReleaseReservation(state);
    state.store = nullptr;
    RETURN_IF_ERROR(links);
    ASSIGN_OR_RETURN(const Exists exists, AnswerExisting(*present, state.head, now));
    lock.unlock();
    Retain(key, parked, until, std::move(on_durable));
    return exists;
  }
  auto entry = std::make_unique<Entry>();
  entry->head = std::move(state.head);
  entry->pages = std::move(state.pages);
  entry->charge_bytes = state.charge_bytes;
  reserved_bytes -= state.charge_bytes;
  reserved_parked_bytes -= state.parked_bytes;
  --n_reservations;
  state.store = nullptr;
  index.Insert(std::move(entry), now);
  lock.unlock();
  Retain(key, parked, until, std::move(on_durable));
  return Committed{};
}

std::unique_ptr<Store::Reader::State> Store::Impl::Pinned(const ObjectKey& key, const Fingerprint* fingerprint) {
  Entry* entry = index.Find(key);
  if (entry == nullptr || (fingerprint != nullptr && entry->head.fingerprint != *fingerprint)) return nullptr;
  auto state = std::make_unique<Reader::State>(*this);
  index.Pin(*entry);
  state->entry = entry;
  state->head = entry->head;
  return state;
}

absl::StatusOr<Store::Reader> Store::Get(const ObjectKey& key, const Fingerprint& fingerprint) {
  Impl& impl = *impl_;
  std::lock_guard lock(impl.mutex);
  std::unique_ptr<Reader::State> state = impl.Pinned(key, &fingerprint);
  if (state == nullptr) {
    ++impl.n_misses;
    return absl::NotFoundError("no such object");
  }
  ++impl.n_hits;
  impl.index.Touch(*state->entry);
  return Reader(std::move(state));
}

absl::StatusOr<LookupResult> Store::Lookup(const LookupQuery& query) {
  if (query.chain.size() > kMaxChainKeys) {
    return absl::InvalidArgumentError(absl::StrCat("chain: ", query.chain.size(), " keys, at most ", kMaxChainKeys));
  }
  if (query.probes.size() > kMaxProbes) {
    return absl::InvalidArgumentError(absl::StrCat("probes: ", query.probes.size(), " hashes, at most ", kMaxProbes));
  }
  const auto long_call = impl_->LongCall(query.chain.size() + query.probes.size());
  LookupWalk walk(query, impl_->index, impl_->disk == nullptr ? nullptr : &impl_->disk->index());
  const auto step = [&] {
    std::lock_guard lock(impl_->mutex);
    return walk.Step();
  };
  while (step()) {
  }
  return walk.TakeResult();
}

void Store::Impl::TouchTurn(size_t first, size_t end, absl::Time retain_until, absl::Time now, TouchWalk& walk) {
  std::vector<size_t> retained;
  std::vector<size_t> disks;
  {
    std::lock_guard lock(mutex);
    index.ExpireHolds(now);
    for (size_t i = end; i > first; --i) {
      Entry* entry = index.Find(walk.keys[i - 1]);
      if (entry != nullptr) index.Touch(*entry);
      if (entry == nullptr || (retain_until > now && IsDisksToRetain(*entry, now))) {
        disks.push_back(i - 1);
        continue;
      }
      ++walk.result.n_present;
      const bool held = TryHold(*entry, retain_until, now);
      walk.result.retained[i - 1] = held;
      if (!held) ++walk.result.n_refused;
      if (held && retain_until > now) retained.push_back(i - 1);
    }
  }
  for (const size_t i : retained) {
    RetainOnDisk(walk.keys[i], retain_until, walk.durable == nullptr ? nullptr : walk.durable->Await(i));
  }
  TouchOnDisk(disks, retain_until, walk);
}

void Store::Impl::TouchAll(absl::Time retain_until, absl::Time now, TouchWalk& walk) {
  const auto long_call = LongCall(walk.keys.size());
  // Callers name parents first; the last one touched is the most recent.
  for (size_t end = walk.keys.size(); end > 0;) {
    const size_t first = end - std::min(end, kKeysPerTurn);
    TouchTurn(first, end, retain_until, now, walk);
    end = first;
  }
}

TouchResult Store::Touch(std::span<const ObjectKey> keys, absl::Time retain_until, absl::Time now) {
  TouchWalk walk(keys);
  impl_->TouchAll(retain_until, now, walk);
  return std::move(walk.result);
}

void Store::Touch(std::span<const ObjectKey> keys, absl::Time retain_until, absl::Time now,
                  std::function<void(TouchResult)> done) {
  TouchWalk walk(keys);
  walk.durable = std::make_shared<DurableTouch>(std::move(done));
  impl_->TouchAll(retain_until, now, walk);
  walk.durable->End(std::move(walk.result));
}

Store::Durable DurableTouch::Await(size_t index) {
  std::lock_guard lock(mutex_);
  ++n_awaited_;
  // The disk keeps its answers, and thereby this.
  return [self = shared_from_this(), index](const absl::Status& status) {
    if (!status.ok()) {
      std::lock_guard refused_lock(self->mutex_);
      self->refused_.push_back(index);
    }
    self->AnswerOne();
  };
}

void DurableTouch::End(TouchResult result) {
  {
    std::lock_guard lock(mutex_);
    result_ = std::move(result);
  }
  AnswerOne();
}

void DurableTouch::AnswerOne() {
  TouchResult result;
  {
    std::lock_guard lock(mutex_);
    if (--n_awaited_ > 0) return;
    result = std::move(result_);
    for (const size_t index : refused_) {
      if (!result.retained[index]) continue;
      result.retained[index] = false;
      ++result.n_refused;
    }
  }
  done_(std::move(result));
}

absl::StatusOr<ListResult> Store::List(const ListQuery& query) {
  if (query.limit == 0 || query.limit > kMaxListed) {
    return absl::InvalidArgumentError(absl::StrCat("limit: ", query.limit, " is not in 1 .. ", kMaxListed));
  }
  if (query.hash_prefix.size() > query.after.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("hash_prefix: ", query.hash_prefix.size(), " bytes, at most ", query.after.size()));
  }
  // One more than is wanted tells whether there are more. What has just moved to the disk is in one of the two.
  ListQuery asked = query;
  ++asked.limit;
  std::vector<ObjectHead> heads;
  {
    std::lock_guard lock(impl_->mutex);
    heads = impl_->index.Manifests(asked);
  }
  if (impl_->disk != nullptr) {
    const std::vector<ObjectHead> on_disk = impl_->disk->index().Manifests(asked);
    heads.insert(heads.end(), on_disk.begin(), on_disk.end());
    const auto by_hash = [](const ObjectHead& a, const ObjectHead& b) { return a.key.hash < b.key.hash; };
    const auto same = [](const ObjectHead& a, const ObjectHead& b) { return a.key.hash == b.key.hash; };
    std::stable_sort(heads.begin(), heads.end(), by_hash);
    heads.erase(std::unique(heads.begin(), heads.end(), same), heads.end());
  }
  ListResult result;
  result.more = heads.size() > query.limit;
  if (result.more) heads.resize(query.limit);
  result.heads = std::move(heads);
  return result;
}

std::vector<ObjectHead> Store::Retained(RetainedCursor& cursor, size_t n_max) {
  std::vector<ObjectHead> heads;
  if (!cursor.on_disk) {
    std::lock_guard lock(impl_->mutex);
    heads = impl_->index.Held(cursor.until, cursor.entry, n_max);
    if (!heads.empty()) return heads;
    cursor = {};
    cursor.on_disk = true;
  }
  if (impl_->disk != nullptr) heads = impl_->disk->index().Retained(cursor.until, cursor.key, n_max);
  return heads;
}

uint64_t Store::Impl::DropFromMemory(std::span<const ObjectKey> keys, DropResult& result) {
  uint64_t n_also_on_disk = 0;
  while (!keys.empty()) {
    const std::span<const ObjectKey> turn = keys.first(std::min(keys.size(), kKeysPerTurn));
    keys = keys.subspan(turn.size());
    std::lock_guard lock(mutex);
    n_also_on_disk += DropTurn(turn, result);
  }
  return n_also_on_disk;
}

uint64_t Store::Impl::DropTurn(std::span<const ObjectKey> keys, DropResult& result) {
  uint64_t n_also_on_disk = 0;
  for (const ObjectKey& key : keys) {
    const auto [first, end] = leaving.equal_range(key);
    for (auto it = first; it != end; ++it) it->second.dropped = true;
    Entry* entry = index.Find(key);
    if (entry == nullptr) continue;
    if (disk != nullptr && disk->index().Has(key, entry->head.fingerprint)) ++n_also_on_disk;
    DropEntry(*entry, result);
  }
  return n_also_on_disk;
}

void Store::Impl::DropNamespaceFromMemory(const std::string& namespace_id, DropResult& result) {
  const auto drop_some = [&] {
    std::lock_guard lock(mutex);
    for (size_t i = 0; i < kKeysPerTurn; ++i) {
      Entry* entry = index.AnyOfNamespace(namespace_id);
      if (entry == nullptr) {
        // Once: what left before is marked here, and nothing more of it can leave.
        DropLeaving([&](const Leaving& object) { return object.namespace_id == namespace_id; });
        return false;
      }
      DropEntry(*entry, result);
    }
    return true;
  };
  while (drop_some()) {
  }
}

DropResult Store::Drop(std::span<const ObjectKey> keys, Durable on_durable) {
  DropResult result;
  Impl& impl = *impl_;
  const auto long_call = impl.LongCall(keys.size());
  const uint64_t n_of_both = impl.DropFromMemory(keys, result);
  if (impl.disk == nullptr) {
    Answer(on_durable, absl::OkStatus());
    return result;
  }
  result.n_dropped += impl.disk->Drop(keys, std::move(on_durable)) - n_of_both;
  // What came from the disk into memory meanwhile.
  (void)impl.DropFromMemory(keys, result);
  return result;
}

DropResult Store::DropCache(std::span<const ObjectKey> keys, absl::Time now) {
  DropResult result;
  Impl& impl = *impl_;
  const auto long_call = impl.LongCall(keys.size());
  while (!keys.empty()) {
    const std::span<const ObjectKey> turn = keys.first(std::min(keys.size(), kKeysPerTurn));
    keys = keys.subspan(turn.size());
    std::lock_guard lock(impl.mutex);
    impl.index.ExpireHolds(now);
    std::vector<ObjectKey> cache;
    std::copy_if(turn.begin(), turn.end(), std::back_inserter(cache), [&impl](const ObjectKey& key) {
      const Entry* entry = impl.index.Find(key);
      return entry == nullptr || !entry->held;
    });
    // First from the disk, which knows what it has promised. Under the lock too: nothing comes from there meanwhile.
    if (impl.disk != nullptr) {
      const std::set<ObjectKey> gone = impl.disk->DropCache(cache);
      result.n_dropped += static_cast<uint64_t>(std::count_if(
          gone.begin(), gone.end(), [&](const ObjectKey& key) { return impl.index.Find(key) == nullptr; }));
    }
    (void)impl.DropTurn(cache, result);
  }
  return result;
}

DropResult Store::DropNamespace(const std::string& namespace_id, Durable on_durable) {
  DropResult result;
  Impl& impl = *impl_;
  const std::lock_guard long_call(impl.long_calls);
  impl.DropNamespaceFromMemory(namespace_id, result);
  if (impl.disk == nullptr) {
    Answer(on_durable, absl::OkStatus());
    return result;
  }
  // Objects in both tiers count in both.
  result.n_dropped += impl.disk->DropNamespace(namespace_id, std::move(on_durable));
  impl.DropNamespaceFromMemory(namespace_id, result);
  return result;
}

void Store::Impl::DropGenerationsFromMemory(const NamespaceDrop& drop, DropResult& result) {
  std::vector<std::string> ids;
  {
    std::lock_guard lock(mutex);
    DropLeaving([&](const Leaving& object) { return IsBefore(object.namespace_id, drop.id, drop.before_generation); });
    ids = index.NamespacesBefore(drop.id, drop.before_generation);
  }
  for (const std::string& id : ids) DropNamespaceFromMemory(id, result);
}

DropResult Store::DropGenerations(const NamespaceDrop& drop, absl::Time now, Durable on_durable) {
  DropResult result;
  Impl& impl = *impl_;
  const std::lock_guard long_call(impl.long_calls);
  bool is_gone = false;
  if (drop.retire) {
    std::lock_guard lock(impl.mutex);
    is_gone = impl.retired.Add(drop.id, drop.before_generation, now, now + kRetiredFor);
  }
  if (is_gone) {
    Answer(on_durable, absl::OkStatus());
    return result;
  }
  const auto finish = [&impl, drop, on_durable = std::move(on_durable)](const absl::Status& status) {
    if (drop.retire && status.ok()) {
      std::lock_guard lock(impl.mutex);
      impl.retired.SetGone(drop.id, drop.before_generation);
    }
    Answer(on_durable, status);
  };
  impl.DropGenerationsFromMemory(drop, result);
  if (impl.disk == nullptr) {
    finish(absl::OkStatus());
    return result;
  }
  const auto is_dropped = [drop](const std::string& id) { return IsBefore(id, drop.id, drop.before_generation); };
  result.n_dropped += impl.disk->DropNamespaces(is_dropped, finish);
  impl.DropGenerationsFromMemory(drop, result);
  return result;
}

StoreStats Store::Impl::Stats(absl::Time now) {
  index.ExpireHolds(now);
  StoreStats stats;
  stats.capacity_bytes = options.capacity_bytes;
  stats.used_bytes = index.used_bytes() + detached_bytes;
  stats.reserved_bytes = reserved_bytes;
  stats.parked_bytes = Parked();
  stats.parked_limit_bytes = parked_limit;
  stats.n_objects = index.n_objects();
  stats.n_reservations = n_reservations;
  stats.n_hits = n_hits;
  stats.n_misses = n_misses;
  stats.n_evicted = n_evicted;
  stats.n_quarantined = n_quarantined;
  return stats;
}

StoreStats Store::Stats(absl::Time now) {
  std::lock_guard lock(impl_->mutex);
  return impl_->Stats(now);
}

StoreStats Store::StatsOf(const std::string& namespace_id, absl::Time now) {
  std::lock_guard lock(impl_->mutex);
  StoreStats stats = impl_->Stats(now);
  stats.used_bytes = impl_->index.NamespaceBytes(namespace_id);
  stats.n_objects = impl_->index.NamespaceObjects(namespace_id);
  return stats;
}

bool Store::FlipBitForTest(const ObjectKey& key, uint64_t bit) {
  std::lock_guard lock(impl_->mutex);
  const Entry* entry = impl_->index.Find(key);
  if (entry == nullptr || bit / 8 >= entry->head.payload_bytes) return false;
  std::byte* page = impl_->arena.page(entry->pages[bit / 8 / kPageBytes]);
  page[bit / 8 % kPageBytes] ^= std::byte{1} << (bit % 8);
  return true;
}

}  // namespace longshelf::kvstore
