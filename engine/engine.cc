#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "block_exports.h"
#include "common/check.h"
#include "common/status.h"
#include "engine/kv_copy.h"
#include "prefix_cache.h"
#include "request_check.h"
#include "scheduler.h"
#include "step_builder.h"
#include "step_committer.h"

namespace longshelf::engine {
namespace {

constexpr size_t kPeriodicCheckpointsKept = 4;

// Only bounds a wait that a message or Close() ends at once.
constexpr std::chrono::milliseconds kIdleWait = std::chrono::hours(1);

bool FitsPlan(const StepResult& result, const StepPlan& plan) {
  if (result.rows.size() != plan.rows.size()) return false;
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    const StepPlan::Row& row = plan.rows[i];
    const size_t n_sampled = result.rows[i].sampled.size();
    const bool failed = std::any_of(result.failures.begin(), result.failures.end(),
                                    [&](const SlotFailure& failure) { return failure.slot == row.slot; });
    if (!failed && result.rows[i].scored.size() != row.targets.size()) return false;
    if (!failed && (row.sample ? n_sampled < 1 || n_sampled > row.n_drafts + 1 : n_sampled > 0)) return false;
  }
  return true;
}

}  // namespace

// Owner thread: the one that calls Run().
struct Engine::Impl {
  const EngineConfig config;
  StepRunner& runner;
  const PrefixHasher& hasher;
  const Clock& clock;
  Mailbox<EngineMessage>& inbox;
  EngineObserver& observer;
  const GroupShape shape;

  const std::shared_ptr<KvCopyLedger> copies = std::make_shared<KvCopyLedger>();
  PrefixCache cache;
  Scheduler scheduler;
  DraftPolicy drafts;
  StepBuilder builder;
  StepCommitter committer;
  BlockExports exports;
  StepPacer pacer;
  std::vector<EngineMessage> postponed;  // ask for what is leaving; answered after the next step
  uint64_t n_steps = 0;
  bool draining = false;

  Impl(const EngineConfig& engine_config, StepRunner& step_runner, const PrefixHasher& prefix_hasher,
       const Clock& engine_clock, Mailbox<EngineMessage>& engine_inbox, EngineObserver& engine_observer)
      : config(engine_config),
        runner(step_runner),
        hasher(prefix_hasher),
        clock(engine_clock),
        inbox(engine_inbox),
        observer(engine_observer),
        shape(step_runner.shape()),
        cache(std::max(shape.n_shards, 1), shape.n_blocks_per_shard, config.checkpoint_memory_bytes),
        scheduler(config, shape, cache),
        builder(config, shape, scheduler, cache, *copies),
        committer(config, scheduler, cache, drafts, observer),
        exports(cache, *copies, shape.block_bytes),
        pacer(config.step_time_budget) {
    copies->OnDropped([this] { inbox.Post(Wake{}); });  // a full inbox turns the loop anyway
  }
  ~Impl() { copies->OnDropped(nullptr); }

  bool HasWork() const {
    return !scheduler.running().empty() || !scheduler.waiting().empty() || !scheduler.leaving().empty() ||
           !exports.idle() || copies->has_dropped();
  }

  void Handle(Submit message);
  void Handle(Cancel message);
  void Handle(FindPrefix message);
  void Handle(FindCheckpoint message);
  void Handle(ExportBlocks message) { exports.Start(std::move(message)); }
  void Handle(Wake) {}
  void Handle(DrainRequest message);

  absl::Status Refusal(const SequenceRequest& request) const;
  std::unique_ptr<Sequence> MakeSequence(SequenceRequest request) const;
  // Set when the committed tokens already end the sequence.
  std::optional<FinishReason> AlreadyEnded(const SequenceRequest& request) const;

  absl::Status Loop();
  // False: nothing can go on before a message comes.
  absl::StatusOr<bool> Step();
  absl::StatusOr<StepResult> RunPlan(StepPlan& plan);
  void Finish(const EndedSequence& end);
  void DropPeriodicCheckpoints(Sequence& sequence);
  // What is asked of the cache sees all that has ended before.
  bool MustWait(const EngineMessage& message) const;
  void HandleAll(std::vector<EngineMessage> messages);
  void Report();
  void EndAll(const absl::Status& status);
};

absl::Status Engine::Impl::Refusal(const SequenceRequest& request) const {
  if (draining) return absl::UnavailableError("this worker is draining; try another one");
  RETURN_IF_ERROR(CheckRequest(request, config, shape));
  if (scheduler.Knows(request.id)) {
    return absl::InvalidArgumentError(absl::StrCat("id ", request.id, " is in use; ids are unique"));
  }
  if (scheduler.is_queue_full()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the waiting queue is full (", config.n_waiting_max, " requests); try again later"));
  }
  return absl::OkStatus();
}

std::optional<FinishReason> Engine::Impl::AlreadyEnded(const SequenceRequest& request) const {
  if (request.wants_prompt_scores()) return std::nullopt;
  if (!request.committed.empty()) {
    const uint32_t last = request.committed.back();
    const auto& stops = request.stop_token_ids;
    const bool is_stop = last == config.eos_token_id || std::find(stops.begin(), stops.end(), last) != stops.end();
    if (is_stop) return FinishReason::kStop;
  }
  const uint64_t n_tokens = request.prompt.size() + request.committed.size();
  if (request.committed.size() >= request.max_tokens || n_tokens >= static_cast<uint64_t>(config.n_context_max)) {
    return FinishReason::kLength;
  }
  return std::nullopt;
}

std::unique_ptr<Sequence> Engine::Impl::MakeSequence(SequenceRequest request) const {
  auto sequence = std::make_unique<Sequence>(PrefixChain(hasher, request.namespace_salt));
  sequence->id = request.id;
  sequence->sampling = request.sampling;
  sequence->stop_token_ids = std::move(request.stop_token_ids);
  sequence->output_spec = std::move(request.output_spec);
  sequence->end_token_ids = std::move(request.end_token_ids);
  sequence->end_token_ids.push_back(config.eos_token_id);
  sequence->tenant = std::move(request.tenant);
  sequence->tier = request.tier;
  sequence->namespace_id = std::move(request.namespace_id);
  sequence->return_logits = request.return_logits;
  sequence->no_cache_read = request.no_cache_read;
  sequence->store_miss_reason = std::move(request.store_miss_reason);
  sequence->sink = std::move(request.sink);
  sequence->n_prompt = static_cast<int64_t>(request.prompt.size());
  sequence->n_given = sequence->n_prompt + static_cast<int64_t>(request.committed.size());
  sequence->samples = request.max_tokens > 0;
  sequence->n_tokens_max =
      std::min(sequence->n_prompt + std::max<int64_t>(1, request.max_tokens), config.n_context_max);
  const bool is_scoring = request.wants_prompt_scores();
  sequence->n_scored = is_scoring ? std::max<int64_t>(1, request.n_prompt_scored) : sequence->n_prompt;
  sequence->tokens = std::move(request.prompt);
  sequence->tokens.insert(sequence->tokens.end(), request.committed.begin(), request.committed.end());
  sequence->chain.Adopt(std::move(request.prefix_keys), sequence->n_given);
  sequence->chain.Extend(sequence->tokens, sequence->n_given);
  sequence->n_shared_elsewhere =
      std::min(request.n_shared_elsewhere, sequence->n_given - 1) / kBlockTokens * kBlockTokens;
  if (request.feed != nullptr && !request.no_cache_read && !is_scoring) sequence->feed = std::move(request.feed);
  return sequence;
}

void Engine::Impl::Handle(Submit message) {
  SequenceRequest& request = message.request;
  if (request.sink == nullptr) return;  // nobody to answer to
  if (absl::Status refusal = Refusal(request); !refusal.ok()) {
    request.sink->OnEvent(Failed{refusal});
    return;
  }
  if (const auto reason = AlreadyEnded(request); reason.has_value()) {
    request.sink->OnEvent(Finished{*reason, static_cast<uint32_t>(request.committed.size())});
    return;
  }
  scheduler.Enqueue(MakeSequence(std::move(request)));
}

void Engine::Impl::Handle(Cancel message) {
  if (!scheduler.Knows(message.id)) return;  // ended already
  const std::unique_ptr<Sequence> sequence = scheduler.Remove(message.id);
  sequence->Emit(Finished{FinishReason::kCancelled, sequence->n_output()});
}

void Engine::Impl::Handle(FindPrefix message) {
  const auto n_tokens = static_cast<int64_t>(message.tokens.size());
  PrefixChain chain(hasher, message.namespace_salt);
  chain.Adopt(std::move(message.prefix_keys), n_tokens);
  chain.Extend(message.tokens, n_tokens);
  int shard = 0;
  const PrefixMatch match = cache.MatchAnywhere(chain, message.tokens, n_tokens, shard);
  if (match.checkpoint == nullptr) {
    message.reply(absl::NotFoundError("no position of these tokens can be resumed here"));
    return;
  }
  const Checkpoint& from = *match.checkpoint;
  cache.TouchCheckpoint(from.key);
  const auto n_blocks = static_cast<std::ptrdiff_t>(from.n_tokens / kBlockTokens);
  message.reply(FoundPrefix{.at = {from.key, from.parent, from.n_tokens},
                            .root = chain.root(),
                            .blocks = {chain.keys().begin(), chain.keys().begin() + n_blocks},
                            .state = from.state,
                            .tail = from.tail});
}

void Engine::Impl::Handle(FindCheckpoint message) {
  const std::shared_ptr<const Checkpoint> found = cache.FindCheckpoint(message.key);
  if (found == nullptr) return message.reply(absl::NotFoundError("the checkpoint is not held any more"));
  message.reply(FoundPrefix{.at = {found->key, found->parent, found->n_tokens},
                            .root = {},
                            .blocks = {},
                            .state = found->state,
                            .tail = found->tail});
}

void Engine::Impl::Handle(DrainRequest) {
  draining = true;
  std::vector<uint64_t> sent_away;
  for (const auto& sequence : scheduler.waiting()) {
    if (!sequence->started) sent_away.push_back(sequence->id);  // a preempted one is a running one to its client
  }
  for (const uint64_t id : sent_away) {
    scheduler.Remove(id)->Emit(Failed{absl::UnavailableError("this worker is draining; try another one")});
  }
}

void Engine::Impl::Report() {
  PrefixCache::Changes changes = cache.TakeChanges();
  if (!changes.gained.empty() || !changes.lost.empty()) {
    observer.OnCheckpointsChanged(std::move(changes.gained), std::move(changes.lost));
  }
  Load load = scheduler.CurrentLoad();
  load.n_steps = n_steps;
  load.drafts_of_lookup = drafts.counts(DraftSource::kLookup);
  load.prefill = {pacer.SecondsPerCost(), shape.position_cost};
  load.drafts_of_model = drafts.counts(DraftSource::kModel);
  load.draining = draining;
  observer.OnLoad(load);
}

absl::StatusOr<StepResult> Engine::Impl::RunPlan(StepPlan& plan) {
  plan.seq = ++n_steps;
  absl::StatusOr<StepResult> result = runner.Run(plan);
  if (!result.ok()) return result;
  if (!FitsPlan(*result, plan)) return absl::InternalError("a step result does not fit its plan");
  return result;
}

absl::StatusOr<bool> Engine::Impl::Step() {
  StepWork work;
  scheduler.MakeRoom();
  scheduler.Admit(work.plan);
  builder.Fill(work, pacer, drafts);
  exports.AddExports(work);
  work.plan.drop_copies = copies->TakeDropped();
  std::vector<EndedSequence> ended;
  const bool has_moved = !work.empty() || work.has_ended_restore || !scheduler.leaving().empty();
  if (!work.empty()) {
    const absl::Time start = clock.Now();
    ASSIGN_OR_RETURN(StepResult result, RunPlan(work.plan));
    const absl::Duration took = clock.Now() - start;
    if (work.has_prefill) {
      pacer.Observe(work.cost, took);
    } else {
      drafts.ObserveDecode(static_cast<size_t>(work.n_tokens), took);
    }
    ended = committer.Commit(work, result);
    exports.Commit();
  }
  scheduler.ReleaseLeaving();
  for (const EndedSequence& end : ended) Finish(end);
  if (config.self_check) scheduler.CheckInvariants();
  Report();
  return has_moved;
}

// Positions inside a finished turn are rarely gone back to: the last few stay, and those that somebody has used.
void Engine::Impl::DropPeriodicCheckpoints(Sequence& sequence) {
  std::vector<PrefixKey>& keys = sequence.periodic_checkpoints;
  if (keys.size() <= kPeriodicCheckpointsKept) return;
  keys.resize(keys.size() - kPeriodicCheckpointsKept);
  std::vector<PrefixKey> dropped = cache.DropUnused(keys);
  keys.clear();
  if (config.export_cache_objects && !dropped.empty()) {
    observer.OnCheckpointsDropped(ChainOf(sequence), std::move(dropped));
  }
}

void Engine::Impl::Finish(const EndedSequence& end) {
  Sequence& sequence = *scheduler.Find(end.id);
  DropPeriodicCheckpoints(sequence);
  const Finished finished{end.reason, sequence.n_output(), sequence.n_drafts_accepted, sequence.n_drafts_rejected};
  if (builder.LeavesCheckpoint(sequence)) {
    const std::shared_ptr<EventSink> sink = sequence.sink;
    scheduler.Retire(end.id);
    sink->OnEvent(finished);
  } else {
    scheduler.Remove(end.id)->Emit(finished);
  }
}

bool Engine::Impl::MustWait(const EngineMessage& message) const {
  if (scheduler.leaving().empty()) return false;
  return std::holds_alternative<FindPrefix>(message);
}

void Engine::Impl::HandleAll(std::vector<EngineMessage> messages) {
  for (EngineMessage& message : messages) {
    if (MustWait(message)) {
      postponed.push_back(std::move(message));
    } else {
      std::visit([this](auto& m) { Handle(std::move(m)); }, message);
    }
  }
}

absl::Status Engine::Impl::Loop() {
  Report();
  bool is_stuck = false;  // what runs waits for what comes from elsewhere
  while (true) {
    const bool goes_on = HasWork() && !is_stuck;
    std::vector<EngineMessage> messages = inbox.Drain(goes_on ? std::chrono::milliseconds(0) : kIdleWait);
    const bool had_messages = !messages.empty();
    HandleAll(std::move(messages));
    if (!had_messages && inbox.closed()) return absl::OkStatus();
    if (HasWork()) {
      ASSIGN_OR_RETURN(const bool has_moved, Step());
      is_stuck = !has_moved;
      for (EngineMessage& message : std::exchange(postponed, {})) {
        std::visit([this](auto& m) { Handle(std::move(m)); }, message);
      }
    } else {
      is_stuck = false;
      if (had_messages) Report();
    }
  }
}

// The engine is over: nothing that was asked stays unanswered. OK: the inbox was closed.
void Engine::Impl::EndAll(const absl::Status& status) {
  const auto gone = absl::UnavailableError(status.ok() ? "the engine has stopped"
                                                       : absl::StrCat("the engine has failed: ", status.message()));
  for (const uint64_t id : scheduler.AllIds()) {
    const std::unique_ptr<Sequence> sequence = scheduler.Remove(id);
    if (status.ok()) {
      sequence->Emit(Finished{FinishReason::kCancelled, sequence->n_output()});
    } else {
      sequence->Emit(Failed{gone});
    }
  }
  exports.FailAll(gone);
  inbox.Close();
  std::vector<EngineMessage> unanswered = std::exchange(postponed, {});
  for (EngineMessage& message : inbox.Drain(std::chrono::milliseconds(0))) unanswered.push_back(std::move(message));
  for (EngineMessage& message : unanswered) {
    if (auto* submit = std::get_if<Submit>(&message); submit != nullptr && submit->request.sink != nullptr) {
      submit->request.sink->OnEvent(Failed{gone});
    } else if (auto* wanted = std::get_if<FindPrefix>(&message)) {
      wanted->reply(gone);
    } else if (auto* named = std::get_if<FindCheckpoint>(&message)) {
      named->reply(gone);
    } else if (auto* wanted_copies = std::get_if<ExportBlocks>(&message)) {
      wanted_copies->sink->OnEnd(gone);
    }
  }
  Report();
}

Engine::Engine(const EngineConfig& config, StepRunner& runner, const PrefixHasher& hasher, const Clock& clock,
               Mailbox<EngineMessage>& inbox, EngineObserver& observer)
    : impl_(std::make_unique<Impl>(config, runner, hasher, clock, inbox, observer)) {}

Engine::~Engine() = default;

std::shared_ptr<KvCopyLedger> Engine::copies() const { return impl_->copies; }

absl::Status Engine::Run() {
  absl::Status status = CheckEngineConfig(impl_->config, impl_->shape);
  if (status.ok()) status = impl_->Loop();
  impl_->EndAll(status);
  if (status.ok()) {
    StepPlan plan;
    plan.opcode = StepPlan::Opcode::kShutdown;
    status = impl_->RunPlan(plan).status();
  }
  return status;
}

}  // namespace longshelf::engine
