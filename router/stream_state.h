#pragma once

#include <memory>
#include <set>
#include <vector>

#include "router/dispatcher.h"
#include "router/suspicion.h"

namespace longshelf::router::internal {

// One stream across all its attempts. Owner: the router loop.
class StreamState final : public WorkerCallObserver, public std::enable_shared_from_this<StreamState> {
 public:
  enum class Phase : uint8_t { kQueued, kRunning, kDone };

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
  void Pause() { paused_ = true; }
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
  // The choices of one request share their prompt, and no others do.
  const void* request() const { return spec.prompt.get(); }

  StreamSpec spec;
  Phase phase = Phase::kQueued;
  size_t worker = 0;  // has it, or had it last
  bool was_placed = false;
  uint64_t n_tokens_queued = 0;  // what this stream adds to its worker's Worker::n_tokens_queued
  std::set<size_t> tried;        // workers that failed since the stream last waited
  uint32_t n_retries = 0;
  uint32_t n_resumes = 0;
  Suspicion suspicion;
  std::string last_words;  // of the last group that failed under it
  bool counted_as_retrying = false;
  absl::Time deadline;                                // while queued
  absl::Time waiting_since = absl::InfiniteFuture();  // without any worker's event; infinite = it has one
  absl::Time not_before;                              // while queued
  absl::Time last_event;                              // while running

 private:
  void OnToken(OutputToken token);
  void OnPromptLogprobs(PromptLogprobs scores);
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
