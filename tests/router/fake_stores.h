#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "kvstore/client.h"

namespace longshelf::router::testing {

// Stores of manifests that answer when the test says so, as its clock goes.
class FakeStores final : public kvstore::Client {
 public:
  explicit FakeStores(const Clock& clock) : clock_(clock) {}

  void List(kvstore::ListQuery query, absl::Duration timeout, Done<kvstore::ListResult> done) override {
    ++n_lists;
    Answer(timeout, [this, query, done](const absl::Status& status) {
      if (!status.ok()) return done(status);
      kvstore::ListResult result;
      result.n_nodes_missed = n_nodes_missed;
      auto it = query.after == kvstore::BlockKey{} ? records.begin() : records.upper_bound(query.after);
      for (; it != records.end() && result.heads.size() < query.limit; ++it) {
        if (IsListed(query, it->second.first)) result.heads.push_back(it->second.first);
      }
      result.more = it != records.end();
      done(std::move(result));
    });
  }
  std::shared_ptr<GetCall> Get(GetRequest request, GetEvents events) override {
    Answer(request.timeout, [this, request, events](const absl::Status& status) {
      for (size_t i = 0; i < request.items.size(); ++i) events.on_object(i, Object(request.items[i], status));
      events.on_done(status);
    });
    return nullptr;
  }
  std::shared_ptr<PutCall> Put(absl::Duration timeout, PutEvents events) override {
    return std::make_shared<OnePut>(*this, timeout, std::move(events));
  }
  void DropCache(std::vector<kvstore::PlacedKey>, absl::Duration timeout, Done<kvstore::DropResult> done) override {
    Answer(timeout, [done](const absl::Status& status) {
      if (!status.ok()) return done(status);
      done(kvstore::DropResult{});  // all records are parked
    });
  }
  void Drop(std::vector<kvstore::PlacedKey> keys, absl::Duration timeout, Done<kvstore::DropResult> done) override {
    Answer(timeout, [this, keys, done](const absl::Status& status) {
      for (const kvstore::PlacedKey& key : keys) records.erase(key.key.hash);
      if (!status.ok()) return done(status);
      done(kvstore::DropResult{.n_dropped = keys.size(), .n_nodes_missed = n_nodes_missed});
    });
  }
  void DropNamespace(kvstore::NamespaceDrop drop, absl::Duration timeout, Done<kvstore::DropResult> done) override {
    Answer(timeout, [this, drop, done](const absl::Status& status) {
      if (!status.ok()) return done(status);
      drops.push_back(drop);
      is_full = stays_full;
      done(kvstore::DropResult());
    });
  }
  void Lookup(const kvstore::LookupQuery&, absl::Duration, Done<kvstore::LookupResult> done) override {
    done(absl::UnimplementedError(""));
  }
  void Touch(kvstore::TouchQuery, absl::Duration, Done<kvstore::TouchResult> done) override {
    done(absl::UnimplementedError(""));
  }
  void Stats(absl::Duration, Done<kvstore::StoreStats> done) override { done(absl::UnimplementedError("")); }

  // True when anything was answered.
  bool Run() {
    if (pending_.empty() || pending_.begin()->first > clock_.Now()) return false;
    const auto answer = std::move(pending_.begin()->second);
    pending_.erase(pending_.begin());
    answer();
    return true;
  }

  std::map<kvstore::BlockKey, std::pair<kvstore::ObjectHead, std::string>> records;
  std::vector<kvstore::NamespaceDrop> drops;
  absl::Duration latency = absl::ZeroDuration();
  absl::Status down;
  absl::Status unreadable;  // what a Get says of each object
  bool is_full = false;     // until something is dropped
  bool stays_full = false;
  uint32_t n_nodes_missed = 0;
  int n_lists = 0;
  bool keeps_what_is_over = false;                          // as cache
  std::function<void(const kvstore::PutItem&)> before_put;  // what others do before the stores have it

 private:
  class OnePut final : public PutCall {
   public:
    OnePut(FakeStores& stores, absl::Duration timeout, PutEvents events)
        : stores_(stores), timeout_(timeout), events_(std::move(events)) {}
    void Offer(kvstore::PutItem item) override {
      stores_.Answer(timeout_, [&stores = stores_, events = events_, item](const absl::Status& status) {
        if (stores.before_put != nullptr) std::exchange(stores.before_put, nullptr)(item);
        absl::Status outcome = status;
        if (outcome.ok() && stores.is_full) outcome = absl::ResourceExhaustedError("full");
        if (outcome.ok()) stores.Add(item);
        if (outcome.ok()) {
          events.on_outcome(0, kvstore::PutOutcome());
        } else {
          events.on_outcome(0, outcome);
        }
        events.on_done(status);
      });
    }
    void Finish() override {}
    void Cancel() override {}

   private:
    FakeStores& stores_;
    const absl::Duration timeout_;
    const PutEvents events_;
  };

  bool IsListed(const kvstore::ListQuery& query, const kvstore::ObjectHead& head) const {
    const bool is_over =
        !keeps_what_is_over && head.retain_until > absl::UnixEpoch() && head.retain_until <= clock_.WallNow();
    return !is_over && head.parent == query.parent &&
           std::equal(query.hash_prefix.begin(), query.hash_prefix.end(), head.key.hash.begin(),
                      [](char a, uint8_t b) { return static_cast<uint8_t>(a) == b; });
  }
  void Add(const kvstore::PutItem& item) {
    kvstore::ObjectHead head = item.head;
    head.payload_bytes = item.payload->size();
    records[head.key.hash] = {head,
                              std::string(reinterpret_cast<const char*>(item.payload->data()), item.payload->size())};
  }
  absl::StatusOr<kvstore::FetchedObject> Object(const kvstore::GetItem& item, const absl::Status& status) {
    if (!status.ok()) return status;
    if (!unreadable.ok()) return unreadable;
    const auto found = records.find(item.key.hash);
    if (found == records.end()) return absl::NotFoundError("no such object");
    const auto& [head, bytes] = found->second;
    const auto* const begin = reinterpret_cast<const std::byte*>(bytes.data());
    return kvstore::FetchedObject{head, {begin, begin + bytes.size()}};
  }
  void Answer(absl::Duration timeout, std::function<void(const absl::Status&)> answer) {
    const bool in_time = latency <= timeout;
    pending_.emplace(clock_.Now() + std::min(latency, timeout),
                     [this, in_time, answer] { answer(in_time ? down : absl::DeadlineExceededError("timeout")); });
  }

  const Clock& clock_;
  std::multimap<absl::Time, std::function<void()>> pending_;
};

}  // namespace longshelf::router::testing
