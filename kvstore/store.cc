#include "kvstore/store.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <span>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status.h"
#include "digest_stream.h"
#include "eviction_queue.h"
#include "fifo_mutex.h"
#include "lookup_walk.h"
#include "object_index.h"
#include "page_arena.h"

namespace longshelf::kvstore {
namespace {

// The index's own memory per object: the entry, its tree and hash nodes, its namespace string. Measured below 900
// bytes.
constexpr uint64_t kObjectOverheadBytes = 1024;
// Of a call that names many keys, those that are handled before others may take their turn.
constexpr size_t kKeysPerTurn = 64;
// Per page: its number in the object's list, and once more in the free list.
constexpr uint64_t kPageOverheadBytes = 2 * sizeof(uint32_t);

uint64_t ShareOf(uint64_t capacity_bytes, double share) {
  return static_cast<uint64_t>(share * static_cast<double>(capacity_bytes));
}

bool IsShare(double share) { return share >= 0.0 && share <= 1.0; }

uint32_t PagesOf(uint64_t payload_bytes) {
  return static_cast<uint32_t>((payload_bytes + kPageBytes - 1) / kPageBytes);
}

absl::Status CheckHead(const ObjectHead& head) {
  if (head.key.kind != ObjectKind::kBlock && head.key.kind != ObjectKind::kCheckpoint &&
      head.key.kind != ObjectKind::kTail) {
    return absl::InvalidArgumentError("key: unknown object kind");
  }
  if (head.payload_bytes == 0 || head.payload_bytes > kMaxPayloadBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("payload_bytes: ", head.payload_bytes, " is not in 1 .. ", kMaxPayloadBytes));
  }
  if (head.depth_tokens == 0 || head.depth_tokens > kMaxDepthTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("depth_tokens: ", head.depth_tokens, " is not in 1 .. ", kMaxDepthTokens));
  }
  if (head.namespace_id.empty() || head.namespace_id.size() > kMaxNamespaceBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("namespace_id: ", head.namespace_id.size(), " bytes, must be 1 .. ", kMaxNamespaceBytes));
  }
  if (head.object_class != ObjectClass::kCache && head.object_class != ObjectClass::kParked) {
    return absl::InvalidArgumentError("object_class: unknown");
  }
  return absl::OkStatus();
}

// Calls visit(span) for the runs of adjacent pages that hold bytes [offset, offset + n) of an object.
template <typename Visit>
void ForEachRun(const PageArena& arena, std::span<const uint32_t> pages, uint64_t offset, uint64_t n, Visit visit) {
  while (n > 0) {
    const size_t first = offset / kPageBytes;
    const size_t skip = offset % kPageBytes;
    size_t last = first + 1;
    while (last < pages.size() && pages[last] == pages[last - 1] + 1 && (last - first) * kPageBytes - skip < n) ++last;
    const uint64_t run = std::min<uint64_t>(n, (last - first) * kPageBytes - skip);
    visit(std::span<std::byte>(arena.page(pages[first]) + skip, run));
    offset += run;
    n -= run;
  }
}

}  // namespace

struct Store::Impl {
  Impl(const StoreOptions& store_options, PageArena pages)
      : options(store_options),
        parked_limit(ShareOf(store_options.capacity_bytes, store_options.parked_share)),
        arena(std::move(pages)),
        index({.policy = store_options.eviction,
               .small_limit_bytes = ShareOf(store_options.capacity_bytes, store_options.small_share),
               .floor_bytes = ShareOf(store_options.capacity_bytes, store_options.floor_share)}) {}

  uint64_t InUse() const { return index.used_bytes() + detached_bytes + reserved_bytes; }
  uint64_t Parked() const { return index.held_bytes() + reserved_parked_bytes; }
  bool ParkedFits(uint64_t charge) const { return Parked() + charge <= parked_limit; }

  // Waits for the long calls before this one, if this is one.
  std::unique_lock<FifoMutex> LongCall(size_t n_keys) {
    return n_keys > kKeysPerTurn ? std::unique_lock(long_calls) : std::unique_lock(long_calls, std::defer_lock);
  }
  // Evicts until the object fits; false (and nothing evicted) when that is not possible.
  bool MakeRoom(uint64_t charge, const ObjectHead& head, bool parked);
  // Takes the entry out of the index; its memory stays while readers are attached.
  void Detach(Entry& entry);
  void DropEntry(Entry& entry, DropResult& result);
  // Parks a present entry if the share allows. True also when there is nothing to promise.
  bool TryHold(Entry& entry, absl::Time until, absl::Time now);
  // Answers a put whose key is present.
  absl::StatusOr<Exists> AnswerExisting(Entry& entry, const ObjectHead& head, absl::Time now);
  void ReleaseReservation(const Reservation::State& state);
  void ReleaseReader(Entry* entry);
  void Quarantine(Entry* entry);
  StoreStats Stats(absl::Time now);

  const StoreOptions options;
  const uint64_t parked_limit;

  // Held, before the other, by a call that takes many turns: of those one at a time, or a short call would wait for a
  // turn of each of them.
  FifoMutex long_calls;
  // Guards everything below, but not the bytes of pages.
  FifoMutex mutex;
  PageArena arena;
  ObjectIndex index;
  std::unordered_map<Entry*, std::unique_ptr<Entry>> detached;  // out of the index, still read
  uint64_t detached_bytes = 0;
  uint64_t reserved_bytes = 0;
  uint64_t reserved_parked_bytes = 0;
  uint64_t n_reservations = 0;
  uint64_t n_hits = 0;
  uint64_t n_misses = 0;
  uint64_t n_evicted = 0;
  uint64_t n_quarantined = 0;
};

struct Store::Reservation::State {
  ~State();

  Impl* store = nullptr;  // null once committed
  ObjectHead head;
  std::vector<uint32_t> pages;
  uint64_t charge_bytes = 0;
  uint64_t parked_bytes = 0;  // what of the charge counts against the parked share
  uint64_t n_written = 0;
};

struct Store::Reader::State {
  ~State() {
    if (store != nullptr) store->ReleaseReader(entry);
  }

  Impl* store = nullptr;
  Entry* entry = nullptr;  // pinned; its pages do not change
  ObjectHead head;         // a copy: retention of a present object may be extended at any time
  uint64_t offset = 0;
  DigestStream digest;
};

bool Store::Impl::MakeRoom(uint64_t charge, const ObjectHead& head, bool parked) {
  if (charge > options.capacity_bytes) return false;
  const uint64_t limit = options.capacity_bytes - charge;
  if (InUse() <= limit) return true;
  if (!index.CanFree(InUse() - limit, head, parked)) return false;
  while (InUse() > limit) {
    const std::unique_ptr<Entry> victim = index.Evict();
    LONGSHELF_CHECK(victim != nullptr);
    arena.Free(victim->pages);
    ++n_evicted;
  }
  return true;
}

void Store::Impl::Detach(Entry& entry) {
  std::unique_ptr<Entry> owned = index.Remove(entry);
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
  if (until <= now) return true;
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
  const std::byte* source = bytes.data();
  ForEachRun(state.store->arena, state.pages, offset, bytes.size(), [&source](std::span<std::byte> run) {
    std::memcpy(run.data(), source, run.size());
    source += run.size();
  });
  state.n_written += bytes.size();
  return absl::OkStatus();
}

Store::Reader::Reader(std::unique_ptr<State> state) : state_(std::move(state)) {}
Store::Reader::Reader(Reader&&) noexcept = default;
Store::Reader& Store::Reader::operator=(Reader&&) noexcept = default;
Store::Reader::~Reader() = default;

const ObjectHead& Store::Reader::head() const { return state_->head; }
uint64_t Store::Reader::offset() const { return state_->offset; }

absl::Status Store::Reader::Read(std::span<std::byte> out) {
  State& state = *state_;
  const ObjectHead& object = state.head;
  LONGSHELF_CHECK(out.size() <= object.payload_bytes - state.offset);
  std::byte* target = out.data();
  ForEachRun(state.store->arena, state.entry->pages, state.offset, out.size(), [&target](std::span<std::byte> run) {
    std::memcpy(target, run.data(), run.size());
    target += run.size();
  });
  // What goes out is hashed, not what lies in memory: nothing can change between the two.
  state.digest.Add(out);
  state.offset += out.size();
  if (state.offset < object.payload_bytes || state.digest.Finish() == object.digest) return absl::OkStatus();
  state.store->Quarantine(state.entry);
  return absl::DataLossError("the stored bytes no longer match their digest");
}

uint64_t Store::ChargeOf(uint64_t payload_bytes) {
  return PagesOf(payload_bytes) * (kPageBytes + kPageOverheadBytes) + kObjectOverheadBytes;
}

absl::StatusOr<std::unique_ptr<Store>> Store::Create(const StoreOptions& options) {
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
  return std::make_unique<Store>(std::make_unique<Impl>(options, std::move(arena)));
}

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::~Store() = default;

absl::StatusOr<std::variant<Store::Reservation, Store::Exists>> Store::Open(const ObjectHead& head, absl::Time now) {
  RETURN_IF_ERROR(CheckHead(head));
  const uint64_t charge = ChargeOf(head.payload_bytes);
  Impl& impl = *impl_;
  std::lock_guard lock(impl.mutex);
  impl.index.ExpireHolds(now);
  if (Entry* present = impl.index.Find(head.key); present != nullptr) {
    ASSIGN_OR_RETURN(const Exists exists, impl.AnswerExisting(*present, head, now));
    return exists;
  }
  RETURN_IF_ERROR(impl.index.CheckLinks(head));
  if (charge > impl.options.capacity_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("payload_bytes: ", head.payload_bytes,
                                                     " can never fit into a store of ", impl.options.capacity_bytes));
  }
  const bool parked = head.object_class == ObjectClass::kParked && head.retain_until > now;
  if (parked && !impl.ParkedFits(charge)) {
    return absl::ResourceExhaustedError("the parked share is full: raise --parked-share or --memory");
  }
  // An object must not push out the parent that makes it useful.
  Entry* parent = impl.index.Find(ObjectKey{head.parent, ObjectKind::kBlock});
  if (parent != nullptr) impl.index.Pin(*parent);
  const bool has_room = impl.MakeRoom(charge, head, parked);
  if (parent != nullptr) impl.index.Unpin(*parent);
  if (!has_room) {
    impl.index.NoteRefused(head.key);
    return absl::UnavailableError("no memory now");
  }
  auto state = std::make_unique<Reservation::State>();
  state->store = &impl;
  state->head = head;
  state->pages = impl.arena.Allocate(PagesOf(head.payload_bytes));
  state->charge_bytes = charge;
  state->parked_bytes = parked ? charge : 0;
  impl.reserved_bytes += charge;
  impl.reserved_parked_bytes += state->parked_bytes;
  ++impl.n_reservations;
  return Reservation(std::move(state));
}

absl::StatusOr<std::variant<Store::Committed, Store::Exists>> Store::Commit(Reservation reservation, absl::Time now) {
  Impl& impl = *impl_;
  Reservation::State& state = *reservation.state_;
  if (state.n_written != state.head.payload_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("commit after ", state.n_written, " of ", state.head.payload_bytes, " bytes"));
  }
  DigestStream digest;
  ForEachRun(impl.arena, state.pages, 0, state.head.payload_bytes,
             [&digest](std::span<const std::byte> run) { digest.Add(run); });
  if (digest.Finish() != state.head.digest) {
    return absl::DataLossError("the received bytes do not match the announced digest");
  }
  std::lock_guard lock(impl.mutex);
  impl.index.ExpireHolds(now);
  Entry* present = impl.index.Find(state.head.key);
  const absl::Status links = present == nullptr ? impl.index.CheckLinks(state.head) : absl::OkStatus();
  if (present != nullptr || !links.ok()) {
    impl.ReleaseReservation(state);
    state.store = nullptr;
    RETURN_IF_ERROR(links);
    ASSIGN_OR_RETURN(const Exists exists, impl.AnswerExisting(*present, state.head, now));
    return exists;
  }
  auto entry = std::make_unique<Entry>();
  entry->head = std::move(state.head);
  entry->pages = std::move(state.pages);
  entry->charge_bytes = state.charge_bytes;
  impl.reserved_bytes -= state.charge_bytes;
  impl.reserved_parked_bytes -= state.parked_bytes;
  --impl.n_reservations;
  state.store = nullptr;
  impl.index.Insert(std::move(entry), now);
  return Committed{};
}

absl::StatusOr<Store::Reader> Store::Get(const ObjectKey& key, const Fingerprint& fingerprint) {
  Impl& impl = *impl_;
  auto state = std::make_unique<Reader::State>();
  std::lock_guard lock(impl.mutex);
  Entry* entry = impl.index.Find(key);
  if (entry == nullptr || entry->head.fingerprint != fingerprint) {
    ++impl.n_misses;
    return absl::NotFoundError("no such object");
  }
  ++impl.n_hits;
  impl.index.Touch(*entry);
  impl.index.Pin(*entry);
  state->store = &impl;
  state->entry = entry;
  state->head = entry->head;
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
  LookupWalk walk(query, impl_->index);
  const auto step = [&] {
    std::lock_guard lock(impl_->mutex);
    return walk.Step();
  };
  while (step()) {
  }
  return walk.TakeResult();
}

TouchResult Store::Touch(std::span<const ObjectKey> keys, absl::Time retain_until, absl::Time now) {
  TouchResult result;
  const auto long_call = impl_->LongCall(keys.size());
  // Callers name parents first; the last one touched is the most recent.
  while (!keys.empty()) {
    const std::span<const ObjectKey> turn = keys.last(std::min(keys.size(), kKeysPerTurn));
    keys = keys.first(keys.size() - turn.size());
    std::lock_guard lock(impl_->mutex);
    impl_->index.ExpireHolds(now);
    for (auto key = turn.rbegin(); key != turn.rend(); ++key) {
      Entry* entry = impl_->index.Find(*key);
      if (entry == nullptr) continue;
      ++result.n_present;
      impl_->index.Touch(*entry);
      if (!impl_->TryHold(*entry, retain_until, now)) ++result.n_refused;
    }
  }
  return result;
}

DropResult Store::Drop(std::span<const ObjectKey> keys) {
  DropResult result;
  const auto long_call = impl_->LongCall(keys.size());
  while (!keys.empty()) {
    const std::span<const ObjectKey> turn = keys.first(std::min(keys.size(), kKeysPerTurn));
    keys = keys.subspan(turn.size());
    std::lock_guard lock(impl_->mutex);
    for (const ObjectKey& key : turn) {
      if (Entry* entry = impl_->index.Find(key); entry != nullptr) impl_->DropEntry(*entry, result);
    }
  }
  return result;
}

DropResult Store::DropNamespace(const std::string& namespace_id) {
  DropResult result;
  Impl& impl = *impl_;
  const std::lock_guard long_call(impl.long_calls);
  const auto drop_some = [&] {
    std::lock_guard lock(impl.mutex);
    for (size_t i = 0; i < kKeysPerTurn; ++i) {
      Entry* entry = impl.index.AnyOfNamespace(namespace_id);
      if (entry == nullptr) return false;
      impl.DropEntry(*entry, result);
    }
    return true;
  };
  while (drop_some()) {
  }
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
