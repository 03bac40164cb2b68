#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <future>
#include <memory>
#include <utility>
#include <vector>

#include "disk_fixture.h"
#include "kvstore/store.h"
#include "memory_file_system.h"

namespace longshelf::kvstore {

inline constexpr uint64_t kRoot = 1u << 30;
inline constexpr size_t kPayload = 20000;

// A store in memory and on a disk that the test has in its hand.
class StoreDiskTest : public ::testing::Test {
 protected:
  void Start(uint64_t n_in_memory = 60, uint64_t n_segments = 20, bool encrypted = false,
             uint64_t queue_bytes = 128 << 20) {
    store_.reset();
    DiskOptions options = disk::SmallDisk(n_segments);
    options.queue_bytes = queue_bytes;
    auto tier = disk::OpenTier(options, files_, clock_, encrypted ? disk::MasterKey(1) : nullptr);
    ASSERT_TRUE(tier.ok()) << tier.status();
    tier_ = tier->get();
    store_ = std::move(*Store::Create({.capacity_bytes = n_in_memory * Store::ChargeOf(kPayload)}, *std::move(tier)));
  }

  Object Block(uint64_t id) {
    return MakeObject(id, id % 100 == 0 ? kRoot : id - 1, static_cast<uint32_t>(256 * (id % 100 + 1)), kPayload);
  }
  Object ParkedBlock(uint64_t id, absl::Duration duration = absl::Hours(1)) {
    return Parked(Block(id), clock_.WallNow() + duration);
  }

  // OK with true when committed.
  absl::StatusOr<bool> Put(const Object& object, Store::Durable on_durable = nullptr) {
    auto opened = store_->Open(object.head, clock_.WallNow(), on_durable);
    if (!opened.ok()) return opened.status();
    if (std::holds_alternative<Store::Exists>(*opened)) return false;
    auto& reservation = std::get<Store::Reservation>(*opened);
    if (auto status = reservation.Append(0, object.payload); !status.ok()) return status;
    auto committed = store_->Commit(std::move(reservation), clock_.WallNow(), on_durable);
    if (!committed.ok()) return committed.status();
    return std::holds_alternative<Store::Committed>(*committed);
  }

  absl::Status PutDurably(const Object& object) {
    disk::Answer answer;
    auto put = Put(object, answer.Done());
    return put.ok() ? answer.Wait() : put.status();
  }

  absl::StatusOr<std::vector<std::byte>> Fetch(const ObjectKey& key) {
    std::promise<absl::StatusOr<Store::Reader>> promise;
    store_->Fetch(key, FingerprintOf(1),
                  [&](absl::StatusOr<Store::Reader> found) { promise.set_value(std::move(found)); });
    absl::StatusOr<Store::Reader> reader = promise.get_future().get();
    if (!reader.ok()) return reader.status();
    std::vector<std::byte> bytes(reader->head().payload_bytes);
    while (reader->offset() < bytes.size()) {
      const size_t n = std::min<size_t>(7000, bytes.size() - reader->offset());
      if (auto status = reader->Read(std::span(bytes).subspan(reader->offset(), n)); !status.ok()) return status;
    }
    return bytes;
  }

  uint32_t Present(uint64_t first, uint64_t n) {
    LookupQuery query{.fingerprint = FingerprintOf(1), .root = Hash(kRoot), .chain = {}, .probes = {}};
    for (uint64_t id = first; id < first + n; ++id) query.chain.push_back(Hash(id));
    return store_->Lookup(query)->n_present;
  }

  bool InMemory(uint64_t id) { return store_->Get(BlockKeyOf(id), FingerprintOf(1)).ok(); }

  disk::MemoryFileSystem files_;
  disk::DatedClock clock_;
  disk::DiskTier* tier_ = nullptr;
  std::unique_ptr<Store> store_;
};

}  // namespace longshelf::kvstore
