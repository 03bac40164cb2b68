#include "router/worker_client.h"

#include <grpcpp/create_channel.h>

#include <algorithm>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "longshelf/v1/worker.grpc.pb.h"
#include "proto/channel_settings.h"
#include "proto/credentials.h"
#include "proto/internal_auth.h"
#include "queue/pulse.h"
#include "stream_reader_client.h"

namespace longshelf::router {
namespace {

namespace asio = boost::asio;
using GenerateReader = StreamReader<v1::WorkerGenerateEvent>;
using WatchReader = StreamReader<v1::WatchEvent>;

std::chrono::system_clock::time_point DeadlineIn(absl::Duration timeout) {
  return std::chrono::system_clock::now() +
         std::chrono::duration_cast<std::chrono::system_clock::duration>(absl::ToChronoNanoseconds(timeout));
}

bool ToKey(const std::string& bytes, BlockKey& key) {
  if (bytes.size() != key.size()) return false;
  std::memcpy(key.data(), bytes.data(), key.size());
  return true;
}

void Fill(const grammar::OutputSpec& from, v1::OutputForm& to) {
  to.set_after_thinking(from.after_thinking);
  to.set_answer_schema(from.answer_schema);
  to.set_calls(from.calls == grammar::OutputSpec::Calls::kNone      ? v1::OutputForm::CALLS_NONE
               : from.calls == grammar::OutputSpec::Calls::kAllowed ? v1::OutputForm::CALLS_ALLOWED
                                                                    : v1::OutputForm::CALLS_REQUIRED);
  to.set_n_calls_max(from.n_calls_max);
  for (const grammar::OutputSpec::Tool& tool : from.tools) {
    v1::ToolForm& form = *to.add_tools();
    form.set_name(tool.name);
    form.set_parameters(tool.parameters);
  }
  to.set_given(from.given);
}

v1::WorkerGenerateRequest ToProto(const WorkerRequest& request) {
  v1::WorkerGenerateRequest out;
  out.set_request_id(request.request_id);
  out.set_epoch(request.epoch);
  out.mutable_prompt_tokens()->Add(request.prompt->begin(), request.prompt->end());
  out.mutable_committed_tokens()->Add(request.committed.begin(), request.committed.end());
  out.set_max_tokens(request.max_tokens);
  v1::SamplingParams& sampling = *out.mutable_sampling();
  sampling.set_temperature(request.sampling.temperature);
  sampling.set_top_p(request.sampling.top_p);
  sampling.set_top_k(request.sampling.top_k);
  sampling.set_min_p(request.sampling.min_p);
  sampling.set_seed(request.sampling.seed);
  sampling.set_presence_penalty(request.sampling.presence_penalty);
  sampling.set_frequency_penalty(request.sampling.frequency_penalty);
  sampling.set_logprobs(request.sampling.logprobs);
  sampling.set_n_top_logprobs(request.sampling.n_top_logprobs);
  for (const TokenBias& entry : request.sampling.logit_bias) {
    v1::TokenBias& bias = *sampling.add_logit_bias();
    bias.set_token(entry.token);
    bias.set_bias(entry.bias);
  }
  out.set_prompt_logprobs(request.prompt_logprobs);
  out.set_n_prompt_scored(request.n_prompt_scored);
  out.mutable_stop_token_ids()->Add(request.stop_token_ids.begin(), request.stop_token_ids.end());
  if (request.output_form != nullptr) Fill(*request.output_form, *out.mutable_output_form());
  out.set_tenant(request.tenant);
  out.set_tier(request.tier == ServiceTier::kFlex       ? v1::SERVICE_TIER_FLEX
               : request.tier == ServiceTier::kPriority ? v1::SERVICE_TIER_PRIORITY
                                                        : v1::SERVICE_TIER_UNSPECIFIED);
  out.set_namespace_id(request.namespace_id);
  out.set_namespace_salt(request.namespace_salt);
  return out;
}

v1::ParkRequest ToProto(const ParkOrder& order) {
  v1::ParkRequest out;
  out.mutable_tokens()->Add(order.tokens.begin(), order.tokens.end());
  out.set_namespace_id(order.namespace_id);
  out.set_namespace_salt(order.namespace_salt);
  out.set_retain_until_unix_ms(static_cast<uint64_t>(absl::ToUnixMillis(order.retain_until)));
  switch (order.terms.durability) {
    case Durability::kMemory:
      out.set_durability(v1::PARK_DURABILITY_MEMORY);
      break;
    case Durability::kDisk:
      out.set_durability(v1::PARK_DURABILITY_DISK);
      break;
    case Durability::kDiskAll:
      out.set_durability(v1::PARK_DURABILITY_DISK_ALL);
      break;
  }
  return out;
}

OutputToken FromProto(const v1::Token& token) {
  OutputToken out{token.index(), token.token(), token.logprob(), {}};
  for (const v1::TokenLogprob& top : token.top()) out.top.push_back({top.token(), top.logprob()});
  return out;
}

PromptLogprobs FromProto(const v1::PromptLogprobs& scores) {
  PromptLogprobs out{scores.first(), {}};
  out.tokens.reserve(static_cast<size_t>(scores.tokens_size()));
  for (const v1::ScoredToken& scored : scores.tokens()) {
    out.tokens.push_back({scored.token(), scored.logprob(), {}});
    for (const v1::TokenLogprob& top : scored.top()) out.tokens.back().top.push_back({top.token(), top.logprob()});
  }
  return out;
}

// An event of a kind this router does not know counts as progress.
WorkerEvent FromProto(const v1::WorkerGenerateEvent& event) {
  WorkerEvent out;
  out.epoch = event.epoch();
  switch (event.event_case()) {
    case v1::WorkerGenerateEvent::kStarted:
      out.body = StreamStarted{event.started().n_prompt_tokens(), event.started().n_cached_local(),
                               event.started().n_cached_store(), event.started().miss_reason()};
      break;
    case v1::WorkerGenerateEvent::kToken:
      out.body = FromProto(event.token());
      break;
    case v1::WorkerGenerateEvent::kPromptLogprobs:
      out.body = FromProto(event.prompt_logprobs());
      break;
    case v1::WorkerGenerateEvent::kFinished: {
      const auto reason = event.finished().reason();
      out.body = WorkerFinished{reason == v1::Finished::REASON_STOP     ? FinishReason::kStop
                                : reason == v1::Finished::REASON_LENGTH ? FinishReason::kLength
                                                                        : FinishReason::kCancelled,
                                {event.finished().n_drafts_accepted(), event.finished().n_drafts_rejected()}};
      break;
    }
    default:
      out.body = PrefillProgress{event.progress().n_done(), event.progress().n_total()};
      break;
  }
  return out;
}

WorkerUpdate FromProto(const v1::WatchEvent& event) {
  WorkerUpdate update;
  update.generation = event.generation();
  update.snapshot = event.snapshot();
  const v1::WorkerLoad& load = event.load();
  update.load.n_running = load.n_running();
  update.load.n_waiting = load.n_waiting();
  update.load.n_tokens_queued = load.n_tokens_queued();
  update.load.n_sequences_max = load.n_sequences_max();
  update.load.n_steps = load.n_steps();
  update.load.draining = load.draining();
  update.load.n_prefilling = load.n_prefilling();
  update.load.tokens_per_second = load.prefill_tokens_per_s();
  update.load.n_blocks_total = load.n_blocks_total();
  update.load.n_blocks_free = load.n_blocks_free() - std::min(load.n_blocks_free(), load.n_blocks_promised());
  update.gained.reserve(static_cast<size_t>(event.gained_size()));
  for (const v1::IndexedCheckpoint& gained : event.gained()) {
    IndexedCheckpoint checkpoint;
    checkpoint.depth_tokens = gained.depth_tokens();
    if (ToKey(gained.key(), checkpoint.key) && ToKey(gained.parent(), checkpoint.parent)) {
      update.gained.push_back(checkpoint);
    }
  }
  for (const std::string& bytes : event.lost()) {
    BlockKey key;
    if (ToKey(bytes, key)) update.lost.push_back(key);
  }
  return update;
}

// The last words of a group that has failed, told from everything else that is UNAVAILABLE.
absl::Status ToLinkStatus(const absl::Status& status) {
  const std::string message(status.message());
  if (!absl::IsUnavailable(status) || !message.starts_with(proto::kGroupFailed)) return status;
  return GroupFailure(message.substr(std::strlen(proto::kGroupFailed)));
}

// How long the end of a call may wait for the end of the watch, which says whether the worker is gone.
constexpr absl::Duration kWatchEndsWithin = absl::Milliseconds(250);

// Status, then Watch until it breaks, then again. The state lives on the loop.
class GrpcWorkerLink final : public WorkerLink {
 public:
  GrpcWorkerLink(const WorkerClientConfig& config, std::shared_ptr<grpc::Channel> channel, asio::io_context& loop)
      : config_(config),
        stub_(v1::Worker::NewStub(channel)),
        loop_(loop),
        retry_timer_(loop),
        ended_timer_(loop),
        pulse_timer_(loop),
        jitter_(std::random_device{}()),
        backoff_(config.backoff_min) {}

  ~GrpcWorkerLink() override {
    *alive_ = false;
    if (status_call_) status_call_->context.TryCancel();
    for (const auto& weak : questions_) {
      if (const auto call = weak.lock()) call->context.TryCancel();
    }
    for (const auto& weak : park_calls_) {
      if (const auto call = weak.lock()) call->context.TryCancel();
    }
    if (watch_) watch_->Detach();
  }

  void Start(size_t worker, WorkerLinkObserver& observer) override {
    worker_ = worker;
    observer_ = &observer;
    AskStatus();
  }

  std::unique_ptr<WorkerCall> Generate(const WorkerRequest& request, WorkerCallObserver& observer) override {
    const v1::WorkerGenerateRequest message = ToProto(request);
    auto call = std::make_unique<Call>(*this, observer);
    GenerateReader::Callbacks callbacks{
        [this, &observer](const v1::WorkerGenerateEvent& event) {
          pulse_.OnSign();
          observer.OnEvent(FromProto(event));
        },
        [this, raw = call.get()](const absl::Status& status) { EndCall(*raw, ToLinkStatus(status)); }};
    call->reader =
        GenerateReader::Begin(loop_, std::move(callbacks), [&](grpc::ClientContext& context, GenerateReader* reactor) {
          Prepare(context, config_.call_timeout);
          stub_->async()->Generate(&context, &message, reactor);
        });
    open_calls_.insert(call.get());
    return call;
  }

  void Park(const ParkOrder& order, std::function<void(absl::StatusOr<ParkedState>)> done) override {
    auto call = std::make_shared<ParkCall>(loop_);
    std::erase_if(park_calls_, [](const auto& weak) { return weak.expired(); });
    park_calls_.push_back(call);
    call->request = ToProto(order);
    Prepare(call->context, config_.park_timeout);
    stub_->async()->Park(
        &call->context, &call->request, &call->reply,
        [call, alive = alive_, &loop = loop_, done = std::move(done)](const grpc::Status& status) {
          asio::post(loop, [call, alive, done, status = proto::FromGrpc(status)] {
            if (!*alive) return;
            if (!status.ok()) return done(status);
            const v1::ParkReply& reply = call->reply;
            done(ParkedState{reply.n_tokens(), reply.n_objects(), reply.n_bytes(), reply.checkpoint_key()});
          });
        });
  }

 private:
  struct Call final : WorkerCall {
    Call(GrpcWorkerLink& owner, WorkerCallObserver& call_observer) : link(owner), observer(call_observer) {}
    ~Call() override {
      reader->Detach();
      link.ended_calls_.erase(this);
      link.open_calls_.erase(this);
    }
    void RequestNext() override { reader->RequestNext(); }

    GrpcWorkerLink& link;
    WorkerCallObserver& observer;
    std::shared_ptr<GenerateReader> reader;
  };
  struct ParkCall {
    explicit ParkCall(asio::io_context& loop) : work(loop.get_executor()) {}
    asio::executor_work_guard<asio::io_context::executor_type> work;
    grpc::ClientContext context;
    v1::ParkRequest request;
    v1::ParkReply reply;
  };
  struct StatusCall {
    explicit StatusCall(asio::io_context& loop) : work(loop.get_executor()) {}
    asio::executor_work_guard<asio::io_context::executor_type> work;
    grpc::ClientContext context;
    v1::WorkerStatusRequest request;
    v1::WorkerStatusReply reply;
  };

  // A worker that is gone ends its calls and its watch in any order; the watch has to be heard first.
  void EndCall(Call& call, const absl::Status& status) {
    open_calls_.erase(&call);
    if (!up_ || !absl::IsUnavailable(status) || IsGroupFailure(status)) return call.observer.OnClosed(status);
    if (ended_calls_.empty()) {
      ended_timer_.expires_after(absl::ToChronoNanoseconds(kWatchEndsWithin));
      ended_timer_.async_wait([this, alive = alive_](boost::system::error_code error) {
        if (!error && *alive) ReportEndedCalls();
      });
    }
    ended_calls_[&call] = status;
  }

  // An observer may drop any of them.
  void ReportEndedCalls() {
    ended_timer_.cancel();
    while (!ended_calls_.empty()) {
      const auto [call, status] = *ended_calls_.begin();
      ended_calls_.erase(ended_calls_.begin());
      call->observer.OnClosed(status);
    }
  }

  void Prepare(grpc::ClientContext& context, absl::Duration timeout) const {
    context.set_deadline(DeadlineIn(timeout));
    proto::AddToken(context, config_.token);
  }

  void AskStatus() {
    auto call = std::make_shared<StatusCall>(loop_);
    status_call_ = call;
    Prepare(call->context, config_.status_timeout);
    stub_->async()->Status(&call->context, &call->request, &call->reply,
                           [this, call, alive = alive_, &loop = loop_](const grpc::Status& status) {
                             asio::post(loop, [this, call, alive, status = proto::FromGrpc(status)] {
                               if (*alive) OnStatus(*call, status);
                             });
                           });
  }

  void OnStatus(const StatusCall& call, const absl::Status& status) {
    status_call_ = nullptr;
    if (!status.ok()) return RetryLater(status);
    const v1::WorkerStatusReply& reply = call.reply;
    if (!reply.ready()) return RetryLater(absl::UnavailableError("the worker is loading"));
    WorkerInfo info{reply.worker_id(),
                    reply.model_name(),
                    {},
                    reply.vocab_size(),
                    reply.block_tokens(),
                    reply.n_context_max(),
                    reply.generation(),
                    {reply.shard_pids().begin(), reply.shard_pids().end()}};
    if (!ToKey(reply.fingerprint(), info.fingerprint)) {
      return RetryLater(absl::FailedPreconditionError("the worker's fingerprint is not 32 bytes"));
    }
    generation_ = info.generation;
    if (!observer_->OnWorkerUp(worker_, info)) {
      backoff_ = config_.backoff_max;
      return RetryLater(absl::FailedPreconditionError("refused"));
    }
    up_ = true;
    pulse_.OnSign();
    AwaitBeat();
    Watch();
  }

  void AwaitBeat() {
    pulse_timer_.expires_after(std::chrono::milliseconds(internal::Pulse::kBeatMs));
    pulse_timer_.async_wait([this, alive = alive_](boost::system::error_code error) {
      if (!error && *alive && up_) OnBeat();
    });
  }

  void OnBeat() {
    switch (pulse_.OnBeat()) {
      case internal::Pulse::Verdict::kAlive:
        break;
      case internal::Pulse::Verdict::kAsk:
        AskWhetherItLives();
        break;
      case internal::Pulse::Verdict::kGone:
        return LeaveSilent();
    }
    AwaitBeat();
  }

  void AskWhetherItLives() {
    auto call = std::make_shared<StatusCall>(loop_);
    std::erase_if(questions_, [](const auto& weak) { return weak.expired(); });
    questions_.push_back(call);
    Prepare(call->context, config_.status_timeout);
    stub_->async()->Status(&call->context, &call->request, &call->reply,
                           [this, call, alive = alive_, &loop = loop_](const grpc::Status& status) {
                             asio::post(loop, [this, call, alive, ok = status.ok()] {
                               if (*alive && ok) pulse_.OnSign();
                             });
                           });
  }

  // Its connection may stand for long yet, so its calls would not end by themselves.
  void LeaveSilent() {
    const absl::Status why = absl::UnavailableError("the worker does not answer");
    RetryLater(why);
    while (!open_calls_.empty()) {
      Call* call = *open_calls_.begin();
      open_calls_.erase(open_calls_.begin());
      call->observer.OnClosed(why);
    }
  }

  void Watch() {
    WatchReader::Callbacks callbacks{[this](const v1::WatchEvent& event) { OnWatchEvent(event); },
                                     [this](const absl::Status& status) { RetryLater(ToLinkStatus(status)); }};
    const v1::WatchRequest request;
    watch_ = WatchReader::Begin(loop_, std::move(callbacks), [&](grpc::ClientContext& context, WatchReader* reactor) {
      Prepare(context, config_.call_timeout);
      stub_->async()->Watch(&context, &request, reactor);
    });
    watch_->RequestNext();
  }

  void OnWatchEvent(const v1::WatchEvent& event) {
    if (event.generation() != generation_) return RetryLater(absl::AbortedError("the worker's engine restarted"));
    backoff_ = config_.backoff_min;
    pulse_.OnSign();
    observer_->OnWorkerUpdate(worker_, FromProto(event));
    if (watch_) watch_->RequestNext();
  }

  void RetryLater(const absl::Status& why) {
    pulse_timer_.cancel();
    if (watch_) std::exchange(watch_, nullptr)->Detach();
    if (std::exchange(up_, false)) observer_->OnWorkerDown(worker_, why);
    ReportEndedCalls();
    std::uniform_real_distribution<double> jitter(0.8, 1.2);
    retry_timer_.expires_after(absl::ToChronoNanoseconds(backoff_ * jitter(jitter_)));
    backoff_ = std::min(backoff_ * 2, config_.backoff_max);
    retry_timer_.async_wait([this, alive = alive_](boost::system::error_code error) {
      if (!error && *alive) AskStatus();
    });
  }

  const WorkerClientConfig config_;
  std::unique_ptr<v1::Worker::Stub> stub_;
  asio::io_context& loop_;
  asio::steady_timer retry_timer_;
  asio::steady_timer ended_timer_;
  asio::steady_timer pulse_timer_;
  internal::Pulse pulse_;
  std::mt19937_64 jitter_;
  absl::Duration backoff_;
  size_t worker_ = 0;
  WorkerLinkObserver* observer_ = nullptr;
  std::shared_ptr<StatusCall> status_call_;
  std::vector<std::weak_ptr<StatusCall>> questions_;  // whether it lives
  std::vector<std::weak_ptr<ParkCall>> park_calls_;
  std::set<Call*> open_calls_;
  std::shared_ptr<WatchReader> watch_;
  uint64_t generation_ = 0;
  bool up_ = false;
  std::map<Call*, absl::Status> ended_calls_;  // not reported yet
  // Read on the loop only, by what was posted there before this was destroyed.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace

std::unique_ptr<WorkerLink> MakeWorkerClient(const WorkerClientConfig& config, std::shared_ptr<grpc::Channel> channel,
                                             asio::io_context& loop) {
  return std::make_unique<GrpcWorkerLink>(config, std::move(channel), loop);
}

std::unique_ptr<WorkerLink> MakeWorkerClient(const WorkerClientConfig& config, const std::string& address,
                                             asio::io_context& loop) {
  grpc::ChannelArguments args = proto::InternalChannelArguments(proto::kWorkerKeepalive);
  // The channel's own reconnect pauses must not be longer than ours.
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, static_cast<int>(absl::ToInt64Milliseconds(config.backoff_min)));
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, static_cast<int>(absl::ToInt64Milliseconds(config.backoff_min)));
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, static_cast<int>(absl::ToInt64Milliseconds(config.backoff_max)));
  const auto credentials = proto::ChannelCredentials(config.tls, net::Role::kWorker);
  return MakeWorkerClient(config, grpc::CreateCustomChannel(address, credentials, args), loop);
}

}  // namespace longshelf::router
