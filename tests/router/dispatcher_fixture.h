#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "router/dispatcher.h"

namespace longshelf::router::testing {

class FakeLink;

// A call that the test drives by hand.
class FakeCall final : public WorkerCall {
 public:
  FakeCall(FakeLink& link, const WorkerRequest& sent, WorkerCallObserver& observer)
      : link_(link), request(sent), observer_(observer) {}
  ~FakeCall() override;
  void RequestNext() override { ++n_requested; }

  void Send(decltype(WorkerEvent::body) body) { SendAs(request.epoch, std::move(body)); }
  void SendAs(uint32_t epoch, decltype(WorkerEvent::body) body) {
    observer_.OnEvent(WorkerEvent{epoch, std::move(body)});
  }
  void Close(const absl::Status& status) { observer_.OnClosed(status); }

 private:
  FakeLink& link_;

 public:
  WorkerRequest request;
  int n_requested = 0;

 private:
  WorkerCallObserver& observer_;
};

class FakeLink final : public WorkerLink {
 public:
  void Start(size_t, WorkerLinkObserver&) override {}
  std::unique_ptr<WorkerCall> Generate(const WorkerRequest& request, WorkerCallObserver& observer) override {
    auto call = std::make_unique<FakeCall>(*this, request, observer);
    calls.push_back(call.get());
    return call;
  }
  void Park(const ParkOrder& order, std::function<void(absl::StatusOr<ParkedState>)> done) override {
    parked.push_back(order);
    done(ParkedState{.n_tokens = static_cast<uint32_t>(order.tokens.size()),
                     .n_objects = 1,
                     .n_bytes = 1,
                     .checkpoint_key = std::string(32, 'c')});
  }
  FakeCall& last() { return *calls.back(); }
  std::vector<ParkOrder> parked;
  std::vector<FakeCall*> calls;  // open ones
  int n_cancelled = 0;
};

inline FakeCall::~FakeCall() {
  std::erase(link_.calls, this);
  ++link_.n_cancelled;
}

struct Recorder final : StreamObserver {
  void OnStarted(const StreamStarted& s) override { started.push_back(s); }
  void OnProgress(const PrefillProgress& p) override { progress.push_back(p.n_done); }
  void OnPromptLogprobs(const PromptLogprobs& scores) override {
    for (const ScoredToken& scored : scores.tokens) prompt_logprobs.push_back(scored.logprob);
  }
  void OnToken(const OutputToken& token) override {
    tokens.push_back(token.token);
    if (drop_at && tokens.size() == drop_at) stream.reset();
  }
  void OnFinished(FinishReason r, const DraftTokens&) override { finished = r; }
  void OnFailed(const absl::Status& s) override { failed = s; }
  std::unique_ptr<Stream> stream;
  std::vector<StreamStarted> started;
  std::vector<uint32_t> progress;
  std::vector<float> prompt_logprobs;
  std::vector<uint32_t> tokens;
  std::optional<FinishReason> finished;
  std::optional<absl::Status> failed;
  size_t drop_at = 0;
};

class DispatcherTest : public ::testing::Test {
 protected:
  void Make(size_t n_workers, DispatcherConfig config = {}) {
    std::vector<std::unique_ptr<WorkerLink>> owned;
    for (size_t i = 0; i < n_workers; ++i) {
      auto link = std::make_unique<FakeLink>();
      links_.push_back(link.get());
      owned.push_back(std::move(link));
    }
    dispatcher_ = std::make_unique<Dispatcher>(config, clock_, metrics_, std::move(owned));
  }
  static WorkerInfo Info(uint8_t fingerprint = 1) {
    WorkerInfo info;
    info.fingerprint[0] = fingerprint;
    info.vocab_size = 1000;
    info.block_tokens = 256;
    info.n_context_max = 4096;
    return info;
  }
  void AllUp() {
    for (size_t i = 0; i < links_.size(); ++i) {
      ASSERT_TRUE(dispatcher_->OnWorkerUp(i, Info()));
      Report(i);
    }
  }
  // What a worker says of itself: so much as it has of this router, and what others have there.
  void Report(size_t worker, uint32_t n_of_others = 0, uint32_t n_slots = 16, double tokens_per_second = 0) {
    WorkerUpdate update;
    update.load.n_running = static_cast<uint32_t>(links_[worker]->calls.size()) + n_of_others;
    update.load.n_sequences_max = n_slots;
    update.load.tokens_per_second = tokens_per_second;
    dispatcher_->OnWorkerUpdate(worker, update);
  }
  absl::Status Begin(Recorder& recorder, uint32_t max_tokens = 100) {
    return BeginWith(recorder, std::vector<uint32_t>(300, 7), max_tokens, false);
  }
  absl::Status BeginWith(Recorder& recorder, std::vector<uint32_t> prompt, uint32_t max_tokens, bool prompt_logprobs) {
    StreamSpec spec;
    spec.request_id = "r";
    spec.prompt = std::make_shared<const std::vector<uint32_t>>(std::move(prompt));
    spec.prompt_logprobs = prompt_logprobs;
    spec.max_tokens = max_tokens;
    spec.stop_token_ids = {1};
    auto stream = dispatcher_->Generate(std::move(spec), recorder);
    if (!stream.ok()) return stream.status();
    recorder.stream = *std::move(stream);
    return absl::OkStatus();
  }
  // Of prompt tokens first, first + 1, ... up to `end`; each has its position's number.
  static PromptLogprobs Scores(uint32_t first, uint32_t end) {
    PromptLogprobs out{first, {}};
    for (uint32_t i = first; i < end; ++i) out.tokens.push_back({7, static_cast<float>(i), {}});
    return out;
  }
  static OutputToken Token(uint32_t index, uint32_t token) { return {index, token, -0.5f, {}}; }

  ManualClock clock_;
  Metrics registry_{"router_test"};
  RouterMetrics metrics_{registry_};
  std::vector<FakeLink*> links_;
  std::unique_ptr<Dispatcher> dispatcher_;
};

}  // namespace longshelf::router::testing
