#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/client.h"

namespace longshelf::kvstore {

// What the callbacks of one call reported. Fails the test when they overlap, answer an object twice, or go on after the
// end.
template <typename Result>
class CallRecord {
 public:
  void Answer(size_t index, absl::StatusOr<Result> answer) {
    const Entry entry(*this);
    std::lock_guard lock(mutex_);
    EXPECT_FALSE(end_.has_value()) << "object " << index << " was answered after the end";
    if (index >= answers_.size()) answers_.resize(index + 1);
    EXPECT_FALSE(answers_[index].has_value()) << "object " << index << " was answered twice";
    answers_[index] = std::move(answer);
    ++n_answers_;
    changed_.notify_all();
  }
  void End(const absl::Status& status) {
    const Entry entry(*this);
    std::lock_guard lock(mutex_);
    EXPECT_FALSE(end_.has_value()) << "a second end";
    end_ = status;
    changed_.notify_all();
  }

  // False after the timeout.
  bool WaitForAnswers(size_t n, absl::Duration timeout = absl::Seconds(30)) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, absl::ToChronoMilliseconds(timeout), [&] { return n_answers_ >= n; });
  }
  absl::Status WaitForEnd(absl::Duration timeout = absl::Seconds(30)) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, absl::ToChronoMilliseconds(timeout), [&] { return end_.has_value(); });
    return end_.value_or(absl::UnknownError("the call never ended"));
  }

  bool ended() {
    std::lock_guard lock(mutex_);
    return end_.has_value();
  }
  size_t n_answers() {
    std::lock_guard lock(mutex_);
    return n_answers_;
  }
  // Of objects [0, n), answered or not.
  size_t n_ok(size_t n) { return Count(n, absl::StatusCode::kOk); }
  size_t Count(size_t n, absl::StatusCode code) {
    size_t count = 0;
    for (size_t i = 0; i < n; ++i) count += this->code(i) == code;
    return count;
  }
  // kDataLoss stands for none: no test expects it here.
  absl::StatusCode code(size_t index) {
    std::lock_guard lock(mutex_);
    return index < answers_.size() && answers_[index].has_value() ? answers_[index]->status().code()
                                                                  : absl::StatusCode::kDataLoss;
  }
  // REQUIRES: it was a good answer.
  Result answer(size_t index) {
    std::lock_guard lock(mutex_);
    return **answers_.at(index);
  }

 private:
  // A callback's stay: finds two at once.
  class Entry {
   public:
    explicit Entry(CallRecord& record) : record_(record) {
      EXPECT_FALSE(record_.inside_.exchange(true)) << "two callbacks at once";
      std::this_thread::yield();
    }
    ~Entry() { record_.inside_ = false; }

   private:
    CallRecord& record_;
  };

  std::atomic<bool> inside_ = false;
  std::mutex mutex_;  // guards the rest
  std::condition_variable changed_;
  std::vector<std::optional<absl::StatusOr<Result>>> answers_;
  size_t n_answers_ = 0;
  std::optional<absl::Status> end_;
};

using GetRecord = CallRecord<FetchedObject>;
using PutRecord = CallRecord<PutOutcome>;

inline Client::GetEvents EventsOf(const std::shared_ptr<GetRecord>& record) {
  return {.on_object = [record](size_t index,
                                absl::StatusOr<FetchedObject> object) { record->Answer(index, std::move(object)); },
          .on_done = [record](const absl::Status& status) { record->End(status); }};
}

inline Client::PutEvents EventsOf(const std::shared_ptr<PutRecord>& record) {
  return {.on_outcome = [record](size_t index,
                                 absl::StatusOr<PutOutcome> outcome) { record->Answer(index, std::move(outcome)); },
          .on_done = [record](const absl::Status& status) { record->End(status); }};
}

}  // namespace longshelf::kvstore
