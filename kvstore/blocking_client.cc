#include "kvstore/blocking_client.h"

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace longshelf::kvstore {
namespace {

// One value from the thread that has it to the thread that waits for it. Shared by both: whoever comes last frees it.
template <typename T>
class Handover {
 public:
  void Give(T value) {
    std::lock_guard lock(mutex_);
    value_ = std::move(value);
    given_.notify_one();
  }
  T Wait() {
    std::unique_lock lock(mutex_);
    given_.wait(lock, [this] { return value_.has_value(); });
    return *std::move(value_);
  }

 private:
  std::mutex mutex_;  // guards value_
  std::condition_variable given_;
  std::optional<T> value_;
};

// Calls start(done) and waits for what it answers.
template <typename Result, typename Start>
absl::StatusOr<Result> Await(Start start) {
  const auto answer = std::make_shared<Handover<absl::StatusOr<Result>>>();
  start([answer](absl::StatusOr<Result> result) { answer->Give(std::move(result)); });
  return answer->Wait();
}

// What a Get delivers, for the thread that waits for it.
class Arrivals {
 public:
  struct Object {
    size_t index = 0;
    absl::StatusOr<FetchedObject> object;
  };

  void Add(Object object) {
    std::lock_guard lock(mutex_);
    objects_.push_back(std::move(object));
    changed_.notify_one();
  }
  void End(const absl::Status& status) {
    std::lock_guard lock(mutex_);
    end_ = status;
    changed_.notify_one();
  }
  // Nothing when all were taken and the call has ended.
  std::optional<Object> Next() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !objects_.empty() || end_.has_value(); });
    if (objects_.empty()) return std::nullopt;
    std::optional<Object> next = std::move(objects_.front());
    objects_.pop_front();
    return next;
  }
  absl::Status end() {
    std::lock_guard lock(mutex_);
    return end_.value();
  }

 private:
  std::mutex mutex_;  // guards the rest
  std::condition_variable changed_;
  std::deque<Object> objects_;
  std::optional<absl::Status> end_;
};

}  // namespace

absl::StatusOr<LookupResult> BlockingClient::Lookup(const LookupQuery& query, absl::Duration timeout) {
  return Await<LookupResult>([&](auto done) { client_.Lookup(query, timeout, std::move(done)); });
}

absl::Status BlockingClient::Get(const Fingerprint& fingerprint, std::span<const GetItem> items, absl::Duration timeout,
                                 const OnObject& on_object) {
  const auto arrivals = std::make_shared<Arrivals>();
  const auto call = client_.Get({.fingerprint = fingerprint, .items = {items.begin(), items.end()}, .timeout = timeout},
                                {.on_object =
                                     [arrivals](size_t index, absl::StatusOr<FetchedObject> object) {
                                       arrivals->Add({index, std::move(object)});
                                     },
                                 .on_done = [arrivals](const absl::Status& status) { arrivals->End(status); }});
  while (std::optional<Arrivals::Object> next = arrivals->Next()) {
    const uint64_t n_bytes = next->object.ok() ? next->object->payload.size() : 0;
    on_object(next->index, std::move(next->object));
    call->Release(n_bytes);
  }
  return arrivals->end();
}

std::vector<absl::StatusOr<std::vector<std::byte>>> BlockingClient::GetMany(const Fingerprint& fingerprint,
                                                                            std::span<const GetItem> items,
                                                                            absl::Duration timeout) {
  std::vector<absl::StatusOr<std::vector<std::byte>>> results(items.size(), absl::UnknownError("not answered"));
  // Every object gets an answer of its own, so the call's is of no interest.
  (void)Get(fingerprint, items, timeout, [&results](size_t index, absl::StatusOr<FetchedObject> object) {
    if (object.ok()) {
      results[index] = std::move(object->payload);
    } else {
      results[index] = object.status();
    }
  });
  return results;
}

std::vector<absl::StatusOr<PutOutcome>> BlockingClient::PutMany(std::span<const PutItem> items,
                                                                absl::Duration timeout) {
  using Outcomes = std::vector<absl::StatusOr<PutOutcome>>;
  if (items.size() > kMaxKeysPerCall) {
    return Outcomes(items.size(), absl::InvalidArgumentError(
                                      absl::StrCat(items.size(), " objects in one call, at most ", kMaxKeysPerCall)));
  }
  const auto outcomes = std::make_shared<Outcomes>(items.size(), absl::UnknownError("not answered"));
  const auto end = std::make_shared<Handover<absl::Status>>();
  const auto call = client_.Put(timeout, {.on_outcome =
                                              [outcomes](size_t index, absl::StatusOr<PutOutcome> outcome) {
                                                (*outcomes)[index] = std::move(outcome);
                                              },
                                          .on_done = [end](const absl::Status& status) { end->Give(status); }});
  for (const PutItem& item : items) call->Offer(item);
  call->Finish();
  const absl::Status status = end->Wait();
  // Offers that came after the call had failed were ignored.
  for (auto& outcome : *outcomes) {
    if (outcome.status().code() == absl::StatusCode::kUnknown && !status.ok()) outcome = status;
  }
  return std::move(*outcomes);
}

absl::StatusOr<TouchResult> BlockingClient::Touch(const TouchQuery& query, absl::Duration timeout) {
  return Await<TouchResult>([&](auto done) { client_.Touch(query, timeout, std::move(done)); });
}

absl::StatusOr<DropResult> BlockingClient::Drop(std::span<const PlacedKey> keys, absl::Duration timeout) {
  return Await<DropResult>([&](auto done) { client_.Drop({keys.begin(), keys.end()}, timeout, std::move(done)); });
}

absl::StatusOr<DropResult> BlockingClient::DropCache(std::span<const PlacedKey> keys, absl::Duration timeout) {
  return Await<DropResult>([&](auto done) { client_.DropCache({keys.begin(), keys.end()}, timeout, std::move(done)); });
}

absl::StatusOr<DropResult> BlockingClient::DropNamespace(const NamespaceDrop& drop, absl::Duration timeout) {
  return Await<DropResult>([&](auto done) { client_.DropNamespace(drop, timeout, std::move(done)); });
}

absl::StatusOr<ListResult> BlockingClient::List(const ListQuery& query, absl::Duration timeout) {
  return Await<ListResult>([&](auto done) { client_.List(query, timeout, std::move(done)); });
}

absl::StatusOr<StoreStats> BlockingClient::Stats(absl::Duration timeout) {
  return Await<StoreStats>([&](auto done) { client_.Stats(timeout, std::move(done)); });
}

}  // namespace longshelf::kvstore
