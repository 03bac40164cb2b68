#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "router/api_error.h"
#include "router/choice_output.h"
#include "router/dispatcher.h"

namespace longshelf::router {

struct Usage {
  uint32_t n_prompt_tokens = 0;
  uint32_t n_local_tokens = 0;  // of the prompt: held by the worker
  uint32_t n_store_tokens = 0;  // fetched from the KV store; the rest was computed
  std::string miss_reason;      // why the first of the rest was not found
  bool is_reported = false;     // these three were asked for
  uint32_t n_completion_tokens = 0;
  uint32_t n_cached_tokens = 0;
  uint32_t n_reasoning_tokens = 0;
  DraftTokens drafts;  // of the workers that ended the answers
};

// How a choice ended.
struct ChoiceEnd {
  std::string_view finish_reason;  // "stop", "length" or "tool_calls"; or what interrupted it
  std::string_view stop_string;    // that ended it; empty when none did
};

// Where an answer goes. Called on the router loop. May destroy the Completion inside OnDone and OnError only.
class CompletionSink {
 public:
  virtual ~CompletionSink() = default;
  // Of an answer that goes on: what the client has of it already. Before everything else, within Start.
  virtual void OnReplayed(uint32_t /*choice*/, const ChoiceDelta& /*delta*/) {}
  // A worker has begun: errors from here on are rare, so an answer's head may be sent. Of `usage` only the prompt's
  // share is known.
  virtual void OnBegun(const Usage& usage) = 0;
  // How much of the prompt was read; a few times a second. With several choices, the first one's.
  virtual void OnProgress(const PrefillProgress& progress) = 0;
  virtual void OnDelta(uint32_t choice, const ChoiceDelta& delta) = 0;
  virtual void OnChoiceFinished(uint32_t choice, const ChoiceEnd& end) = 0;
  // Last call.
  virtual void OnDone(const Usage& usage) = 0;
  // Last call.
  virtual void OnError(const ApiError& error) = 0;
};

// What becomes of an answer, for whoever keeps its session. Called on the router loop.
class AnswerRecorder {
 public:
  virtual ~AnswerRecorder() = default;
  virtual void OnToken(uint32_t token) = 0;
  // The answer is over, or broken off: `finish_reason` is empty then. `worker` has its state, as far as is known.
  virtual void OnEnd(std::string_view finish_reason, std::optional<size_t> worker) = 0;
};

// One request: n choices of each prompt, each a stream of the dispatcher; at most kStreamsMax of them at a time. Choice
// i of every prompt has the same seed: what a prompt gives does not depend on those beside it. Destroying it cancels
// them. Owner: the router loop.
class Completion {
 public:
  // Everything referred to must outlive this. `request_seed` seeds sampling when the request names no seed.
  Completion(Dispatcher& dispatcher, const ServedModel& model, Clock& clock, RouterMetrics& metrics,
             PreparedRequest prepared, std::string request_id, uint64_t request_seed, CompletionSink& sink);
  ~Completion();
  // An error is reported by the return value, never from inside this call: then nothing was started.
  std::optional<ApiError> Start();
  // What was begun elsewhere was all of the answer: after Start, EndBegun must be called, from the loop.
  bool begun_is_all() const;
  void EndBegun();
  // No more output is asked for until Resume(): the client does not keep up.
  void Pause();
  void Resume();
  // Right after Start: `recorder` hears of choice 0, and must outlive this.
  void RecordTo(AnswerRecorder& recorder) { recorder_ = &recorder; }
  // Ends the answer where it is, with this finish reason: what the client has can go on later. REQUIRES: one choice.
  void Interrupt(std::string_view finish_reason);
  bool is_placed() const;  // with a worker, or it was
  const PreparedRequest& prepared() const { return prepared_; }
  uint64_t seed() const { return seed_; }
  uint64_t n_output_tokens() const { return n_output_tokens_; }  // so far, of all choices

 private:
  static constexpr uint32_t kStreamsMax = 16;

  class Choice;
  void OnChoiceStarted(const Choice& choice, const StreamStarted& started);
  void OnChoiceEnded(Choice& choice, FinishReason reason);
  void OnChoiceFailed(const absl::Status& status);
  Usage PromptUsage() const;
  void CountPrompts() const;  // in the metrics
  // Begins the next choice that has not been.
  absl::Status StartNext();
  void OnToken(const Choice& choice, const OutputToken& token);
  void Finish(Choice& choice, std::string_view finish_reason);
  // All candidates of a prompt have ended: the likeliest by token are its choices.
  void RankCandidates(size_t prompt_number);

  Dispatcher& dispatcher_;
  const ServedModel& model_;
  Clock& clock_;
  RouterMetrics& metrics_;
  const PreparedRequest prepared_;
  const std::string request_id_;
  const uint64_t seed_;
  CompletionSink& sink_;
  std::vector<std::unique_ptr<Choice>> choices_;
  uint32_t n_open_ = 0;  // begun or not
  AnswerRecorder* recorder_ = nullptr;
  std::vector<StreamStarted> started_;  // per prompt, of the choice that found most
  std::vector<uint32_t> n_ended_;       // per prompt
  bool paused_ = false;
  bool begun_ = false;
  bool ended_ = false;
  bool has_token_ = false;
  uint64_t n_output_tokens_ = 0;
  absl::Time started_at_;
};

}  // namespace longshelf::router
