#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <set>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "longshelf/v1/store_link.pb.h"
#include "worker/home_store/home_store.h"

namespace longshelf::worker {

// One call of a RemoteStore, which changes it on its loop: what is still to be told to the shard, and what the shard
// has yet to say.
class RemoteCall {
 public:
  virtual ~RemoteCall() = default;
  // INVALID_ARGUMENT: no such report is due.
  virtual absl::Status OnReport(const v1::StoreReport& report) = 0;
  // There is an answer for everything, and nothing more can be asked.
  virtual bool complete() const = 0;
  // Answers the rest with `status`, and ends. The last that happens to it.
  virtual void End(const absl::Status& status) = 0;

  uint64_t id = 0;
  absl::Time deadline;
  std::deque<v1::StoreOrder> unsent;
  bool is_ready = false;      // queued to be sent from
  bool has_begun = false;     // the shard was told, and has the last word
  bool is_cancelled = false;  // nothing but that is said any more
  bool has_ended = false;
};

class RemoteGet final : public RemoteCall {
 public:
  RemoteGet(size_t n_items, HomeStore::GetEvents events) : n_items_(n_items), events_(std::move(events)) {}

  absl::Status OnReport(const v1::StoreReport& report) override;
  bool complete() const override { return n_answered_ == n_items_; }
  void End(const absl::Status& status) override;

 private:
  const size_t n_items_;
  size_t n_answered_ = 0;  // in order
  HomeStore::GetEvents events_;
};

class RemotePut final : public RemoteCall {
 public:
  explicit RemotePut(kvstore::Client::PutEvents events) : events_(std::move(events)) {}

  absl::Status OnReport(const v1::StoreReport& report) override;
  bool complete() const override { return is_finished && unanswered_.empty(); }
  void End(const absl::Status& status) override;

  size_t n_offered() const { return n_offered_; }
  // The next offer goes to the shard, or is refused.
  void Expect() { unanswered_.insert(n_offered_++); }
  void Refuse(const absl::Status& status) { events_.on_outcome(n_offered_++, status); }

  bool is_finished = false;

 private:
  size_t n_offered_ = 0;
  std::set<size_t> unanswered_;
  kvstore::Client::PutEvents events_;
};

}  // namespace longshelf::worker
