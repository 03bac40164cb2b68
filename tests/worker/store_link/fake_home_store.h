#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "worker/home_store/home_store.h"

namespace longshelf::worker {

// A shard's own store, whose calls a test answers by hand. A cancelled call ends at once, unless the test wants to do
// that, too.
class FakeHomeStore final : public HomeStore {
 public:
  class AskedGet final : public kvstore::Client::GetCall {
   public:
    AskedGet(GetRequest of, GetEvents events, bool ends_itself)
        : request(std::move(of)), events_(std::move(events)), ends_itself_(ends_itself) {}

    void Answer(absl::StatusOr<engine::EncodedStamp> stamp) { events_.on_object(n_answered_++, std::move(stamp)); }
    // What is not answered was not found, or failed like the call.
    void End(const absl::Status& status) {
      if (has_ended.exchange(true)) return;
      while (n_answered_ < request.copies.size()) Answer(status.ok() ? absl::NotFoundError("absent") : status);
      events_.on_done(status);
    }
    void Release(uint64_t n_bytes) override { n_released += n_bytes; }
    void Cancel() override {
      is_cancelled = true;
      if (ends_itself_) End(absl::CancelledError("cancelled"));
    }

    const GetRequest request;
    std::atomic<uint64_t> n_released = 0;
    std::atomic<bool> is_cancelled = false;
    std::atomic<bool> has_ended = false;

   private:
    const GetEvents events_;
    const bool ends_itself_;
    size_t n_answered_ = 0;
  };

  class AskedPut final : public PutCall {
   public:
    AskedPut(absl::Duration for_timeout, kvstore::Client::PutEvents events, bool ends_itself)
        : timeout(for_timeout), events_(std::move(events)), ends_itself_(ends_itself) {}

    void Answer(size_t index, absl::StatusOr<kvstore::PutOutcome> outcome) {
      events_.on_outcome(index, std::move(outcome));
    }
    // Leaves what is not answered to others.
    void End(const absl::Status& status) {
      if (!has_ended.exchange(true)) events_.on_done(status);
    }
    void Offer(PutItem item) override {
      std::lock_guard lock(mutex_);
      items_.push_back(std::move(item));
    }
    void Finish() override { is_finished = true; }
    void Cancel() override {
      is_cancelled = true;
      if (ends_itself_) End(absl::CancelledError("cancelled"));
    }
    std::vector<PutItem> items() {
      std::lock_guard lock(mutex_);
      return items_;
    }

    const absl::Duration timeout;
    std::atomic<bool> is_finished = false;
    std::atomic<bool> is_cancelled = false;
    std::atomic<bool> has_ended = false;

   private:
    const kvstore::Client::PutEvents events_;
    const bool ends_itself_;
    std::mutex mutex_;  // guards what is below: the link offers, the test looks
    std::vector<PutItem> items_;
  };

  std::shared_ptr<kvstore::Client::GetCall> Get(GetRequest request, GetEvents events) override;
  std::shared_ptr<PutCall> Put(absl::Duration timeout, kvstore::Client::PutEvents events) override;

  // The nth call of its kind, which is waited for. EXPECTs that it comes.
  std::shared_ptr<AskedGet> get(size_t n);
  std::shared_ptr<AskedPut> put(size_t n);
  size_t n_calls();

  std::atomic<bool> cancelled_calls_end = true;

 private:
  std::mutex mutex_;  // guards what is below: calls come from the link's thread
  std::condition_variable added_;
  std::vector<std::shared_ptr<AskedGet>> gets_;
  std::vector<std::shared_ptr<AskedPut>> puts_;
};

}  // namespace longshelf::worker
