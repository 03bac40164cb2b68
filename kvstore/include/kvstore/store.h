#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/object.h"
#include "kvstore/queries.h"

namespace longshelf::kvstore {

namespace disk {
class DiskTier;
struct DiskStats;
}  // namespace disk

struct Entry;

enum class EvictionPolicy : uint8_t {
  kScanResistant,  // what is used once does not push out what is used again
  kLru,            // for comparison
};

struct StoreOptions {
  // Hard limit of everything the store holds: payload pages, reservations of opened puts, and the index.
  uint64_t capacity_bytes = 0;
  // Part of the capacity that parked objects may claim, 0 .. 1.
  double parked_share = 0.5;
  EvictionPolicy eviction = EvictionPolicy::kScanResistant;
  // Part of the capacity in which new objects wait for a first use, 0 .. 1. To begin with: it follows what comes back,
  // and leaves at least half of this to either kind.
  double small_share = 0.2;
  // Part of the capacity, 0 .. 1, that is divided evenly among the namespaces that hold something: what a namespace
  // has within its part is evicted only when nobody has more than his.
  double floor_share = 0.5;
};

// The objects of one node: immutable, first writer wins, checked against their digest when they are put and again while
// they are read. `now` is wall-clock time; only retention looks at it.
//
// They are in memory; with a disk tier also, or only, on disk. What is parked is written to disk at once, and held in
// memory no longer than until it is durable there; what memory evicts for the second time is written then. Nothing but
// Fetch waits for the disk, and that on threads of its own.
//
// Thread safe. One mutex guards the index and the page list and is held for lookups and list surgery only, for a few
// dozen keys at a time and first come, first served: a small Get does not wait for a long Lookup. Bytes are copied and
// hashed outside it, because pages belong to one reservation until commit, are immutable after it, and are not freed
// while a reader is attached. A mailbox and an owner thread would put every Lookup behind a hop for nothing.
class Store {
  struct Impl;

 public:
  // Memory of one opened put. Destroying it before Commit gives everything back at once.
  // Owned by one thread at a time; must not outlive the store.
  class Reservation {
   public:
    Reservation(Reservation&&) noexcept;
    Reservation& operator=(Reservation&&) noexcept;
    ~Reservation();

    const ObjectHead& head() const;
    // Bytes must arrive in order and without overlap. INVALID_ARGUMENT: another offset than the next one, or more bytes
    // than the head announced; nothing is written then.
    absl::Status Append(uint64_t offset, std::span<const std::byte> bytes);
    // What all bytes must hash to, where the head that opened it could not say yet. Before Commit.
    void Announce(const Digest& digest);

   private:
    friend class Store;
    struct State;
    explicit Reservation(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
  };

  // A found object. Its pages stay while this or a keeper of it lives, whatever is evicted, dropped or quarantined
  // meanwhile. Owned by one thread at a time; must not outlive the store.
  class Reader {
   public:
    Reader(Reader&&) noexcept;
    Reader& operator=(Reader&&) noexcept;
    ~Reader();

    const ObjectHead& head() const;
    uint64_t offset() const;  // bytes read so far
    // Copies the next out.size() bytes and hashes what was copied. With the last byte the digest is compared: on
    // DATA_LOSS the object is quarantined and `out` must not be passed on.
    // REQUIRES: out.size() bytes are left.
    absl::Status Read(std::span<std::byte> out);
    // The same without a copy: adds where the next n_bytes lie, in order. They stay there while a keeper lives.
    using Runs = std::vector<std::span<const std::byte>>;
    absl::Status Lend(size_t n_bytes, Runs& runs);
    // Any thread may let go of it, at any time: also when the store is gone.
    std::shared_ptr<const void> keeper() const;

   private:
    friend class Store;
    struct State;
    explicit Reader(std::unique_ptr<State> state);
    std::shared_ptr<State> state_;
  };

  // The key is present: its writer won. A parked put has extended the object's retention.
  struct Exists {
    Digest digest{};
  };
  struct Committed {};

  // Called once, from any thread, when the disk has answered: OK when the object and its retention would survive a loss
  // of power. RESOURCE_EXHAUSTED, UNAVAILABLE or NOT_FOUND: they would not; what memory promised holds all the same.
  // DATA_LOSS: the bytes changed in memory before they were on disk; the object is gone. FAILED_PRECONDITION: there is
  // no disk. Must not block, nor call the store. May come before the call has returned.
  using Durable = std::function<void(const absl::Status&)>;

  // INVALID_ARGUMENT: a capacity too small for one object, or a share outside 0 .. 1.
  static absl::StatusOr<std::unique_ptr<Store>> Create(const StoreOptions& options);
  static absl::StatusOr<std::unique_ptr<Store>> Create(const StoreOptions& options,
                                                       std::unique_ptr<disk::DiskTier> disk);
  explicit Store(std::unique_ptr<Impl> impl);  // through Create
  ~Store();

  // Reserves memory for an object, evicting what may be evicted.
  // INVALID_ARGUMENT: a head outside the limits of object.h, or one that cannot be linked to present objects.
  // ALREADY_EXISTS: the key is held under another fingerprint.
  // RESOURCE_EXHAUSTED: it can never fit, or it is parked and the parked share is full; never downgraded.
  // UNAVAILABLE: no memory now (readers, reservations and parked objects hold it all, or reservations of cache all that
  // is not for parked objects), or none for an object that nobody has asked for yet. Nothing was evicted then.
  // FAILED_PRECONDITION (NamespaceDeleted): its namespace was retired.
  // `on_durable` is called only for a parked object that is answered with Exists.
  absl::StatusOr<std::variant<Reservation, Exists>> Open(const ObjectHead& head, absl::Time now,
                                                         Durable on_durable = nullptr);

  // Verifies length and digest, then makes the object visible. Whatever the outcome, the reservation is gone.
  // INVALID_ARGUMENT: bytes are missing. DATA_LOSS: they do not match the digest. FAILED_PRECONDITION: as Open.
  // UNAVAILABLE: a parked object whose first writer's other bytes are on their way to the disk.
  // `on_durable` is called for a parked object, unless the commit fails.
  absl::StatusOr<std::variant<Committed, Exists>> Commit(Reservation reservation, absl::Time now,
                                                         Durable on_durable = nullptr);

  // From memory. NOT_FOUND: absent or of another fingerprint; nothing tells these apart.
  absl::StatusOr<Reader> Get(const ObjectKey& key, const Fingerprint& fingerprint);

  // From memory, where `found` is called before Fetch returns, or from disk, where a thread of the store reads the
  // object and calls it then. As Get, and DATA_LOSS (the disk gave other bytes; the object is removed) or
  // RESOURCE_EXHAUSTED (too many reads wait).
  using Found = std::function<void(absl::StatusOr<Reader>)>;
  void Fetch(const ObjectKey& key, const Fingerprint& fingerprint, Found found);

  // INVALID_ARGUMENT: more keys or probes than object.h allows.
  absl::StatusOr<LookupResult> Lookup(const LookupQuery& query);

  // `retain_until` after `now` parks the present objects until then, as far as the parked share goes.
  TouchResult Touch(std::span<const ObjectKey> keys, absl::Time retain_until, absl::Time now);
  // The same, answered when the disk has the retentions: what it refuses is not retained. `done` as Durable above.
  void Touch(std::span<const ObjectKey> keys, absl::Time retain_until, absl::Time now,
             std::function<void(TouchResult)> done);

  // INVALID_ARGUMENT: limit or prefix outside the limits of queries.h.
  absl::StatusOr<ListResult> List(const ListQuery& query);

  // Gone when this returns; `on_durable` says whether it stays so: what it does not say OK of may be there again after
  // a restart, and a namespace's key with it. Always called, without a disk too. As Durable above.
  DropResult Drop(std::span<const ObjectKey> keys, Durable on_durable = nullptr);
  // The same, but what is retained stays, and nobody is told when the disk has written it down.
  DropResult DropCache(std::span<const ObjectKey> keys, absl::Time now);
  DropResult DropNamespace(const std::string& namespace_id, Durable on_durable = nullptr);
  // REQUIRES: drop.before_generation is not 0. What is retired already costs nothing.
  DropResult DropGenerations(const NamespaceDrop& drop, absl::Time now, Durable on_durable = nullptr);

  StoreStats Stats(absl::Time now);
  // Bytes and objects of one namespace in used_bytes and n_objects; the rest as in Stats.
  StoreStats StatsOf(const std::string& namespace_id, absl::Time now);

  // Null without a disk.
  std::unique_ptr<disk::DiskStats> StatsOfDisk();

  // What is retained, some at a time: at most n_max heads from `cursor` on, which moves behind them. Empty: that was
  // all. What comes meanwhile may be missed, nothing else.
  struct RetainedCursor {
    bool on_disk = false;
    absl::Time until = absl::InfinitePast();
    Entry* entry = nullptr;  // in memory: only compared
    ObjectKey key;           // on disk
  };
  std::vector<ObjectHead> Retained(RetainedCursor& cursor, size_t n_max);

  // What an object of this payload size costs against the capacity.
  static uint64_t ChargeOf(uint64_t payload_bytes);

  // For tests of the integrity checks: flips one bit of a stored payload. False when the key is absent.
  bool FlipBitForTest(const ObjectKey& key, uint64_t bit);

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace longshelf::kvstore
