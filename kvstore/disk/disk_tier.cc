#include "disk_tier.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace longshelf::kvstore::disk {
namespace {

constexpr uint64_t kBatchBytes = 8 << 20;
// Records in the queue, beside objects. Removals have room of their own; one of a namespace is never refused.
constexpr size_t kTouchesQueuedMax = 4096;
constexpr size_t kDropsQueuedMax = 4096;

absl::Status BehindError() { return absl::UnavailableError("the disk is behind"); }
absl::Status FailedError() { return absl::UnavailableError("the device failed; it is only read"); }
absl::Status ShareFullError() { return absl::ResourceExhaustedError("the disk's parked share is full"); }

void Answer(const DiskTier::Done& done, const absl::Status& status) {
  if (done) done(status);
}

// Calls `done` once, after all of the parts, with the first failure.
DiskTier::Done Joined(DiskTier::Done done, size_t n_parts) {
  struct Join {
    std::mutex mutex;  // parts may be answered by different threads
    absl::Status first;
    size_t n_left;
  };
  auto join = std::make_shared<Join>();
  join->n_left = n_parts;
  return [join, done = std::move(done)](const absl::Status& status) {
    {
      std::lock_guard lock(join->mutex);
      join->first.Update(status);
      if (--join->n_left > 0) return;
    }
    Answer(done, join->first);
  };
}

}  // namespace

absl::StatusOr<std::unique_ptr<DiskTier>> DiskTier::Open(const DiskOptions& options, FileSystem& file_system,
                                                         const Clock& clock, const NodeId& new_node,
                                                         std::unique_ptr<const SecretKey> master) {
  if (!(options.parked_share >= 0.0 && options.parked_share <= 1.0)) {
    return absl::InvalidArgumentError("the disk's parked share must be in 0 .. 1");
  }
  auto tier = std::make_unique<DiskTier>(options, clock);
  const LogOptions log_options{.directory = options.directory,
                               .quota_bytes = options.quota_bytes,
                               .segment_bytes = options.segment_bytes,
                               .n_data_keys_max = options.n_encrypted_namespaces_max};
  ASSIGN_OR_RETURN(tier->log_,
                   SegmentLog::Open(log_options, file_system, clock, tier->index_, new_node, std::move(master)));
  tier->PublishStats();
  tier->writer_ = std::thread([raw = tier.get()] { raw->Write(); });
  if (options.scrub_bytes_per_s > 0) tier->scrubber_ = std::thread([raw = tier.get()] { raw->Scrub(); });
  return tier;
}

DiskTier::~DiskTier() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (scrubber_.joinable()) scrubber_.join();
  if (writer_.joinable()) writer_.join();
}

AlignedBuffer DiskTier::BufferFor(uint64_t payload_bytes) {
  AlignedBuffer buffer(kSectorBytes + payload_bytes);
  const uint64_t end = kSectorBytes + payload_bytes;
  std::memset(buffer.span().data() + end, 0, buffer.size() - end);
  return buffer;
}

std::span<std::byte> DiskTier::PayloadOf(AlignedBuffer& buffer, uint64_t payload_bytes) {
  return buffer.span().subspan(kSectorBytes, payload_bytes);
}

void DiskTier::OnRoom(std::function<void()> on_room) {
  std::lock_guard lock(mutex_);
  on_room_ = std::move(on_room);
}

bool DiskTier::HasRoom(uint64_t payload_bytes) {
  std::lock_guard lock(mutex_);
  const uint64_t n_bytes = kSectorBytes + PaddedBytes(payload_bytes);
  return queued_.object_bytes == 0 || queued_.object_bytes + n_bytes <= options_.queue_bytes;
}

bool DiskTier::Wants(const ObjectKey& key) {
  if (index_.Find(key).has_value()) {
    index_.Touch(key);
    return false;
  }
  std::lock_guard lock(mutex_);
  return !stats_.fenced && doorkeeper_.Admit(key);
}

void DiskTier::Put(const ObjectHead& head, AlignedBuffer bytes, Done done) {
  if (const absl::Status status = Offer(head, std::move(bytes), done); !status.ok()) Answer(done, status);
}

absl::Status DiskTier::Offer(const ObjectHead& head, AlignedBuffer bytes, Done done) {
  const absl::Time now = clock_.WallNow();
  Request request;
  request.pending.record.head = head;
  request.pending.bytes = std::move(bytes);
  request.durable = head.IsRetained(now);
  const uint64_t n_bytes = request.pending.record.disk_bytes();
  if (n_bytes > SegmentLog::RecordBytesMax(options_.segment_bytes)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("payload_bytes: ", head.payload_bytes, " do not fit into a segment on disk"));
  }
  if (request.durable) {
    request.parked_bytes = n_bytes;
    std::lock_guard lock(mutex_);
    if (index_.RetainedBytes(now) + queued_.parked_bytes + n_bytes > stats_.retained_limit_bytes) {
      return ShareFullError();
    }
  }
  request.done = std::move(done);
  // Here, where many work side by side; the writer is one. What it encrypts is other bytes.
  if (log_->files().keys == nullptr) {
    request.pending.chunk_crcs = ChunkCrcs(PayloadOf(request.pending.bytes, head.payload_bytes));
  }
  if (Enqueue(request)) return absl::OkStatus();
  if (!request.durable) {
    std::lock_guard lock(mutex_);
    ++stats_.n_dropped;
  }
  return BehindError();
}

void DiskTier::Queued::Add(const Request& request) {
  parked_bytes += request.parked_bytes;
  const Record& record = request.pending.record;
  if (record.kind == RecordKind::kObject) {
    object_bytes += record.disk_bytes();
  } else {
    ++(record.kind == RecordKind::kTouch ? n_touches : n_drops);
  }
}

DiskTier::Queued& DiskTier::Queued::operator-=(const Queued& other) {
  object_bytes -= other.object_bytes;
  parked_bytes -= other.parked_bytes;
  n_touches -= other.n_touches;
  n_drops -= other.n_drops;
  return *this;
}

bool DiskTier::Enqueue(Request& request) {
  {
    std::lock_guard lock(mutex_);
    const Record& record = request.pending.record;
    const uint64_t n_bytes = queued_.object_bytes;
    if (record.kind == RecordKind::kObject && n_bytes > 0 && n_bytes + record.disk_bytes() > options_.queue_bytes) {
      return false;
    }
    if (record.kind == RecordKind::kDrop && queued_.n_drops >= kDropsQueuedMax) return false;
    queued_.Add(request);
    queue_.push_back(std::move(request));
  }
  changed_.notify_all();
  return true;
}

DiskTier::Request* DiskTier::TouchAtEnd() {
  if (!queue_.empty() && queue_.back().pending.record.kind == RecordKind::kTouch) {
    Request& last = queue_.back();
    if (std::max(last.waiters.size(), last.pending.record.notes.size()) < kMaxNotes) return &last;
  }
  if (queued_.n_touches >= kTouchesQueuedMax) return nullptr;
  Request request;
  request.durable = true;
  request.pending.record.kind = RecordKind::kTouch;
  queued_.Add(request);
  return &queue_.emplace_back(std::move(request));
}

void DiskTier::EnqueueDrop(std::span<const ObjectKey> keys, Done done) {
  if (keys.empty()) return Answer(done, absl::OkStatus());
  const Done part_done = Joined(std::move(done), (keys.size() + kMaxNotes - 1) / kMaxNotes);
  while (!keys.empty()) {
    const std::span<const ObjectKey> part = keys.first(std::min(keys.size(), kMaxNotes));
    keys = keys.subspan(part.size());
    Request request;
    request.durable = true;
    request.pending.record.kind = RecordKind::kDrop;
    for (const ObjectKey& key : part) request.pending.record.notes.push_back({key});
    request.pending.bytes = BufferFor(0);
    request.done = part_done;
    if (!Enqueue(request)) Fail(request, BehindError());
  }
}

absl::Status DiskTier::Touch(const ObjectKey& key, absl::Time until, Done done) {
  const absl::Time now = clock_.WallNow();
  const std::optional<DiskEntry> entry = index_.Find(key);
  if (!entry.has_value()) return absl::NotFoundError("no such object");
  index_.Touch(key);
  if (until <= now || entry->durable_until >= until) {
    Answer(done, absl::OkStatus());
    return absl::OkStatus();
  }
  {
    std::lock_guard lock(mutex_);
    if (stats_.fenced) return FailedError();
    Request* const request = TouchAtEnd();
    if (request == nullptr) return BehindError();
    const uint64_t limit = stats_.retained_limit_bytes - std::min(stats_.retained_limit_bytes, queued_.parked_bytes);
    const Retention retention = index_.Retain(key, until, now, limit);
    if (retention == Retention::kAbsent) return absl::NotFoundError("no such object");
    if (retention == Retention::kNoRoom) return ShareFullError();
    if (retention == Retention::kNew) request->pending.record.notes.push_back({key, until});
    if (done) request->waiters.push_back({key, until, std::move(done)});
  }
  changed_.notify_all();
  return absl::OkStatus();
}

uint64_t DiskTier::Drop(std::span<const ObjectKey> keys, Done done) {
  const uint64_t n_dropped = index_.BeginDrop(keys);
  // Named whether present or not: a put of them may be queued.
  EnqueueDrop(keys, std::move(done));
  return n_dropped;
}

std::set<ObjectKey> DiskTier::DropCache(std::vector<ObjectKey>& keys) {
  std::set<ObjectKey> gone = index_.BeginDropCache(keys, clock_.WallNow());
  EnqueueDrop(keys, nullptr);
  return gone;
}

uint64_t DiskTier::DropNamespace(const std::string& namespace_id, Done done) {
  const uint64_t n_dropped = index_.BeginDropNamespaces({namespace_id});
  EnqueueDrop(namespace_id, std::move(done));
  return n_dropped;
}

uint64_t DiskTier::DropNamespaces(const IsDropped& is_dropped, Done done) {
  // In the order of an object's way, so that none is missed on it.
  std::set<std::string> candidates;
  {
    std::lock_guard lock(mutex_);
    candidates = writing_;
    for (const Request& request : queue_) {
      if (request.pending.record.kind == RecordKind::kObject) {
        candidates.insert(request.pending.record.head.namespace_id);
      }
    }
  }
  candidates.merge(index_.Namespaces());
  if (log_->files().keys != nullptr) candidates.merge(log_->files().keys->Namespaces());
  std::erase_if(candidates, [&](const std::string& id) { return !is_dropped(id); });
  if (candidates.empty()) {
    Answer(done, absl::OkStatus());
    return 0;
  }
  const uint64_t n_dropped = index_.BeginDropNamespaces(candidates);
  const Done part_done = Joined(std::move(done), candidates.size());
  for (const std::string& id : candidates) EnqueueDrop(id, part_done);
  return n_dropped;
}

void DiskTier::EnqueueDrop(const std::string& namespace_id, Done done) {
  Request request;
  request.durable = true;
  request.pending.record.kind = RecordKind::kDropNamespace;
  request.pending.record.head.namespace_id = namespace_id;
  request.pending.bytes = BufferFor(0);
  request.done = std::move(done);
  (void)Enqueue(request);  // is never refused
}

absl::StatusOr<StoredRecord> DiskTier::Read(const ObjectKey& key, const Fingerprint& fingerprint) {
  // An object may be moved while it is read, each time after whole segments were written.
  for (int attempt = 0; attempt < 3; ++attempt) {
    const std::optional<DiskEntry> entry = index_.Find(key);
    if (!entry.has_value() || entry->head.fingerprint != fingerprint) break;
    absl::StatusOr<StoredRecord> stored = ReadObject(log_->files(), *entry);
    if (stored.ok()) {
      index_.Touch(key);
      stored->header.record.head = entry->head;  // with its retention
      std::lock_guard lock(mutex_);
      ++stats_.n_hits;
      return stored;
    }
    const std::optional<DiskEntry> again = index_.Find(key);
    if (!again.has_value() || again->place != entry->place) continue;
    if (absl::IsNotFound(stored.status())) {
      // Written, and its namespace removed behind it.
      index_.RemoveAt(key, entry->place);
      break;
    }
    Quarantine(*entry);
    return stored.status();
  }
  return absl::NotFoundError("no such object");
}

void DiskTier::Quarantine(const DiskEntry& entry) {
  if (!index_.BeginDropAt(entry.head.key, entry.place)) return;
  const ObjectKey keys[] = {entry.head.key};
  {
    std::lock_guard lock(mutex_);
    ++stats_.n_quarantined;
  }
  EnqueueDrop(keys, nullptr);
}

void DiskTier::Write() {
  while (true) {
    std::vector<Request> batch = TakeBatch(sync_by_);
    const bool idle = batch.empty();
    if (!idle) WriteBatch(std::move(batch));
    if (log_->unsynced_bytes() >= options_.sync_bytes || clock_.Now() >= sync_by_) SyncNow();
    PublishStats();
    std::unique_lock lock(mutex_);
    const std::function<void()> on_room = on_room_;
    lock.unlock();
    if (!idle && on_room) on_room();
    lock.lock();
    if (!stopping_ || !queue_.empty()) continue;
    lock.unlock();
    SyncNow();
    lock.lock();
    if (queue_.empty()) return;  // and who was answered has asked for nothing more
  }
}

std::vector<DiskTier::Request> DiskTier::TakeBatch(absl::Time until) {
  std::unique_lock lock(mutex_);
  const auto ready = [this] { return stopping_ || !queue_.empty(); };
  if (until == absl::InfiniteFuture()) {
    changed_.wait(lock, ready);
  } else {
    changed_.wait_for(lock, absl::ToChronoNanoseconds(std::max(until - clock_.Now(), absl::ZeroDuration())), ready);
  }
  std::vector<Request> batch;
  for (uint64_t n_bytes = 0; !queue_.empty() && n_bytes < kBatchBytes;) {
    const Record& record = queue_.front().pending.record;
    n_bytes += record.disk_bytes();
    if (record.kind == RecordKind::kObject) writing_.insert(record.head.namespace_id);
    batch.push_back(std::move(queue_.front()));
    queue_.pop_front();
  }
  return batch;
}

void DiskTier::WriteBatch(std::vector<Request> batch) {
  Queued taken;
  for (const Request& request : batch) taken.Add(request);
  SkipKnown(batch);
  Prepare(batch);
  std::vector<PendingRecord> records;
  for (Request& request : batch) records.push_back(std::move(request.pending));
  const absl::Status status = log_->Append(records);
  for (size_t i = 0; i < batch.size(); ++i) batch[i].pending = std::move(records[i]);
  {
    std::lock_guard lock(mutex_);
    writing_.clear();
    queued_ -= taken;
    for (const Request& request : batch) {
      if (request.pending.record.kind != RecordKind::kObject) continue;
      stats_.n_put += request.pending.written ? 1 : 0;
      stats_.payload_bytes += request.pending.written ? request.pending.record.payload_bytes() : 0;
      stats_.n_dropped += !request.pending.written && !request.durable ? 1 : 0;
    }
  }
  PublishStats();  // before anybody is told
  for (Request& request : batch) {
    request.pending.bytes = {};  // who waits for the sync needs them no more
    if (!request.pending.written) {
      Fail(request, status);
    } else if (request.durable && log_->fenced()) {
      Fail(request, FailedError());
    } else if (request.durable) {
      unsynced_.push_back(std::move(request));
    } else {
      Answer(request.done, absl::OkStatus());
    }
  }
  // Cache objects wait for nobody: they become durable along with others, or by the bytes.
  if (!unsynced_.empty() && sync_by_ == absl::InfiniteFuture()) sync_by_ = clock_.Now() + options_.sync_interval;
}

bool DiskTier::IsThere(const Request& request, const std::optional<DiskEntry>& known) const {
  const ObjectHead& head = request.pending.record.head;
  return known.has_value() && known->head.fingerprint == head.fingerprint && known->head.digest == head.digest;
}

void DiskTier::MakeTouch(Request& request) {
  PendingRecord& pending = request.pending;
  const ObjectKey key = pending.record.head.key;
  const absl::Time until = pending.record.head.retain_until;
  // Its bytes were counted when it was queued.
  const Retention retention = index_.Retain(key, until, clock_.WallNow(), /*limit_bytes=*/UINT64_MAX);
  if (retention == Retention::kAbsent) return;
  pending = {};
  pending.record.kind = RecordKind::kTouch;
  if (retention == Retention::kNew) pending.record.notes.push_back({key, until});
  request.waiters.push_back({key, until, std::exchange(request.done, nullptr)});
}

void DiskTier::SkipKnown(std::vector<Request>& batch) {
  // By key, what the batch itself is about to retain.
  std::map<ObjectKey, absl::Time> retained;
  std::vector<Request> needed;
  for (Request& request : batch) {
    ObjectHead& head = request.pending.record.head;
    if (request.pending.record.kind == RecordKind::kObject) {
      const std::optional<DiskEntry> known = index_.Find(head.key);
      const bool is_retained = known.has_value() && known->head.object_class == ObjectClass::kParked;
      if (!request.durable && (known.has_value() || retained.contains(head.key))) {
        Answer(request.done, absl::OkStatus());
        continue;
      }
      if (request.durable) {
        if (is_retained) head.retain_until = std::max(head.retain_until, known->head.retain_until);
        absl::Time& until = retained.try_emplace(head.key, head.retain_until).first->second;
        head.retain_until = until = std::max(until, head.retain_until);
        if (IsThere(request, known)) MakeTouch(request);
      }
    }
    // What is put behind its removal is not known any more.
    if (request.pending.record.kind == RecordKind::kDropNamespace) retained.clear();
    if (request.pending.record.kind == RecordKind::kDrop) {
      for (const KeyNote& note : request.pending.record.notes) retained.erase(note.key);
    }
    needed.push_back(std::move(request));
  }
  batch = std::move(needed);
}

void DiskTier::Prepare(std::vector<Request>& batch) {
  log_->RemoveUnusedKeys();
  std::vector<Request> prepared;
  for (Request& request : batch) {
    PendingRecord& pending = request.pending;
    if (pending.record.kind == RecordKind::kTouch && pending.record.notes.empty()) {
      std::erase_if(request.waiters, [this](const Waiter& waiter) {
        if (!CheckDurable(waiter.key, waiter.until).ok()) return false;
        Answer(waiter.done, absl::OkStatus());
        return true;
      });
      if (!request.waiters.empty()) unsynced_.push_back(std::move(request));
      continue;
    }
    if (pending.record.kind == RecordKind::kTouch) pending.bytes = BufferFor(0);
    const absl::Status status = log_->Prepare(pending);
    if (status.ok()) {
      prepared.push_back(std::move(request));
      continue;
    }
    if (pending.record.kind == RecordKind::kObject && !request.durable) {
      std::lock_guard lock(mutex_);
      ++stats_.n_dropped;
    }
    PublishStats();  // before anybody is told
    Fail(request, status);
  }
  batch = std::move(prepared);
}

void DiskTier::Fail(const Request& request, const absl::Status& status) {
  const Record& record = request.pending.record;
  if (record.kind == RecordKind::kTouch) {
    for (const KeyNote& note : record.notes) index_.Unnote(note.key);
  }
  EndDrop(record, index_);
  Answer(request.done, status);
  for (const Waiter& waiter : request.waiters) Answer(waiter.done, status);
}

void DiskTier::SyncNow() {
  const absl::Status status = log_->Sync();
  PublishStats();
  for (const Request& request : std::exchange(unsynced_, {})) {
    const Record& record = request.pending.record;
    const bool is_object = record.kind == RecordKind::kObject;
    const auto outcome = [&](const ObjectKey& key, absl::Time until) {
      return status.ok() ? CheckDurable(key, until) : status;
    };
    Answer(request.done, is_object ? outcome(record.head.key, record.head.retain_until) : status);
    for (const Waiter& waiter : request.waiters) Answer(waiter.done, outcome(waiter.key, waiter.until));
  }
  sync_by_ = absl::InfiniteFuture();
}

absl::Status DiskTier::CheckDurable(const ObjectKey& key, absl::Time until) const {
  const std::optional<DiskEntry> entry = index_.Find(key);
  if (!entry.has_value()) return absl::NotFoundError("gone before it was durable");
  // A record that was to say so could not be written.
  return entry->durable_until >= until ? absl::OkStatus() : BehindError();
}

void DiskTier::PublishStats() {
  std::lock_guard lock(mutex_);
  stats_.log = log_->counters();
  stats_.fenced = log_->fenced();
  stats_.quota_bytes = stats_.log.n_slots * options_.segment_bytes;
  // One segment is always spare.
  const uint64_t usable = stats_.quota_bytes - options_.segment_bytes;
  stats_.retained_limit_bytes = static_cast<uint64_t>(options_.parked_share * static_cast<double>(usable));
}

DiskStats DiskTier::Stats() {
  const uint64_t retained = index_.RetainedBytes(clock_.WallNow());
  const uint64_t live = index_.live_bytes();
  const uint64_t n_objects = index_.n_objects();
  const DataKeys* keys = log_->files().keys.get();
  const uint64_t n_data_keys = keys == nullptr ? 0 : keys->size();
  std::lock_guard lock(mutex_);
  DiskStats stats = stats_;
  stats.retained_bytes = retained + queued_.parked_bytes;
  stats.live_bytes = live;
  stats.n_objects = n_objects;
  stats.n_data_keys = n_data_keys;
  stats.queued_bytes = queued_.object_bytes;
  return stats;
}

void DiskTier::Scrub() {
  const auto pause = [this](std::chrono::nanoseconds wait) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, wait, [this] { return stopping_; });
    return stopping_;
  };
  while (true) {
    uint64_t n_checked = 0;
    for (const uint64_t sequence : index_.Sequences()) {
      for (const DiskEntry& entry : index_.LiveIn(sequence)) {
        ++n_checked;
        const double n_bytes = static_cast<double>(kSectorBytes + entry.head.payload_bytes);
        const double seconds = n_bytes / static_cast<double>(options_.scrub_bytes_per_s);
        if (pause(std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9)))) return;
        const absl::Status status = ReadObject(log_->files(), entry).status();
        if (!status.ok() && !absl::IsNotFound(status)) {
          const std::optional<DiskEntry> again = index_.Find(entry.head.key);
          if (again.has_value() && again->place == entry.place) Quarantine(entry);
        }
        std::lock_guard lock(mutex_);
        ++stats_.n_scrubbed;
      }
    }
    if (n_checked == 0 && pause(std::chrono::seconds(1))) return;
  }
}

}  // namespace longshelf::kvstore::disk
