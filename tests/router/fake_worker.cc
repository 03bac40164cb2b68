#include "fake_worker.h"

#include <grpcpp/server_builder.h>

#include <algorithm>
#include <chrono>
#include <string>

namespace longshelf::router::testing {
namespace {

constexpr std::chrono::seconds kPatience{10};

}  // namespace

// Sends the script; owned by gRPC until OnDone.
class FakeWorker::GenerateStream final : public grpc::ServerWriteReactor<v1::WorkerGenerateEvent>,
                                         public std::enable_shared_from_this<GenerateStream> {
 public:
  GenerateStream(FakeWorker& worker, Script script, const v1::WorkerGenerateRequest& request)
      : worker_(worker),
        script_(std::move(script)),
        epoch_(request.epoch()),
        next_(static_cast<uint32_t>(request.committed_tokens_size())),
        max_tokens_(request.max_tokens()),
        n_prompt_(static_cast<uint32_t>(request.prompt_tokens_size())),
        request_(request),
        next_scored_(std::max(1U, request.n_prompt_scored())) {}

  static std::shared_ptr<GenerateStream> Start(FakeWorker& worker, Script script,
                                               const v1::WorkerGenerateRequest& request) {
    const auto stream = std::make_shared<GenerateStream>(worker, std::move(script), request);
    stream->self_ = stream;
    return stream;
  }

  void Refuse(const grpc::Status& status) {
    std::lock_guard lock(mutex_);
    FinishOnce(status);
  }

  void Next() {
    std::lock_guard lock(mutex_);
    if (finished_) return;
    event_.Clear();
    event_.set_epoch(epoch_);
    if (!started_) {
      started_ = true;
      event_.mutable_started()->set_n_prompt_tokens(n_prompt_);
      event_.mutable_started()->set_n_cached_local(script_.n_cached);
      return StartWrite(&event_);
    }
    if (n_progress_ < script_.progress.size()) {
      event_.mutable_progress()->set_n_done(script_.progress[n_progress_++]);
      event_.mutable_progress()->set_n_total(n_prompt_);
      return StartWrite(&event_);
    }
    if (request_.prompt_logprobs() && next_scored_ < n_prompt_) {
      if (script_.fails_at_scored == next_scored_) return FinishOnce({grpc::StatusCode::UNAVAILABLE, "played dead"});
      ScoreTwo();
      return StartWrite(&event_);
    }
    if (script_.fails_at == next_) return FinishOnce({grpc::StatusCode::UNAVAILABLE, "played dead"});
    if (ended_) return FinishOnce(grpc::Status::OK);
    if (next_ == script_.tokens.size() || next_ == max_tokens_) {
      ended_ = true;
      event_.mutable_finished()->set_reason(next_ == script_.tokens.size() ? v1::Finished::REASON_STOP
                                                                           : v1::Finished::REASON_LENGTH);
      return StartWrite(&event_);
    }
    v1::Token& token = *event_.mutable_token();
    token.set_index(next_);
    token.set_token(script_.tokens[next_++]);
    token.set_logprob(script_.likely_seed == request_.sampling().seed() ? -0.125f : -0.25f);
    {
      std::lock_guard count(worker_.mutex_);
      ++worker_.n_tokens_sent_;
    }
    StartWrite(&event_);
  }

  void OnWriteDone(bool ok) override {
    if (ok && n_progress_ == script_.progress.size() && IsHeld()) return;
    if (ok) return Next();
    std::lock_guard lock(mutex_);
    FinishOnce(grpc::Status::CANCELLED);
  }
  void OnCancel() override {
    {
      std::lock_guard count(worker_.mutex_);
      ++worker_.n_cancelled_;
      worker_.held_.erase(shared_from_this());
      worker_.changed_.notify_all();
    }
    std::lock_guard lock(mutex_);
    FinishOnce(grpc::Status::CANCELLED);
  }
  void OnDone() override { self_.reset(); }

 private:
  // Tells of the next two prompt tokens, or one: each is as likely as its position's number says.
  void ScoreTwo() {
    v1::PromptLogprobs& scores = *event_.mutable_prompt_logprobs();
    scores.set_first(next_scored_);
    for (int i = 0; i < 2 && next_scored_ < n_prompt_; ++i) {
      v1::ScoredToken& scored = *scores.add_tokens();
      scored.set_token(request_.prompt_tokens(static_cast<int>(next_scored_)));
      scored.set_logprob(-static_cast<float>(next_scored_++));
      if (request_.sampling().n_top_logprobs() == 0) continue;
      v1::TokenLogprob& top = *scored.add_top();
      top.set_token(scored.token());
      top.set_logprob(scored.logprob());
    }
  }
  bool IsHeld() {
    std::lock_guard lock(worker_.mutex_);
    if (!(script_.begins_held || script_.holds_at == next_) || !worker_.script_.held) return false;
    worker_.held_.insert(shared_from_this());
    return true;
  }
  void FinishOnce(const grpc::Status& status) {
    if (!std::exchange(finished_, true)) Finish(status);
  }

  FakeWorker& worker_;
  const Script script_;
  const uint32_t epoch_;
  uint32_t next_;
  const uint32_t max_tokens_;
  const uint32_t n_prompt_;
  const v1::WorkerGenerateRequest request_;
  uint32_t next_scored_;
  std::mutex mutex_;  // writes end and calls are cancelled on different threads
  v1::WorkerGenerateEvent event_;
  std::shared_ptr<GenerateStream> self_;
  size_t n_progress_ = 0;
  bool started_ = false;
  bool ended_ = false;
  bool finished_ = false;
};

// One snapshot, then silence until cancelled.
class FakeWorker::WatchStream final : public grpc::ServerWriteReactor<v1::WatchEvent> {
 public:
  explicit WatchStream(FakeWorker& worker) : worker_(worker) {
    event_.set_snapshot(true);
    event_.set_generation(1);
    event_.mutable_load()->set_n_sequences_max(16);
    StartWrite(&event_);
  }
  static WatchStream* Start(FakeWorker& worker) {
    auto stream = std::make_unique<WatchStream>(worker);
    WatchStream* raw = stream.get();
    raw->self_ = std::move(stream);
    std::lock_guard lock(worker.mutex_);
    worker.watches_.insert(raw);
    return raw;
  }
  void OnCancel() override { Finish(grpc::Status::CANCELLED); }
  void OnDone() override {
    {
      std::lock_guard lock(worker_.mutex_);
      worker_.watches_.erase(this);
    }
    self_.reset();
  }

 private:
  FakeWorker& worker_;
  v1::WatchEvent event_;
  std::unique_ptr<WatchStream> self_;
};

FakeWorker::FakeWorker(Script script, uint8_t fingerprint, uint32_t n_context_max)
    : fingerprint_(fingerprint), n_context_max_(n_context_max), script_(std::move(script)) {
  grpc::ServerBuilder builder;
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
}

FakeWorker::~FakeWorker() {
  ReleaseParks();
  server_->Shutdown(std::chrono::system_clock::now());
}

std::shared_ptr<grpc::Channel> FakeWorker::Channel() { return server_->InProcessChannel({}); }

void FakeWorker::SetScript(Script script) {
  std::lock_guard lock(mutex_);
  script_ = std::move(script);
}

void FakeWorker::Release() {
  std::set<std::shared_ptr<GenerateStream>> held;
  {
    std::lock_guard lock(mutex_);
    held.swap(held_);
    script_.held = false;
  }
  for (const auto& stream : held) stream->Next();
}

bool FakeWorker::AwaitCalls(size_t n) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return requests_.size() >= n; });
}
bool FakeWorker::AwaitCancelled(size_t n) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return n_cancelled_ >= n; });
}
size_t FakeWorker::n_tokens_sent() const {
  std::lock_guard lock(mutex_);
  return n_tokens_sent_;
}
std::vector<v1::WorkerGenerateRequest> FakeWorker::requests() const {
  std::lock_guard lock(mutex_);
  return requests_;
}

grpc::ServerWriteReactor<v1::WorkerGenerateEvent>* FakeWorker::Generate(grpc::CallbackServerContext*,
                                                                        const v1::WorkerGenerateRequest* request) {
  Script script;
  {
    std::lock_guard lock(mutex_);
    requests_.push_back(*request);
    script = script_;
  }
  const std::shared_ptr<GenerateStream> stream = GenerateStream::Start(*this, script, *request);
  if (script.full) {
    stream->Refuse({grpc::StatusCode::RESOURCE_EXHAUSTED, "full"});
  } else if (script.held && !script.begins_held && !script.holds_at.has_value()) {
    std::lock_guard lock(mutex_);
    held_.insert(stream);
  } else {
    stream->Next();
  }
  changed_.notify_all();
  return stream.get();
}

grpc::ServerWriteReactor<v1::WatchEvent>* FakeWorker::Watch(grpc::CallbackServerContext*, const v1::WatchRequest*) {
  return WatchStream::Start(*this);
}

void FakeWorker::SetCheckpointKey(std::optional<std::string> key) {
  std::lock_guard lock(mutex_);
  checkpoint_key_ = std::move(key);
}
std::vector<v1::ParkRequest> FakeWorker::parks() const {
  std::lock_guard lock(mutex_);
  return parks_;
}

void FakeWorker::HoldParks(bool held) {
  std::lock_guard lock(mutex_);
  are_parks_held_ = held;
}
void FakeWorker::ReleaseParks() {
  std::vector<HeldPark> held;
  {
    std::lock_guard lock(mutex_);
    held.swap(held_parks_);
    are_parks_held_ = false;
  }
  for (const HeldPark& park : held) park.reactor->Finish(park.status);
}
bool FakeWorker::AwaitParks(size_t n) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return parks_.size() >= n; });
}

grpc::ServerUnaryReactor* FakeWorker::Park(grpc::CallbackServerContext* context, const v1::ParkRequest* request,
                                           v1::ParkReply* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  std::lock_guard lock(mutex_);
  parks_.push_back(*request);
  changed_.notify_all();
  grpc::Status status(grpc::StatusCode::NOT_FOUND, "nothing is held");
  if (checkpoint_key_.has_value()) {
    status = grpc::Status::OK;
    reply->set_n_tokens(static_cast<uint32_t>(request->tokens_size()));
    reply->set_n_objects(1);
    reply->set_checkpoint_key(*checkpoint_key_);
  }
  if (are_parks_held_) {
    held_parks_.push_back({reactor, status});
  } else {
    reactor->Finish(status);
  }
  return reactor;
}

grpc::ServerUnaryReactor* FakeWorker::Status(grpc::CallbackServerContext* context, const v1::WorkerStatusRequest*,
                                             v1::WorkerStatusReply* reply) {
  reply->set_worker_id("fake");
  reply->set_model_name("demo");
  std::string fingerprint(32, '\0');
  fingerprint[0] = static_cast<char>(fingerprint_);
  reply->set_fingerprint(fingerprint);
  reply->set_vocab_size(4224);
  reply->set_block_tokens(256);
  reply->set_n_context_max(n_context_max_);
  reply->set_generation(1);
  reply->set_ready(true);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace longshelf::router::testing
