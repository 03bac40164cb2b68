#include "router/completion.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace longshelf::router {
namespace {

// SplitMix64: choices of one request draw from unrelated streams.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15U;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

std::optional<BlockKey> KeyOf(const std::string& fingerprint) {
  BlockKey key{};
  if (fingerprint.size() != key.size()) return std::nullopt;
  std::memcpy(key.data(), fingerprint.data(), key.size());
  return key;
}

}  // namespace

// One choice. Ends its stream as soon as its output is complete.
class Completion::Choice final : public StreamObserver {
 public:
  Choice(Completion& owner, uint32_t number, uint64_t id_seed)
      : owner_(owner), number_(number), output_(owner.model_, owner.prepared_, id_seed) {}

  absl::Status Start(uint64_t seed) {
    const PreparedRequest& prepared = owner_.prepared_;
    StreamSpec spec;
    spec.request_id = absl::StrCat(owner_.request_id_, "-", number_);
    spec.prompt = prepared.prompt;
    if (prepared.request.begun != nullptr) {
      spec.committed = prepared.request.begun->output;
      spec.begun_by = KeyOf(prepared.request.begun->fingerprint);
      // The client has what these gave already.
      for (const uint32_t token : spec.committed) {
        const ChoiceDelta delta = output_.Push({.index = 0, .token = token, .logprob = 0, .top = {}});
        if (!delta.empty()) owner_.sink_.OnReplayed(number_, delta);
      }
    }
    spec.keys = prepared.keys;
    spec.max_tokens = prepared.max_tokens;
    spec.sampling = prepared.request.sampling;
    spec.sampling.seed = seed;
    spec.stop_token_ids = owner_.model_.stop_token_ids;
    spec.stop_token_ids.insert(spec.stop_token_ids.end(), prepared.request.stop_token_ids.begin(),
                               prepared.request.stop_token_ids.end());
    spec.output_form = prepared.output_form;
    spec.tenant = prepared.tenant;
    spec.tier = prepared.request.tier;
    spec.namespace_id = prepared.namespace_id;
    spec.namespace_salt = prepared.namespace_salt;
    begun_end_ = EndOfBegun(spec);
    if (begun_end_.has_value()) return absl::OkStatus();
    auto stream = owner_.dispatcher_.Generate(std::move(spec), *this);
    if (!stream.ok()) return stream.status();
    stream_ = *std::move(stream);
    return absl::OkStatus();
  }

  void OnStarted(const StreamStarted& started) override {
    if (!owner_.ended_) owner_.OnChoiceStarted(started);
  }
  void OnProgress(const PrefillProgress& progress) override {
    if (!owner_.ended_ && number_ == 0) owner_.sink_.OnProgress(progress);
  }
  void OnToken(const OutputToken& token) override {
    if (owner_.ended_) return;
    const absl::Time now = owner_.clock_.Now();
    if (last_token_at_ != absl::InfinitePast()) owner_.metrics_.InterTokenLatency(now - last_token_at_);
    last_token_at_ = now;
    owner_.OnToken(*this, token);
    const ChoiceDelta delta = output_.Push(token);
    owner_.sink_.OnDelta(number_, delta);
    if (output_.stopped()) End(FinishReason::kStop);
  }
  void OnFinished(FinishReason reason, const DraftTokens& drafts) override {
    drafts_ = drafts;
    if (!owner_.ended_) End(reason);
  }
  void OnFailed(const absl::Status& status) override {
    BreakOff();
    owner_.OnChoiceFailed(status);
  }

  void Pause() {
    if (stream_) stream_->Pause();
  }
  void Resume() {
    if (stream_) stream_->Resume();
  }
  // How the begun answer ended, if it did. It is End's business then, and no worker's.
  const std::optional<FinishReason>& begun_end() const { return begun_end_; }
  void EndBegun() { End(*begun_end_); }
  // Whatever is held back stays so: it comes with what follows.
  void BreakOff() {
    worker_ = worker();
    stream_.reset();
  }
  std::optional<size_t> worker() const { return stream_ ? stream_->worker() : worker_; }
  const ChoiceOutput& output() const { return output_; }
  const DraftTokens& drafts() const { return drafts_; }
  uint32_t number() const { return number_; }

 private:
  std::optional<FinishReason> EndOfBegun(const StreamSpec& spec) const {
    if (spec.committed.empty()) return std::nullopt;
    const auto& stops = spec.stop_token_ids;
    const bool is_stop = std::find(stops.begin(), stops.end(), spec.committed.back()) != stops.end();
    if (is_stop || output_.stopped()) return FinishReason::kStop;
    if (spec.committed.size() >= spec.max_tokens) return FinishReason::kLength;
    return std::nullopt;
  }
  void End(FinishReason reason) {
    BreakOff();
    if (const ChoiceDelta rest = output_.Finish(); !rest.empty()) owner_.sink_.OnDelta(number_, rest);
    owner_.OnChoiceEnded(*this, reason);
  }

  Completion& owner_;
  const uint32_t number_;
  ChoiceOutput output_;
  DraftTokens drafts_;
  std::unique_ptr<Stream> stream_;
  std::optional<size_t> worker_;  // once there is no stream
  std::optional<FinishReason> begun_end_;
  absl::Time last_token_at_ = absl::InfinitePast();
};

Completion::Completion(Dispatcher& dispatcher, const ServedModel& model, Clock& clock, RouterMetrics& metrics,
                       PreparedRequest prepared, std::string request_id, uint64_t request_seed, CompletionSink& sink)
    : dispatcher_(dispatcher),
      model_(model),
      clock_(clock),
      metrics_(metrics),
      prepared_(std::move(prepared)),
      request_id_(std::move(request_id)),
      seed_(prepared_.request.begun != nullptr ? prepared_.request.begun->seed
            : prepared_.request.seed           ? static_cast<uint64_t>(*prepared_.request.seed)
                                               : request_seed),
      sink_(sink),
      started_at_(clock.Now()) {}

Completion::~Completion() {
  if (recorder_ != nullptr && !ended_) recorder_->OnEnd("", choices_[0]->worker());
}

std::optional<ApiError> Completion::Start() {
  n_open_ = prepared_.request.n;
  const std::string& id = prepared_.request.begun != nullptr ? prepared_.request.begun->request_id : request_id_;
  for (uint32_t i = 0; i < prepared_.request.n; ++i) {
    const uint64_t seed = i == 0 ? seed_ : Mix(seed_ ^ Mix(i));
    choices_.push_back(std::make_unique<Choice>(*this, i, Mix(seed_ ^ Mix(std::hash<std::string>{}(id) + i))));
    if (const absl::Status status = choices_.back()->Start(seed); !status.ok()) {
      choices_.clear();
      return FromStatus(status);
    }
  }
  return std::nullopt;
}

void Completion::Pause() {
  for (const auto& choice : choices_) choice->Pause();
}
void Completion::Resume() {
  for (const auto& choice : choices_) choice->Resume();
}

bool Completion::begun_is_all() const { return !choices_.empty() && choices_[0]->begun_end().has_value(); }

void Completion::EndBegun() {
  if (ended_) return;
  OnChoiceStarted({});
  choices_[0]->EndBegun();
}

void Completion::Interrupt(std::string_view finish_reason) {
  if (ended_ || choices_.size() != 1) return;
  choices_[0]->BreakOff();
  Finish(*choices_[0], finish_reason);
}

void Completion::OnChoiceStarted(const StreamStarted& started) {
  const auto n_cached = [](const StreamStarted& each) { return each.n_cached_local + each.n_cached_store; };
  if (!begun_ || n_cached(started) > n_cached(started_)) started_ = started;
  if (!std::exchange(begun_, true)) sink_.OnBegun();
}

void Completion::OnToken(const Choice& choice, const OutputToken& token) {
  if (recorder_ != nullptr && choice.number() == 0) recorder_->OnToken(token.token);
  metrics_.OutputTokens(1);
  if (!std::exchange(has_token_, true)) metrics_.TimeToFirstToken(clock_.Now() - started_at_);
}

void Completion::OnChoiceEnded(Choice& choice, FinishReason reason) {
  const std::string_view name = choice.output().FinishReasonName(reason);
  if (recorder_ != nullptr && choice.number() == 0) {
    std::exchange(recorder_, nullptr)->OnEnd(name, choice.worker());
  }
  Finish(choice, name);
}

void Completion::Finish(Choice& choice, std::string_view finish_reason) {
  sink_.OnChoiceFinished(choice.number(), finish_reason);
  if (n_open_ > 1) {
    --n_open_;
    return;
  }
  Usage usage;
  usage.n_prompt_tokens = static_cast<uint32_t>(prepared_.prompt->size());
  usage.n_local_tokens = std::min(started_.n_cached_local, usage.n_prompt_tokens);
  usage.n_store_tokens = std::min(started_.n_cached_store, usage.n_prompt_tokens - usage.n_local_tokens);
  usage.n_cached_tokens = usage.n_local_tokens + usage.n_store_tokens;
  usage.miss_reason = started_.miss_reason;
  usage.is_reported = prepared_.request.cache_report;
  for (const auto& each : choices_) {
    usage.n_completion_tokens += each->output().n_tokens();
    usage.n_reasoning_tokens += each->output().n_reasoning_tokens();
    usage.drafts.n_accepted += each->drafts().n_accepted;
    usage.drafts.n_rejected += each->drafts().n_rejected;
  }
  metrics_.PromptTokens(usage.n_prompt_tokens, usage.n_local_tokens, usage.n_store_tokens, usage.miss_reason);
  if (recorder_ != nullptr) std::exchange(recorder_, nullptr)->OnEnd("", choice.worker());
  ended_ = true;
  sink_.OnDone(usage);
}

void Completion::OnChoiceFailed(const absl::Status& status) {
  if (std::exchange(ended_, true)) return;
  if (recorder_ != nullptr) std::exchange(recorder_, nullptr)->OnEnd("", choices_[0]->worker());
  // The other choices must not report into an answer that has ended; this one is inside its own callback.
  for (const auto& choice : choices_) choice->Pause();
  sink_.OnError(FromStatus(status));
}

}  // namespace longshelf::router
