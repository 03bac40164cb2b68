#include "router/completion.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"

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
      : owner_(owner),
        number_(number),
        prompt_(owner.prepared_.prompts[number / owner.prepared_.request.n_candidates()]),
        output_(owner.model_, owner.prepared_, id_seed),
        echo_decoder_(*owner.model_.tokenizer) {}

  absl::Status Start(uint64_t seed) {
    const PreparedRequest& prepared = owner_.prepared_;
    StreamSpec spec;
    spec.request_id = absl::StrCat(owner_.request_id_, "-", number_);
    spec.prompt = prompt_.tokens;
    if (prepared.request.begun != nullptr) {
      spec.committed = prepared.request.begun->output;
      spec.begun_by = KeyOf(prepared.request.begun->fingerprint);
      // The client has what these gave already, and what is before them.
      is_echoed_ = !spec.committed.empty();
      for (const uint32_t token : spec.committed) {
        const ChoiceDelta delta = output_.Push({.index = 0, .token = token, .logprob = 0, .top = {}});
        if (!delta.empty()) owner_.sink_.OnReplayed(number_, delta);
      }
    }
    spec.keys = prompt_.keys;
    spec.max_tokens = prompt_.max_tokens;
    spec.prompt_logprobs = prepared.echoes_logprobs();
    spec.sampling = prepared.request.sampling;
    spec.sampling.seed = seed;
    spec.sampling.logprobs = spec.sampling.logprobs || prepared.ranks();
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
    if (owner_.ended_) return;
    owner_.OnChoiceStarted(*this, started);
    if (!owner_.prepared_.echoes_logprobs()) Echo();
  }
  void OnPromptLogprobs(const PromptLogprobs& scores) override {
    if (!owner_.ended_) EchoScored(scores.tokens);
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
    Echo();
    logprobs_sum_ += token.logprob;
    Deliver(output_.Push(token));
    if (output_.stopped()) End(FinishReason::kStop);
  }
  void OnFinished(FinishReason reason, const DraftTokens& drafts) override {
    drafts_ = drafts;
    if (owner_.ended_) return;
    // One that samples nothing may end before it has begun.
    if (!owner_.begun_) owner_.OnChoiceStarted(*this, {});
    End(reason);
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
  size_t prompt_number() const { return number_ / owner_.prepared_.request.n_candidates(); }

  // Of a candidate: all of it, once it has ended, and how likely the model held its tokens.
  ChoiceDelta TakeHeld() { return std::move(held_); }
  double mean_logprob() const { return logprobs_sum_ / std::max(1U, output_.n_tokens()); }
  std::string finish_reason;

 private:
  std::optional<FinishReason> EndOfBegun(const StreamSpec& spec) const {
    if (spec.committed.empty()) return std::nullopt;
    const auto& stops = spec.stop_token_ids;
    const bool is_stop = std::find(stops.begin(), stops.end(), spec.committed.back()) != stops.end();
    if (is_stop || output_.stopped()) return FinishReason::kStop;
    if (spec.committed.size() >= spec.max_tokens) return FinishReason::kLength;
    return std::nullopt;
  }
  static void AddText(std::string text, ChoiceDelta& delta) {
    if (!text.empty()) delta.parts.push_back({AnswerPart::Kind::kContent, std::move(text), 0, {}});
  }
  void Deliver(const ChoiceDelta& delta) {
    if (!owner_.prepared_.ranks()) return owner_.sink_.OnDelta(number_, delta);
    held_.parts.insert(held_.parts.end(), delta.parts.begin(), delta.parts.end());
    held_.logprobs.insert(held_.logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
  }
  // The prompt in front of the output, if it is asked for, once.
  void Echo() {
    if (std::exchange(is_echoed_, true) || !owner_.prepared_.request.echo) return;
    if (owner_.prepared_.echoes_logprobs()) return EchoEnd();
    ChoiceDelta delta;
    AddText(prompt_.echo_text, delta);
    if (!delta.empty()) Deliver(delta);
  }
  // With logprobs it comes token by token; `scored` are the next ones.
  void EchoScored(const std::vector<ScoredToken>& scored) {
    ChoiceDelta delta;
    EchoFirst(delta);
    for (const ScoredToken& token : scored) {
      AddText(echo_decoder_.Push(token.token), delta);
      delta.logprobs.push_back({token.token, token.logprob, token.top});
    }
    Deliver(delta);
  }
  void EchoFirst(ChoiceDelta& delta) {
    if (std::exchange(has_echoed_first_, true)) return;
    const uint32_t first = prompt_.tokens->front();
    AddText(echo_decoder_.Push(first), delta);
    delta.logprobs.push_back({.token = first, .top = {}, .is_first = true});
  }
  void EchoEnd() {
    ChoiceDelta delta;
    EchoFirst(delta);  // of a prompt of one token
    AddText(echo_decoder_.Finish(), delta);
    if (!delta.empty()) Deliver(delta);
  }
  void End(FinishReason reason) {
    BreakOff();
    Echo();
    if (const ChoiceDelta rest = output_.Finish(reason); !rest.empty()) Deliver(rest);
    const PreparedRequest& prepared = owner_.prepared_;
    if (prepared.turns != nullptr) output_.RememberTurn(*prepared.turns, prepared.namespace_id);
    owner_.OnChoiceEnded(*this, reason);
  }

  Completion& owner_;
  const uint32_t number_;
  const PreparedPrompt& prompt_;
  ChoiceOutput output_;
  tokenizer::StreamDecoder echo_decoder_;
  bool is_echoed_ = false;
  bool has_echoed_first_ = false;
  ChoiceDelta held_;
  double logprobs_sum_ = 0.0;
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
      started_(prepared_.prompts.size()),
      n_ended_(prepared_.prompts.size(), 0),
      started_at_(clock.Now()) {}

Completion::~Completion() {
  if (recorder_ != nullptr && !ended_) recorder_->OnEnd("", choices_[0]->worker());
}

std::optional<ApiError> Completion::Start() {
  n_open_ = prepared_.n_candidates();
  for (uint32_t i = 0; i < std::min(n_open_, kStreamsMax); ++i) {
    if (const absl::Status status = StartNext(); !status.ok()) {
      choices_.clear();
      return FromStatus(status);
    }
  }
  return std::nullopt;
}

absl::Status Completion::StartNext() {
  const std::string& id = prepared_.request.begun != nullptr ? prepared_.request.begun->request_id : request_id_;
  const auto number = static_cast<uint32_t>(choices_.size());
  const uint32_t in_prompt = number % prepared_.request.n_candidates();
  const uint64_t seed = in_prompt == 0 ? seed_ : Mix(seed_ ^ Mix(in_prompt));
  choices_.push_back(std::make_unique<Choice>(*this, number, Mix(seed_ ^ Mix(std::hash<std::string>{}(id) + number))));
  RETURN_IF_ERROR(choices_.back()->Start(seed));
  if (paused_) choices_.back()->Pause();
  return absl::OkStatus();
}

void Completion::Pause() {
  paused_ = true;
  for (const auto& choice : choices_) choice->Pause();
}
void Completion::Resume() {
  paused_ = false;
  for (const auto& choice : choices_) choice->Resume();
}

bool Completion::begun_is_all() const { return !choices_.empty() && choices_[0]->begun_end().has_value(); }

void Completion::EndBegun() {
  if (ended_) return;
  OnChoiceStarted(*choices_[0], {});
  choices_[0]->EndBegun();
}

bool Completion::is_placed() const {
  return std::any_of(choices_.begin(), choices_.end(), [](const auto& choice) { return choice->worker().has_value(); });
}

void Completion::Interrupt(std::string_view finish_reason) {
  if (ended_ || choices_.size() != 1) return;
  choices_[0]->BreakOff();
  Finish(*choices_[0], finish_reason);
}

void Completion::OnChoiceStarted(const Choice& choice, const StreamStarted& started) {
  const auto n_cached = [](const StreamStarted& each) { return each.n_cached_local + each.n_cached_store; };
  StreamStarted& most = started_[choice.prompt_number()];
  if (most.n_prompt_tokens == 0 || n_cached(started) > n_cached(most)) most = started;
  if (!std::exchange(begun_, true)) sink_.OnBegun(PromptUsage());
}

void Completion::OnToken(const Choice& choice, const OutputToken& token) {
  if (recorder_ != nullptr && choice.number() == 0) recorder_->OnToken(token.token);
  metrics_.OutputTokens(1);
  ++n_output_tokens_;
  if (!std::exchange(has_token_, true)) metrics_.TimeToFirstToken(clock_.Now() - started_at_);
}

void Completion::OnChoiceEnded(Choice& choice, FinishReason reason) {
  const std::string_view name = choice.output().FinishReasonName(reason);
  if (recorder_ != nullptr && choice.number() == 0) {
    std::exchange(recorder_, nullptr)->OnEnd(name, choice.worker());
  }
  Finish(choice, name);
}

Usage Completion::PromptUsage() const {
  Usage usage;
  for (size_t i = 0; i < prepared_.prompts.size(); ++i) {
    const StreamStarted& started = started_[i];
    const auto n_tokens = static_cast<uint32_t>(prepared_.prompts[i].tokens->size());
    const uint32_t n_local = std::min(started.n_cached_local, n_tokens);
    const uint32_t n_store = std::min(started.n_cached_store, n_tokens - n_local);
    usage.n_prompt_tokens += n_tokens;
    usage.n_local_tokens += n_local;
    usage.n_store_tokens += n_store;
    if (usage.miss_reason.empty()) usage.miss_reason = started.miss_reason;
  }
  usage.n_cached_tokens = usage.n_local_tokens + usage.n_store_tokens;
  usage.is_reported = prepared_.request.cache_report;
  return usage;
}

void Completion::CountPrompts() const {
  for (size_t i = 0; i < prepared_.prompts.size(); ++i) {
    const StreamStarted& started = started_[i];
    const auto n_tokens = static_cast<uint32_t>(prepared_.prompts[i].tokens->size());
    const uint32_t n_local = std::min(started.n_cached_local, n_tokens);
    metrics_.PromptTokens(n_tokens, n_local, std::min(started.n_cached_store, n_tokens - n_local), started.miss_reason);
  }
}

void Completion::Finish(Choice& choice, std::string_view finish_reason) {
  if (prepared_.ranks()) {
    choice.finish_reason = std::string(finish_reason);
    if (++n_ended_[choice.prompt_number()] == prepared_.request.n_candidates()) RankCandidates(choice.prompt_number());
  } else {
    sink_.OnChoiceFinished(choice.number(), {finish_reason, choice.output().stopped_by()});
  }
  if (n_open_ > 1) {
    --n_open_;
    if (choices_.size() == prepared_.n_candidates()) return;
    if (const absl::Status status = StartNext(); !status.ok()) OnChoiceFailed(status);
    return;
  }
  CountPrompts();
  Usage usage = PromptUsage();
  for (const auto& each : choices_) {
    usage.n_completion_tokens += each->output().n_tokens();
    usage.n_reasoning_tokens += each->output().n_reasoning_tokens();
    usage.drafts.n_accepted += each->drafts().n_accepted;
    usage.drafts.n_rejected += each->drafts().n_rejected;
  }
  if (recorder_ != nullptr) std::exchange(recorder_, nullptr)->OnEnd("", choice.worker());
  ended_ = true;
  sink_.OnDone(usage);
}

void Completion::RankCandidates(size_t prompt_number) {
  const uint32_t n = prepared_.request.n_candidates();
  std::vector<Choice*> ranked;
  for (uint32_t i = 0; i < n; ++i) ranked.push_back(choices_[prompt_number * n + i].get());
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const Choice* a, const Choice* b) { return a->mean_logprob() > b->mean_logprob(); });
  for (uint32_t i = 0; i < n; ++i) {
    const ChoiceDelta all = ranked[i]->TakeHeld();  // those that are not returned go too
    if (i >= prepared_.request.n) continue;
    const auto index = static_cast<uint32_t>(prompt_number) * prepared_.request.n + i;
    sink_.OnDelta(index, all);
    sink_.OnChoiceFinished(index, {ranked[i]->finish_reason, ranked[i]->output().stopped_by()});
  }
}

void Completion::OnChoiceFailed(const absl::Status& status) {
  if (std::exchange(ended_, true)) return;
  if (recorder_ != nullptr) std::exchange(recorder_, nullptr)->OnEnd("", choices_[0]->worker());
  // The other choices must not report into an answer that has ended; this one is inside its own callback.
  for (const auto& choice : choices_) choice->Pause();
  sink_.OnError(FromStatus(status));
}

}  // namespace longshelf::router
