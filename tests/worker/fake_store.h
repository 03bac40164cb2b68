#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "kvstore/client.h"

namespace longshelf::worker {

// A KV store in a map, with faults. Keeps the client's promises: digests checked, sizes checked, per-object statuses.
class FakeStore final : public kvstore::Client {
 public:
  struct Stored {
    kvstore::ObjectHead head;
    std::vector<std::byte> payload;
  };

  absl::StatusOr<kvstore::LookupResult> Lookup(const kvstore::LookupQuery& query, absl::Duration) override {
    const std::lock_guard lock(mutex_);
    ++n_lookups;
    if (!down.ok()) return down;
    kvstore::LookupResult out;
    std::vector<kvstore::BlockKey> parents = {query.root};
    for (const kvstore::BlockKey& key : query.chain) {
      if (!objects.contains({key, kvstore::ObjectKind::kBlock})) break;
      ++out.n_present;
      parents.push_back(key);
    }
    for (const auto& [key, stored] : objects) {
      if (key.kind != kvstore::ObjectKind::kCheckpoint || stored.head.fingerprint != query.fingerprint) continue;
      if (std::find(parents.begin(), parents.end(), stored.head.parent) == parents.end()) continue;
      kvstore::CheckpointInfo info{key.hash, stored.head.parent, stored.head.depth_tokens, stored.payload.size()};
      const auto tail = objects.find({key.hash, kvstore::ObjectKind::kTail});
      info.has_tail = tail != objects.end();
      info.tail_bytes = info.has_tail ? tail->second.payload.size() : 0;
      out.checkpoints.push_back(info);
    }
    return out;
  }

  absl::Status Get(const kvstore::Fingerprint& fingerprint, std::span<const kvstore::GetItem> items, absl::Duration,
                   const OnObject& on_object) override {
    const std::lock_guard lock(mutex_);
    ++n_gets;
    if (before_get) before_get();
    for (size_t i = 0; i < items.size(); ++i) {
      const auto found = objects.find(items[i].key);
      if (!down.ok()) {
        on_object(i, down);
      } else if (found == objects.end() || found->second.head.fingerprint != fingerprint) {
        on_object(i, absl::NotFoundError("absent"));
      } else if (found->second.payload.size() != items[i].expected_bytes) {
        on_object(i, absl::FailedPreconditionError("size"));
      } else if (kvstore::DigestOf(found->second.payload) != found->second.head.digest) {
        on_object(i, absl::DataLossError("digest"));
      } else {
        on_object(i, kvstore::FetchedObject{found->second.head, found->second.payload});
      }
    }
    return down;
  }

  std::vector<absl::StatusOr<kvstore::PutOutcome>> PutMany(std::span<const kvstore::PutItem> items,
                                                           absl::Duration) override {
    const std::lock_guard lock(mutex_);
    ++n_puts;
    std::vector<absl::StatusOr<kvstore::PutOutcome>> out;
    for (const kvstore::PutItem& item : items) {
      if (!down.ok()) {
        out.emplace_back(down);
      } else if (const auto refusal = refuse ? refuse(item) : absl::OkStatus(); !refusal.ok()) {
        out.emplace_back(refusal);
      } else if (const auto found = objects.find(item.head.key); found != objects.end()) {
        out.emplace_back(kvstore::PutOutcome{true, found->second.head.digest});
      } else {
        Stored stored{item.head, {item.payload.begin(), item.payload.end()}};
        stored.head.digest = kvstore::DigestOf(item.payload);
        out.emplace_back(kvstore::PutOutcome{false, stored.head.digest});
        objects[item.head.key] = std::move(stored);
      }
    }
    return out;
  }

  absl::StatusOr<kvstore::TouchResult> Touch(std::span<const kvstore::ObjectKey>, absl::Time, absl::Duration) override {
    return absl::UnimplementedError("");
  }
  absl::StatusOr<kvstore::DropResult> Drop(std::span<const kvstore::ObjectKey>, absl::Duration) override {
    return absl::UnimplementedError("");
  }
  absl::StatusOr<kvstore::DropResult> DropNamespace(std::string_view, absl::Duration) override {
    return absl::UnimplementedError("");
  }
  absl::StatusOr<kvstore::StoreStats> Stats(absl::Duration) override { return absl::UnimplementedError(""); }

  std::mutex mutex_;  // the bridge's threads call; tests look only when those are idle
  std::map<kvstore::ObjectKey, Stored> objects;
  absl::Status down;
  std::function<absl::Status(const kvstore::PutItem&)> refuse;
  std::function<void()> before_get;
  int n_lookups = 0;
  int n_gets = 0;
  int n_puts = 0;
};

}  // namespace longshelf::worker
