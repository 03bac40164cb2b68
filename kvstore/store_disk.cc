// What the store does with its disk tier.
#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "common/check.h"
#include "common/status.h"
#include "store_impl.h"

namespace longshelf::kvstore {
namespace {

// Copies of objects that are sent from disk, beside --memory.
constexpr uint64_t kDiskReadBytesMax = 256ull << 20;

}  // namespace

bool Store::Impl::DiskRetains(const ObjectKey& key, absl::Time until) const {
  if (disk == nullptr) return false;
  const std::optional<disk::DiskEntry> entry = disk->index().Find(key);
  return entry.has_value() && entry->durable_until >= until;
}

void Store::Impl::FinishDemotion(std::vector<Demotion> demoted) {
  for (const auto& [entry, object] : demoted) {
    std::optional<disk::AlignedBuffer> buffer = CopyForDisk(*entry);
    std::lock_guard lock(mutex);
    if (!buffer.has_value()) ++n_quarantined;
    const auto arrive = [this, it = object](const absl::Status&) {
      std::lock_guard arrived(mutex);
      leaving.erase(it);
    };
    // Under the lock: who drops it marks it first and tells the disk then. So either the disk forgets it, or it never
    // gets there; behind the removal of its namespace it would be there under a new key. What the disk refuses is lost.
    if (object->second.dropped || !buffer.has_value() || !disk->Offer(entry->head, *std::move(buffer), arrive).ok()) {
      leaving.erase(object);
    }
    arena.Free(entry->pages);
    detached_bytes -= entry->charge_bytes;
  }
}

std::optional<Digest> Store::Impl::LeavingInstead(const ObjectHead& head) const {
  const auto [first, end] = leaving.equal_range(head.key);
  const auto other = std::find_if(
      first, end, [&](const auto& object) { return !object.second.dropped && object.second.digest != head.digest; });
  return other == end ? std::nullopt : std::optional(other->second.digest);
}

std::optional<disk::AlignedBuffer> Store::Impl::CopyForDisk(const Entry& entry) const {
  const uint64_t n_bytes = entry.head.payload_bytes;
  disk::AlignedBuffer buffer = disk->BufferFor(n_bytes);
  std::byte* target = disk::DiskTier::PayloadOf(buffer, n_bytes).data();
  DigestStream digest;
  ForEachRun(arena, entry.pages, 0, n_bytes, [&](std::span<const std::byte> run) {
    digest.AddCopied({target, run.size()}, run);
    target += run.size();
  });
  if (digest.Finish() != entry.head.digest) return std::nullopt;
  return buffer;
}

void Store::Impl::Retain(const ObjectKey& key, bool parked, absl::Time until, Durable on_durable) {
  if (!parked) return Answer(on_durable, absl::OkStatus());
  RetainOnDisk(key, until, std::move(on_durable));
}

void Store::Impl::RetainOnDisk(const ObjectKey& key, absl::Time until, Durable on_durable) {
  if (disk == nullptr) return Answer(on_durable, absl::FailedPreconditionError("the store has no disk"));
  // What was asked for before sees to it, and nobody waits.
  if (on_durable == nullptr && DiskRetains(key, until)) return;
  const absl::Status status = TouchOnDisk(key, until, on_durable);
  if (absl::IsNotFound(status)) return CopyToDisk(key, until, std::move(on_durable));
  if (!status.ok()) Answer(on_durable, status);
}

absl::Status Store::Impl::TouchOnDisk(const ObjectKey& key, absl::Time until, Durable on_durable) {
  return disk->Touch(key, until, [this, key, on_durable = std::move(on_durable)](const absl::Status& status) {
    if (status.ok()) ReleaseRetained(key);
    Answer(on_durable, status);
  });
}

void Store::Impl::TouchOnDisk(std::span<const size_t> indices, absl::Time until, TouchWalk& walk) {
  if (disk == nullptr) return;
  for (const size_t i : indices) {
    const Durable on_durable = walk.durable == nullptr ? nullptr : walk.durable->Await(i);
    const absl::Status status = TouchOnDisk(walk.keys[i], until, on_durable);
    walk.result.retained[i] = status.ok();
    walk.result.n_present += absl::IsNotFound(status) ? 0 : 1;
    if (status.ok()) continue;
    walk.result.n_refused += absl::IsNotFound(status) ? 0 : 1;
    Answer(on_durable, status);
  }
}

void Store::Impl::CopyToDisk(const ObjectKey& key, absl::Time until, Durable on_durable) {
  std::unique_lock lock(mutex);
  std::shared_ptr<DiskCopy>& known = copies[key];
  const bool is_new = known == nullptr;
  if (is_new) known = std::make_shared<DiskCopy>(DiskCopy{.key = key, .until = until, .waiters = {}});
  const std::shared_ptr<DiskCopy> copy = known;
  if (!copy->offered) copy->until = std::max(copy->until, until);
  if (on_durable || until > copy->until) copy->waiters.push_back({until, std::move(on_durable)});
  if (!is_new) return;
  backlog.push_back(copy);
  // Behind others the writer comes to it, as soon as there is room.
  if (backlog.size() == 1) OfferNext(lock);
}

void Store::Impl::OfferBacklog() {
  std::unique_lock lock(mutex);
  while (!backlog.empty() && OfferNext(lock)) {
  }
}

bool Store::Impl::OfferNext(std::unique_lock<FifoMutex>& lock) {
  const std::shared_ptr<DiskCopy> copy = backlog.front();
  // Of an object that was dropped: what is there now is another's.
  const auto known = copies.find(copy->key);
  const bool is_dropped = known == copies.end() || known->second != copy;
  const Entry* entry = is_dropped ? nullptr : index.Find(copy->key);
  if (entry != nullptr && !disk->HasRoom(entry->head.payload_bytes)) return false;
  backlog.pop_front();
  std::unique_ptr<Reader::State> pinned = is_dropped ? nullptr : Pinned(copy->key, nullptr);
  lock.unlock();
  absl::Status offered = absl::NotFoundError("gone before it could be written");
  if (pinned != nullptr) {
    std::optional<disk::AlignedBuffer> buffer = CopyForDisk(*pinned->entry);
    if (buffer.has_value()) {
      offered = OfferCopy(copy, *pinned, *std::move(buffer));
    } else {
      Quarantine(pinned->entry);
      offered = absl::DataLossError("the bytes in memory no longer match their digest");
    }
    pinned.reset();
  }
  if (!offered.ok() && !absl::IsUnavailable(offered)) FinishCopy(copy, offered);
  lock.lock();
  return !absl::IsUnavailable(offered);
}

absl::Status Store::Impl::OfferCopy(const std::shared_ptr<DiskCopy>& copy, const Reader::State& pinned,
                                    disk::AlignedBuffer buffer) {
  std::lock_guard lock(mutex);
  ObjectHead head = pinned.head;
  head.object_class = ObjectClass::kParked;
  head.retain_until = copy->until;
  // As in FinishDemotion.
  if (detached.contains(pinned.entry)) return absl::NotFoundError("gone before it could be written");
  absl::Status offered =
      disk->Offer(head, std::move(buffer), [this, copy](const absl::Status& s) { FinishCopy(copy, s); });
  copy->offered = offered.ok();
  // Others took the room meanwhile.
  if (absl::IsUnavailable(offered)) backlog.push_front(copy);
  return offered;
}

void Store::Impl::FinishCopy(const std::shared_ptr<DiskCopy>& copy, const absl::Status& status) {
  std::vector<DiskCopy::Waiter> waiters;
  {
    std::lock_guard lock(mutex);
    if (const auto it = copies.find(copy->key); it != copies.end() && it->second == copy) copies.erase(it);
    waiters = std::exchange(copy->waiters, {});
  }
  if (status.ok()) ReleaseRetained(copy->key);
  for (DiskCopy::Waiter& waiter : waiters) {
    if (status.ok() && waiter.until > copy->until) {
      RetainOnDisk(copy->key, waiter.until, std::move(waiter.on_durable));
    } else {
      Answer(waiter.on_durable, status);
    }
  }
}

// Memory may evict what the disk retains; it is read from there then. What was dropped meanwhile, and put again, is
// another's.
void Store::Impl::ReleaseRetained(const ObjectKey& key) {
  std::lock_guard lock(mutex);
  Entry* entry = index.Find(key);
  if (entry != nullptr && entry->held && DiskRetains(key, entry->head.retain_until)) index.Release(*entry);
}

std::optional<absl::StatusOr<Store::Exists>> Store::Impl::AnswerFromDisk(const ObjectHead& head, absl::Time now,
                                                                         Durable on_durable) {
  const std::optional<disk::DiskEntry> entry = disk->index().Find(head.key);
  if (!entry.has_value()) return std::nullopt;
  if (entry->head.fingerprint != head.fingerprint) {
    return absl::AlreadyExistsError("key: held under another fingerprint");
  }
  disk->index().Touch(head.key);
  if (head.object_class != ObjectClass::kParked || head.retain_until <= now) {
    Answer(on_durable, absl::OkStatus());
    return Exists{entry->head.digest};
  }
  const absl::Status status = TouchOnDisk(head.key, head.retain_until, std::move(on_durable));
  if (absl::IsNotFound(status)) return std::nullopt;
  RETURN_IF_ERROR(status);
  return Exists{entry->head.digest};
}

absl::StatusOr<Store::Reader> Store::Impl::ReadFromDisk(const ObjectKey& key, const Fingerprint& fingerprint,
                                                        uint64_t n_bytes) {
  auto state = std::make_unique<Reader::State>(*this);
  state->disk_read_bytes = n_bytes;
  ASSIGN_OR_RETURN(state->record, disk->Read(key, fingerprint));
  state->head = state->record.header.record.head;
  if (std::unique_ptr<Reader::State> in_memory = Promote(state->record); in_memory != nullptr) {
    return Reader(std::move(in_memory));
  }
  return Reader(std::move(state));
}

std::unique_ptr<Store::Reader::State> Store::Impl::Promote(const disk::StoredRecord& record) {
  // The retention stays the disk's.
  ObjectHead head = record.header.record.head;
  head.object_class = ObjectClass::kCache;
  std::vector<Demotion> demoted;
  absl::StatusOr<std::optional<Reservation>> reservation;
  {
    std::lock_guard lock(mutex);
    if (index.Find(head.key) != nullptr) return Pinned(head.key, &head.fingerprint);
    reservation = Reserve(head, absl::InfinitePast(), &demoted);
  }
  FinishDemotion(std::move(demoted));
  if (!reservation.ok() || !reservation->has_value()) return nullptr;
  if (!(*reservation)->Append(0, record.payload()).ok()) return nullptr;
  // Drop takes from memory after it took from the disk: it misses nothing that is committed here.
  if (!CommitTo(**std::move(reservation), absl::InfinitePast(), nullptr, /*promotes=*/true).ok()) return nullptr;
  std::lock_guard lock(mutex);
  return Pinned(head.key, &head.fingerprint);
}

void Store::Fetch(const ObjectKey& key, const Fingerprint& fingerprint, Found found) {
  Impl& impl = *impl_;
  std::optional<disk::DiskEntry> on_disk;
  uint64_t n_bytes = 0;
  {
    std::unique_lock lock(impl.mutex);
    std::unique_ptr<Reader::State> state = impl.Pinned(key, &fingerprint);
    if (state == nullptr && impl.disk != nullptr) on_disk = impl.disk->index().Find(key);
    const bool readable = on_disk.has_value() && on_disk->head.fingerprint == fingerprint;
    if (state != nullptr) {
      ++impl.n_hits;
      impl.index.Touch(*state->entry);
      lock.unlock();
      return found(Reader(std::move(state)));
    }
    if (!readable) {
      ++impl.n_misses;
      lock.unlock();
      return found(absl::NotFoundError("no such object"));
    }
    n_bytes = disk::PaddedBytes(on_disk->head.payload_bytes);
    if (impl.disk_read_bytes + n_bytes > kDiskReadBytesMax) {
      ++impl.n_misses;
      lock.unlock();
      return found(absl::ResourceExhaustedError("too many objects are read from disk"));
    }
    impl.disk_read_bytes += n_bytes;
  }
  const bool posted = impl.disk_reads->Post([&impl, key, fingerprint, n_bytes, found] {
    // In a statement of its own: what is not sent from the copy gives it back before the answer goes out.
    absl::StatusOr<Reader> reader = impl.ReadFromDisk(key, fingerprint, n_bytes);
    impl.CountRead(reader.ok());
    found(std::move(reader));
  });
  if (posted) return;
  impl.CountRead(/*found=*/false);
  impl.ReleaseDiskRead(n_bytes);
  found(absl::ResourceExhaustedError("too many reads wait for the disk"));
}

void Store::Impl::CountRead(bool found) {
  std::lock_guard lock(mutex);
  ++(found ? n_hits : n_misses);
}

void Store::Impl::ReleaseDiskRead(uint64_t n_bytes) {
  std::lock_guard lock(mutex);
  disk_read_bytes -= n_bytes;
}

std::unique_ptr<disk::DiskStats> Store::StatsOfDisk() {
  return impl_->disk == nullptr ? nullptr : std::make_unique<disk::DiskStats>(impl_->disk->Stats());
}

}  // namespace longshelf::kvstore
