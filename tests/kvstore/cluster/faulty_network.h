#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/clock.h"
#include "kvstore/client.h"

namespace longshelf::kvstore {

// Carries messages between those who are named, or loses them: each way of each pair may be cut, and each message takes
// a time of its own, so that those of two calls overtake each other. Those of one call stay in order, as on a
// connection; behind a lost one nothing of that call gets through.
class FaultyNetwork {
 public:
  struct Stream {
    std::string from;
    std::string to;
    absl::Time last = absl::InfinitePast();
    bool is_cut = false;
  };

  FaultyNetwork(ManualClock& clock, uint64_t seed) : clock_(clock), random_(seed) {}

  bool IsCut(const std::string& from, const std::string& to) const { return cuts.contains({from, to}); }
  void Send(const std::shared_ptr<Stream>& stream, std::function<void()> arrive) {
    if (IsCut(stream->from, stream->to)) stream->is_cut = true;
    if (stream->is_cut) return;
    const auto delay = absl::Microseconds(random_() % (absl::ToInt64Microseconds(delay_max) + 1));
    stream->last = std::max(stream->last, clock_.Now() + delay);
    At(stream->last, [this, stream, arrive = std::move(arrive)] {
      if (IsCut(stream->from, stream->to)) stream->is_cut = true;
      if (!stream->is_cut) arrive();
    });
  }
  void At(absl::Time when, std::function<void()> task) { pending_.emplace(when, std::move(task)); }
  // What is due; true when there was anything.
  bool Run() {
    bool has_run = false;
    for (; !pending_.empty() && pending_.begin()->first <= clock_.Now(); has_run = true) {
      const auto task = std::move(pending_.begin()->second);
      pending_.erase(pending_.begin());
      task();
    }
    return has_run;
  }
  absl::Time now() const { return clock_.Now(); }

  std::set<std::pair<std::string, std::string>> cuts;  // from, to
  absl::Duration delay_max = absl::ZeroDuration();
  int n_calls = 0;  // that somebody still holds

 private:
  ManualClock& clock_;
  std::mt19937_64 random_;
  std::multimap<absl::Time, std::function<void()>> pending_;
};

// One call over it. Whoever asks is answered by the deadline, whatever becomes of the messages.
class FaultyCall {
 public:
  FaultyCall(FaultyNetwork& network, const std::string& from, const std::string& to)
      : network_(network),
        there_(std::make_shared<FaultyNetwork::Stream>(FaultyNetwork::Stream{from, to})),
        back_(std::make_shared<FaultyNetwork::Stream>(FaultyNetwork::Stream{to, from})) {
    ++network_.n_calls;
  }
  FaultyCall(const FaultyCall&) = delete;
  virtual ~FaultyCall() { --network_.n_calls; }

 protected:
  FaultyNetwork& network_;
  const std::shared_ptr<FaultyNetwork::Stream> there_;
  const std::shared_ptr<FaultyNetwork::Stream> back_;
};

template <typename Result>
class FaultyQuestion final : public FaultyCall, public std::enable_shared_from_this<FaultyQuestion<Result>> {
 public:
  using Ask = std::function<void(absl::Duration timeout, Client::Done<Result> done)>;
  using FaultyCall::FaultyCall;
  void Start(absl::Duration timeout, Client::Done<Result> done, Ask ask) {
    done_ = std::move(done);
    const absl::Time deadline = network_.now() + timeout;
    network_.At(deadline, [weak = this->weak_from_this()] {
      if (const auto self = weak.lock()) self->End(absl::DeadlineExceededError("timeout"));
    });
    // Held by the question's way there and back, and by the map of its timer not at all: a lost one is held by `kept_`.
    kept_ = this->shared_from_this();
    network_.Send(there_, [self = this->shared_from_this(), deadline, ask = std::move(ask)] {
      if (self->done_ == nullptr) return;
      ask(deadline - self->network_.now(), [self](const absl::StatusOr<Result>& result) {
        self->network_.Send(self->back_, [self, result] { self->End(result); });
      });
    });
  }

 private:
  void End(const absl::StatusOr<Result>& result) {
    const auto kept = std::exchange(kept_, nullptr);
    if (const auto done = std::exchange(done_, nullptr)) done(result);
  }
  Client::Done<Result> done_;
  std::shared_ptr<FaultyQuestion> kept_;  // until it is answered
};

class FaultyGet final : public FaultyCall, public Client::GetCall, public std::enable_shared_from_this<FaultyGet> {
 public:
  using FaultyCall::FaultyCall;
  void Start(Client& store, Client::GetRequest request, Client::GetEvents events) {
    n_items_ = request.items.size();
    events_ = std::move(events);
    kept_ = shared_from_this();
    const absl::Time deadline = network_.now() + request.timeout;
    network_.At(deadline, [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->End(absl::DeadlineExceededError("timeout"));
    });
    network_.Send(there_, [self = shared_from_this(), &store, deadline, request = std::move(request)]() mutable {
      if (self->events_.on_done == nullptr) return;
      request.timeout = deadline - self->network_.now();
      self->call_ = store.Get(std::move(request), self->EventsOfStore());
    });
  }
  void Release(uint64_t n_bytes) override {
    network_.Send(there_, [self = shared_from_this(), n_bytes] {
      if (self->call_ != nullptr) self->call_->Release(n_bytes);
    });
  }
  void Cancel() override {
    network_.At(network_.now(), [self = shared_from_this()] { self->End(absl::CancelledError("cancelled")); });
  }

 private:
  Client::GetEvents EventsOfStore() {
    Client::GetEvents events;
    events.on_object = [self = shared_from_this()](size_t index, absl::StatusOr<FetchedObject> object) {
      self->network_.Send(self->back_, [self, index, object = std::move(object)] {
        if (self->events_.on_done == nullptr) return;
        self->next_ = index + 1;
        self->events_.on_object(index, object);
      });
    };
    events.on_done = [self = shared_from_this()](const absl::Status& status) {
      self->network_.Send(self->back_, [self, status] { self->End(status); });
    };
    return events;
  }
  void End(const absl::Status& status) {
    const auto kept = std::exchange(kept_, nullptr);
    const Client::GetEvents events = std::exchange(events_, {});
    if (events.on_done == nullptr) return;
    for (; next_ < n_items_; ++next_) events.on_object(next_, status);
    events.on_done(status);
    // The store hears of it too, if it can; else at its own deadline.
    network_.Send(there_, [call = std::exchange(call_, nullptr)] {
      if (call != nullptr) call->Cancel();
    });
  }

  Client::GetEvents events_;
  size_t n_items_ = 0;
  size_t next_ = 0;
  std::shared_ptr<Client::GetCall> call_;  // the store's
  std::shared_ptr<FaultyGet> kept_;
};

class FaultyPut final : public FaultyCall, public Client::PutCall, public std::enable_shared_from_this<FaultyPut> {
 public:
  using FaultyCall::FaultyCall;
  void Start(Client& store, absl::Duration timeout, Client::PutEvents events) {
    events_ = std::move(events);
    kept_ = shared_from_this();
    const absl::Time deadline = network_.now() + timeout;
    network_.At(deadline, [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->End(absl::DeadlineExceededError("timeout"));
    });
    network_.Send(there_, [self = shared_from_this(), &store, deadline] {
      if (self->events_.on_done == nullptr) return;
      self->call_ = store.Put(deadline - self->network_.now(), self->EventsOfStore());
    });
  }
  void Offer(PutItem item) override {
    if (events_.on_done == nullptr) return;
    heard_.push_back(false);
    network_.Send(there_, [self = shared_from_this(), item = std::move(item)] {
      if (self->call_ != nullptr) self->call_->Offer(item);
    });
  }
  void Finish() override {
    network_.Send(there_, [self = shared_from_this()] {
      if (self->call_ != nullptr) self->call_->Finish();
    });
  }
  void Cancel() override {
    network_.At(network_.now(), [self = shared_from_this()] { self->End(absl::CancelledError("cancelled")); });
  }

 private:
  Client::PutEvents EventsOfStore() {
    Client::PutEvents events;
    events.on_outcome = [self = shared_from_this()](size_t index, const absl::StatusOr<PutOutcome>& outcome) {
      self->network_.Send(self->back_, [self, index, outcome] {
        if (self->events_.on_done == nullptr) return;
        self->heard_[index] = true;
        self->events_.on_outcome(index, outcome);
      });
    };
    events.on_done = [self = shared_from_this()](const absl::Status& status) {
      self->network_.Send(self->back_, [self, status] { self->End(status); });
    };
    return events;
  }
  void End(const absl::Status& status) {
    const auto kept = std::exchange(kept_, nullptr);
    const Client::PutEvents events = std::exchange(events_, {});
    if (events.on_done == nullptr) return;
    const absl::Status lost = status.ok() ? absl::UnavailableError("ended early") : status;
    for (size_t i = 0; i < heard_.size(); ++i) {
      if (!heard_[i]) events.on_outcome(i, lost);
    }
    events.on_done(status);
    network_.Send(there_, [call = std::exchange(call_, nullptr)] {
      if (call != nullptr) call->Cancel();
    });
  }

  Client::PutEvents events_;
  std::vector<bool> heard_;
  std::shared_ptr<Client::PutCall> call_;  // the store's
  std::shared_ptr<FaultyPut> kept_;
};

// One member's client of another. Everything must outlive it.
class FaultyLink final : public Client {
 public:
  FaultyLink(FaultyNetwork& network, std::string from, std::string to, Client& store)
      : network_(network), from_(std::move(from)), to_(std::move(to)), store_(store) {}

  void Lookup(const LookupQuery& query, absl::Duration timeout, Done<LookupResult> done) override {
    Question<LookupResult>(timeout, std::move(done),
                           [this, query](auto left, auto answer) { store_.Lookup(query, left, answer); });
  }
  std::shared_ptr<GetCall> Get(GetRequest request, GetEvents events) override {
    const auto call = std::make_shared<FaultyGet>(network_, from_, to_);
    call->Start(store_, std::move(request), std::move(events));
    return call;
  }
  std::shared_ptr<PutCall> Put(absl::Duration timeout, PutEvents events) override {
    const auto call = std::make_shared<FaultyPut>(network_, from_, to_);
    call->Start(store_, timeout, std::move(events));
    return call;
  }
  void Touch(TouchQuery query, absl::Duration timeout, Done<TouchResult> done) override {
    Question<TouchResult>(timeout, std::move(done),
                          [this, query](auto left, auto answer) { store_.Touch(query, left, answer); });
  }
  void Drop(std::vector<PlacedKey> keys, absl::Duration timeout, Done<DropResult> done) override {
    Question<DropResult>(timeout, std::move(done),
                         [this, keys](auto left, auto answer) { store_.Drop(keys, left, answer); });
  }
  void DropCache(std::vector<PlacedKey> keys, absl::Duration timeout, Done<DropResult> done) override {
    Question<DropResult>(timeout, std::move(done),
                         [this, keys](auto left, auto answer) { store_.DropCache(keys, left, answer); });
  }
  void DropNamespace(NamespaceDrop drop, absl::Duration timeout, Done<DropResult> done) override {
    Question<DropResult>(timeout, std::move(done),
                         [this, drop](auto left, auto answer) { store_.DropNamespace(drop, left, answer); });
  }
  void List(ListQuery query, absl::Duration timeout, Done<ListResult> done) override {
    Question<ListResult>(timeout, std::move(done),
                         [this, query](auto left, auto answer) { store_.List(query, left, answer); });
  }
  void Stats(absl::Duration timeout, Done<StoreStats> done) override {
    Question<StoreStats>(timeout, std::move(done), [this](auto left, auto answer) { store_.Stats(left, answer); });
  }

 private:
  template <typename Result>
  void Question(absl::Duration timeout, Done<Result> done, typename FaultyQuestion<Result>::Ask ask) {
    std::make_shared<FaultyQuestion<Result>>(network_, from_, to_)->Start(timeout, std::move(done), std::move(ask));
  }

  FaultyNetwork& network_;
  const std::string from_;
  const std::string to_;
  Client& store_;
};

}  // namespace longshelf::kvstore
