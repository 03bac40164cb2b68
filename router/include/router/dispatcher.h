#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "router/metrics.h"
#include "router/pick.h"
#include "router/prefix_index.h"
#include "router/suspicion.h"
#include "router/worker_link.h"

// The router's middle: which worker gets a stream, and what happens to the stream when that worker is lost.
namespace longshelf::router {

// One sequence to generate.
struct StreamSpec {
  std::string request_id;
  std::shared_ptr<const std::vector<uint32_t>> prompt;
  PromptKeys keys;                       // may be of another fingerprint, or empty: recomputed when needed
  std::vector<uint32_t> committed = {};  // output that was made before; fewer than max_tokens, or none
  // Fingerprint of the model that made `committed`, when the stream was begun elsewhere: no other may go on with it.
  std::optional<BlockKey> begun_by = {};
  uint32_t max_tokens = 0;  // counts committed; 0: nothing is sampled
  Sampling sampling;
  std::vector<uint32_t> stop_token_ids;
  bool prompt_logprobs = false;  // tell how likely each prompt token but the first is; before any output
  std::shared_ptr<const grammar::OutputSpec> output_form = nullptr;  // null: any output
  std::string tenant;
  ServiceTier tier = ServiceTier::kDefault;
  std::string namespace_id;
  std::string namespace_salt;
  std::string affinity =
      {};  // streams that say the same go to the same worker, of several that are as good; may be empty
};

// What one tenant may have here at once; 0: as much as there is.
struct TenantLimits {
  uint32_t n_streams_max = 0;        // waiting and running
  uint64_t n_tokens_queued_max = 0;  // of those that wait: prompts, and output as far as it is expected
};

// Makes the keys of a prompt, which takes long for a long one, somewhere else than on the loop.
class KeyMaker {
 public:
  struct Order {
    BlockKey fingerprint{};
    std::string namespace_salt;
    uint32_t block_tokens = 0;
    std::shared_ptr<const std::vector<uint32_t>> prompt;
    PromptKeys Make() const { return MakePromptKeys(fingerprint, namespace_salt, block_tokens, *prompt); }
  };
  virtual ~KeyMaker() = default;
  // `done` is called once, on the loop, never from inside this. False: not now, and it is not called.
  virtual bool Make(Order order, std::function<void(PromptKeys)> done) = 0;
};

// Hears of one stream, on the router loop. May destroy the Stream inside any of these. Tokens come in order, each index
// exactly once, whatever happened to the workers behind it.
class StreamObserver {
 public:
  virtual ~StreamObserver() = default;
  virtual void OnStarted(const StreamStarted& started) = 0;  // again after a retry, never after the first token
  // The prompt is being read, or after a move to another worker the prompt and the tokens so far.
  virtual void OnProgress(const PrefillProgress& progress) = 0;
  // Only when they were asked for: in order, each prompt token once.
  virtual void OnPromptLogprobs(const PromptLogprobs& /*scores*/) {}
  virtual void OnToken(const OutputToken& token) = 0;
  virtual void OnFinished(FinishReason reason, const DraftTokens& drafts) = 0;
  virtual void OnFailed(const absl::Status& status) = 0;
};

struct DispatcherConfig {
  size_t queue_capacity = 1024;  // streams that no worker can take now; one more is refused at once
  // A new stream fails after this when no worker is up, or none takes it that was asked. One that waits for its turn
  // at workers that are merely busy waits on.
  absl::Duration queue_timeout = absl::Seconds(10);
  // A new stream that would wait longer for its turn is refused at once. But it may wait for as long as streams take
  // here once they have a worker: as many may wait as run. And one whose own prompt takes longer to read than wait_max
  // is known to be slow by whoever sends it: it may wait for kPatience times that.
  absl::Duration wait_max = absl::Seconds(1);
  static constexpr double kPatience = 16;
  absl::Duration resume_timeout = absl::Seconds(30);  // a begun stream without a worker fails after this
  // A worker is left that says nothing on a stream and finishes no engine step for this long. While it steps, a stream
  // may wait there for hours: others are read before it.
  absl::Duration stall_timeout = absl::Minutes(10);
  // A stream that may have killed its worker waits so long for one without another such stream; see suspicion.h.
  absl::Duration suspect_wait = absl::Seconds(5);
  uint32_t n_retries_max = 3;  // per stream, before its first token
  uint32_t n_resumes_max = 8;  // per stream, after it
  // Retries in flight are at most this share of the streams in flight, but at least n_retries_free.
  double retry_budget_ratio = 0.2;
  uint32_t n_retries_free = 10;
};

class Dispatcher;
namespace internal {
class Backlog;
class DrainRate;
class StreamState;
struct WorkerState;
}  // namespace internal

// Owner's handle; destroying it cancels the stream at once.
class Stream {
 public:
  explicit Stream(std::shared_ptr<internal::StreamState> state) : state_(std::move(state)) {}
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  // No more events are asked of the worker until Resume().
  void Pause();
  void Resume();
  // Which worker has it, or had it last; none: it has not been placed yet.
  std::optional<size_t> worker() const;

 private:
  std::shared_ptr<internal::StreamState> state_;
};

// Streams are bound late: a worker is given what it can begin soon (queue/room.h), and what it cannot waits here, fair
// between tenants (queue/backlog.h), until any worker can. Who would wait too long is refused at once.
// Owner: the router loop. It must outlive every Stream, and `links` every call made through it.
class Dispatcher final : public WorkerLinkObserver {
 public:
  Dispatcher(const DispatcherConfig& config, Clock& clock, RouterMetrics& metrics,
             std::vector<std::unique_ptr<WorkerLink>> links);
  ~Dispatcher() override;

  // Both before the first stream. Without a maker keys are made on the loop; it must outlive this.
  void set_key_maker(KeyMaker* maker) { key_maker_ = maker; }
  void set_tenant_limits(std::function<TenantLimits(const std::string& tenant)> limits_of) {
    limits_of_ = std::move(limits_of);
  }
  // Begins connecting to the workers.
  void Start();
  // Leaves the workers for good: their calls are cancelled and report nothing more, and none is up any more.
  void Stop();
  // RESOURCE_EXHAUSTED: it would wait too long, the waiting line is full, or its tenant has too much here; see
  // api_error.h. `observer` must outlive the Stream.
  absl::StatusOr<std::unique_ptr<Stream>> Generate(StreamSpec spec, StreamObserver& observer);
  // Asks a worker to park; `done` comes later, on the loop. UNAVAILABLE: it is not up.
  void Park(size_t worker, const ParkOrder& order, std::function<void(absl::StatusOr<ParkedState>)> done);
  // Deadlines; call at least every 100 ms.
  void Tick();

  // The model being served: what the first worker said. Empty until one was seen.
  const std::optional<WorkerInfo>& model() const { return model_; }
  size_t n_ready() const;
  size_t n_streams() const { return n_streams_; }
  size_t n_queued() const { return queued_.size(); }
  // How often a waiting stream was tried on the workers: what the queue costs.
  uint64_t n_tries() const { return n_tries_; }

  bool OnWorkerUp(size_t worker, const WorkerInfo& info) override;
  void OnWorkerUpdate(size_t worker, const WorkerUpdate& update) override;
  void OnWorkerDown(size_t worker, const absl::Status& why) override;

 private:
  friend class internal::StreamState;
  friend class Stream;
  using StatePtr = std::shared_ptr<internal::StreamState>;

  std::string RefusalOf(const WorkerInfo& info) const;
  bool IsOfAnotherModel(const StreamSpec& spec) const;
  // Which workers have streams that may kill them, and whether this stream may be placed where.
  std::vector<bool> WorkersWithSuspects() const;
  bool IsToBeKeptFrom(size_t worker, const internal::StreamState& stream) const;
  // How a worker is to be found.
  enum class Where : uint8_t {
    kWithRoom,  // it can begin soon
    kAnywhere,  // somebody has begun it already, so it is not sent away
  };
  bool IsUsable(const internal::WorkerState& worker, absl::Time now) const;
  uint32_t UsablePrefix(size_t worker, internal::StreamState& stream) const;
  WorkerCandidate CandidateFor(size_t worker, internal::StreamState& stream, Where where) const;
  bool Place(internal::StreamState& stream, Where where);
  void Send(internal::StreamState& stream, size_t worker, uint64_t n_miss);
  uint32_t n_slots() const;

  // dispatcher_queue.cc: those that wait, who of them is next, and who may not.
  bool HasKeys(const internal::StreamState& stream) const;
  void RequestKeys();
  void OnKeys(const StatePtr& stream, PromptKeys keys);
  uint64_t MissOf(internal::StreamState& stream);
  uint64_t CostOf(const internal::StreamState& stream, uint64_t n_miss) const;
  void Wait(const StatePtr& stream, absl::Duration timeout, bool to_front);
  void StandInLine(internal::StreamState& stream, bool to_front);
  void LeaveLine(internal::StreamState& stream);
  void OnPausedInQueue(internal::StreamState& stream);
  void OnResumedInQueue(internal::StreamState& stream);
  bool HasRoomFor(bool is_under_share) const;
  void PumpQueue();
  void PlaceReturning(absl::Time now);
  void PlaceWaiting();
  absl::Duration PatienceOf(uint64_t n_miss) const;
  std::optional<double> ExpectedWait(const StreamSpec& spec, uint64_t n_tokens) const;  // in seconds
  absl::Status RefusalOfTenant(const StreamSpec& spec, uint64_t n_tokens);
  absl::Status RefusalOfWait(const StreamSpec& spec, uint64_t n_miss, uint64_t n_tokens);
  int RetryAfter(std::optional<double> wait_seconds);
  void ShedLate();
  void ExpireQueue(absl::Time now);
  void LeaveStalledWorkers(absl::Time now);
  // Its group ended unasked: its streams are suspects from here on, and who is to blame ends.
  void OnDeath(size_t worker, const absl::Status& why);
  void Refuse(const std::vector<StatePtr>& blamed);
  void ForgetDeath(size_t worker);
  void OnModelKnown();
  void OnAnswer(const internal::StreamState& stream);
  void OnAttemptEnded(internal::StreamState& stream, const absl::Status& status);
  bool MayRetry(internal::StreamState& stream, const absl::Status& status);
  void Remove(internal::StreamState& stream);
  void ReleaseWorker(internal::StreamState& stream);

  const DispatcherConfig config_;
  Clock& clock_;
  RouterMetrics& metrics_;
  KeyMaker* key_maker_ = nullptr;
  std::function<TenantLimits(const std::string&)> limits_of_;
  std::vector<internal::WorkerState> workers_;
  std::optional<WorkerInfo> model_;
  std::set<StatePtr> running_;
  std::set<StatePtr> queued_;       // all that wait, wherever
  std::deque<StatePtr> returning_;  // of them, those that were with a worker: they are sent on before all others
  std::deque<StatePtr> keyless_;    // of them, those whose keys are not made yet
  std::unique_ptr<internal::Backlog> backlog_;  // of them, the others; but those whose clients do not read are nowhere
  std::unique_ptr<internal::DrainRate> drain_rate_;
  size_t n_asleep_ = 0;  // queued ones whose clients do not read
  size_t n_keys_asked_ = 0;
  size_t n_streams_ = 0;
  size_t n_retrying_ = 0;  // streams in their second or later attempt, without a first token
  uint64_t n_picks_ = 0;
  uint64_t n_deaths_ = 0;
  uint64_t n_shed_ = 0;
  uint64_t n_answers_ = 0;
  uint64_t n_tries_ = 0;
  double output_mean_ = 128;  // tokens of an answer, lately
  double cost_mean_ = 1024;   // tokens of a stream, lately
  double seconds_mean_ = 0;   // of a stream with its worker, from its beginning to its end, lately
  UnexplainedDeaths unexplained_deaths_;
  // Read on the loop only, by keys that come after this was destroyed.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace longshelf::router
