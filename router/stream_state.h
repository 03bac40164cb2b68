#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "queue/backlog.h"
#include "router/dispatcher.h"
#include "router/suspicion.h"

namespace longshelf::router::internal {

// One stream across all its attempts. Owner: the router loop.
class StreamState final : public WorkerCallObserver, public Waiter, public std::enable_shared_from_this<StreamState> {
 public:
  enum class Phase : uint8_t { kQueued, kRunning, kDone };
  // Of a queued one.
  enum class Line : uint8_t { kNone, kAsleep, kKeyless, kReturning, kBacklog };

  StreamState(Dispatcher& owner, StreamSpec stream_spec, StreamObserver& stream_observer)
      : spec(std::move(stream_spec)),
        dispatcher_(owner),
        observer_(&stream_observer),
        committed_(spec.committed),
        n_prompt_scored_(spec.prompt_logprobs ? 1 : spec.prompt->size()) {}

  // The next attempt goes on after the committed tokens, under a higher epoch.
  WorkerRequest NextRequest();
  void Attach(size_t worker_number, std::unique_ptr<WorkerCall> call, uint64_t n_tokens_to_prefill);
  // Cancels whatever runs; nothing is reported any more.
  void Abandon();
  void EndAttempt() { call_.reset(); }
  void Fail(const absl::Status& status);
  void Finish(FinishReason reason, const DraftTokens& drafts);
  void Pause();
  void Resume();
  // What it ends with when no worker can have it: with the last words of the one that had it.
  absl::Status NoWorkers() const;
  // The output is complete although its worker never said so: the last committed token ended it.
  bool FinishIfComplete();

  void OnEvent(WorkerEvent event) override;
  void OnClosed(const absl::Status& status) override;

  bool has_output() const { return committed_.size() > spec.committed.size(); }
  // Prompt tokens are left that the client is to be told of.
  bool is_scoring() const { return n_prompt_scored_ < spec.prompt->size(); }
  bool paused() const { return paused_; }
  size_t n_committed() const { return committed_.size(); }
  // The choices of one request share their prompt, and no others do.
  const void* request() const { return spec.prompt.get(); }

  // A worker has begun it, or was lost under it: it goes on before those that never had one.
  bool is_returning() const { return has_output() || !tried.empty() || suspicion.is_suspect(); }

  StreamSpec spec;
  Phase phase = Phase::kQueued;
  Line line = Line::kNone;
  bool is_heard = false;  // this attempt's worker has said something
  double n_charged = 0;   // to its flow, for this attempt's prompt
  // What each worker had of the prompt, as of which version of its index.
  struct KnownPrefix {
    uint64_t version = UINT64_MAX;
    uint32_t n_tokens = 0;
  };
  std::vector<KnownPrefix> prefixes;
  size_t worker = 0;  // has it, or had it last
  bool was_placed = false;
  std::set<size_t> tried;  // workers that failed since the stream last waited
  uint32_t n_retries = 0;
  uint32_t n_resumes = 0;
  Suspicion suspicion;
  std::string last_words;  // of the last group that failed under it
  bool counted_as_retrying = false;
  absl::Time deadline;                                // while queued
  absl::Time waiting_since = absl::InfiniteFuture();  // without any worker's event; infinite = it has one
  absl::Time not_before;                              // while it is returning
  absl::Time queued_since;                            // while queued
  absl::Time placed_at;                               // while running
  absl::Time last_event;                              // while running

 private:
  void OnToken(OutputToken token);
  void OnPromptLogprobs(PromptLogprobs scores);
  // So many tokens of what it gave its worker are still to be read.
  void OnRead(uint64_t n_left);
  void RequestNext();

  Dispatcher& dispatcher_;
  StreamObserver* observer_;  // null once abandoned or ended
  std::unique_ptr<WorkerCall> call_;
  std::vector<uint32_t> committed_;
  size_t n_prompt_scored_;  // leading prompt tokens that need no telling any more
  uint32_t epoch_ = 0;
  bool paused_ = false;
  bool outstanding_ = false;  // an event was asked for and has not come
};

}  // namespace longshelf::router::internal
