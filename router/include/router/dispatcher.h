#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
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
  size_t queue_capacity = 1024;                      // streams that no worker can take now; one more is refused at once
  absl::Duration queue_timeout = absl::Seconds(10);  // a new stream without a worker fails after this
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
class StreamState;
}

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

// Owner: the router loop. It must outlive every Stream, and `links` every call made through it.
class Dispatcher final : public WorkerLinkObserver {
 public:
  Dispatcher(const DispatcherConfig& config, Clock& clock, RouterMetrics& metrics,
             std::vector<std::unique_ptr<WorkerLink>> links);
  ~Dispatcher() override;

  // Begins connecting to the workers.
  void Start();
  // Leaves the workers for good: their calls are cancelled and report nothing more, and none is up any more.
  void Stop();
  // RESOURCE_EXHAUSTED: the waiting line is full. `observer` must outlive the Stream.
  absl::StatusOr<std::unique_ptr<Stream>> Generate(StreamSpec spec, StreamObserver& observer);
  // Asks a worker to park; `done` comes later, on the loop. UNAVAILABLE: it is not up.
  void Park(size_t worker, const ParkOrder& order, std::function<void(absl::StatusOr<ParkedState>)> done);
  // Deadlines and second attempts; call at least every 100 ms.
  void Tick();

  // The model being served: what the first worker said. Empty until one was seen.
  const std::optional<WorkerInfo>& model() const { return model_; }
  size_t n_ready() const;
  size_t n_streams() const { return n_streams_; }
  size_t n_queued() const { return queue_.size(); }

  bool OnWorkerUp(size_t worker, const WorkerInfo& info) override;
  void OnWorkerUpdate(size_t worker, const WorkerUpdate& update) override;
  void OnWorkerDown(size_t worker, const absl::Status& why) override;

 private:
  friend class internal::StreamState;
  friend class Stream;
  using StatePtr = std::shared_ptr<internal::StreamState>;

  struct Worker {
    std::unique_ptr<WorkerLink> link;
    bool ready = false;
    WorkerInfo info;
    WorkerLoad load;
    PrefixIndex index;
    uint32_t n_streams = 0;        // ours, running there
    uint64_t n_tokens_queued = 0;  // ours, sent there and without a first token yet
    uint64_t last_pick = 0;
    absl::Time last_step_at = absl::InfinitePast();  // when it last reported another step
    uint64_t last_death = 0;                         // of a group of it; 0 = none
  };

  std::string RefusalOf(const WorkerInfo& info) const;
  size_t n_wanting() const;  // queued streams whose clients read
  bool has_line() const;     // such that wait for any worker, not for one without suspects
  bool IsOfAnotherModel(const StreamSpec& spec) const;
  // Which workers have streams that may kill them, and whether this stream may be placed where.
  std::vector<bool> WorkersWithSuspects() const;
  bool IsToBeKeptFrom(size_t worker, const internal::StreamState& stream) const;
  WorkerCandidate CandidateFor(size_t worker, const internal::StreamState& stream) const;
  bool Place(internal::StreamState& stream);
  void Enqueue(const StatePtr& stream, absl::Duration timeout, absl::Duration not_before);
  void OnResumedInQueue(internal::StreamState& stream);
  void PumpQueue();
  void ExpireQueue(absl::Time now);
  void LeaveStalledWorkers(absl::Time now);
  // Its group ended unasked: its streams are suspects from here on, and who is to blame ends.
  void OnDeath(size_t worker, const absl::Status& why);
  void Refuse(const std::vector<StatePtr>& blamed);
  void ForgetDeath(size_t worker);
  void OnAttemptEnded(internal::StreamState& stream, const absl::Status& status);
  bool MayRetry(internal::StreamState& stream, const absl::Status& status);
  void Remove(internal::StreamState& stream);
  void ReleaseWorker(internal::StreamState& stream);

  const DispatcherConfig config_;
  Clock& clock_;
  RouterMetrics& metrics_;
  std::vector<Worker> workers_;
  std::optional<WorkerInfo> model_;
  std::deque<StatePtr> queue_;
  std::set<StatePtr> running_;
  size_t n_streams_ = 0;
  size_t n_retrying_ = 0;  // streams in their second or later attempt, without a first token
  uint64_t n_picks_ = 0;
  uint64_t n_deaths_ = 0;
  UnexplainedDeaths unexplained_deaths_;
};

}  // namespace longshelf::router
