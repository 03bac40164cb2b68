#include "worker/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>

#include <initializer_list>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace longshelf::worker {
namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;

// A counter with one label whose values are known beforehand.
class LabelledCounter {
 public:
  LabelledCounter(Metrics& metrics, const std::string& name, const std::string& help, const std::string& label,
                  std::initializer_list<std::string_view> values) {
    for (const std::string_view value : values) {
      counters_.emplace(value, &metrics.AddCounter(name, help, {{label, std::string(value)}}));
    }
    other_ = &metrics.AddCounter(name, help, {{label, "other"}});
  }
  void Add(std::string_view value, double n = 1) const {
    const auto found = counters_.find(value);
    (found == counters_.end() ? other_ : found->second)->Increment(n);
  }

 private:
  std::map<std::string, Counter*, std::less<>> counters_;
  Counter* other_ = nullptr;
};

}  // namespace

struct WorkerMetrics::Impl {
  explicit Impl(Metrics& m)
      : running(m.AddGauge("longshelf_worker_sequences_running", "Sequences in the batch.")),
        waiting(m.AddGauge("longshelf_worker_sequences_waiting", "Sequences admitted and not yet running.")),
        tokens_queued(m.AddGauge("longshelf_worker_prefill_queue_tokens", "Prompt tokens not yet prefilled.")),
        blocks_total(m.AddGauge("longshelf_worker_kv_blocks", "KV blocks of the group.")),
        blocks_used(m.AddGauge("longshelf_worker_kv_blocks_used", "KV blocks that hold something.")),
        preempted(m.AddCounter("longshelf_worker_preempted_total",
                               "Running sequences that were moved out to make room, and came back.")),
        token_mismatches(m.AddCounter("longshelf_worker_token_mismatches_total",
                                      "KV found or restored under the right key that was of other tokens: not used.")),
        drafts_accepted(m, "longshelf_worker_draft_tokens_accepted_total",
                        "Guessed tokens that were what was sampled, by who guessed.", "drafter", {"lookup", "model"}),
        drafts_rejected(m, "longshelf_worker_draft_tokens_rejected_total",
                        "Guessed tokens that were not, by who guessed.", "drafter", {"lookup", "model"}),
        draining(m.AddGauge("longshelf_worker_draining", "1 while nothing new is admitted.")),
        steps(m.AddCounter("longshelf_worker_steps_total", "Engine steps.")),
        step_seconds(
            m.AddHistogram("longshelf_worker_step_seconds", "Time of an engine step.", Metrics::SecondsBounds())),
        tokens_generated(m.AddCounter("longshelf_worker_tokens_generated_total", "Tokens sampled.")),
        tokens_prefilled(m.AddCounter("longshelf_worker_tokens_prefilled_total", "Prompt tokens computed.")),
        prompt_tokens(m.AddCounter("longshelf_worker_prompt_tokens_total", "Prompt tokens of started sequences.")),
        hit_tokens(m, "longshelf_worker_cache_hit_tokens_total",
                   "Prompt tokens not computed again, by where they were.", "source", {"local", "store"}),
        misses(m, "longshelf_worker_cache_misses_total", "Sequences whose prompt was not wholly reused, by reason.",
               "reason",
               {"cold", "diverged", "evicted", "no_checkpoint", "digest_mismatch", "missing", "bad_size", "no_tail",
                "store_unreachable", "store_timeout", "slower_than_computing", "disabled", "restore_refused",
                "token_mismatch"}),
        ttft(m.AddHistogram("longshelf_worker_time_to_first_token_seconds",
                            "From accepting a stream to its first token.", Metrics::SecondsBounds())),
        inter_token(m.AddHistogram("longshelf_worker_inter_token_seconds", "Between two tokens of a stream.",
                                   Metrics::SecondsBounds())),
        streams(m, "longshelf_worker_streams_total", "Ended streams, by how they ended.", "result",
                {"stop", "length", "cancelled", "failed", "slow_client", "refused"}),
        auth_refused(
            m.AddCounter("longshelf_worker_auth_refused_total",
                         "Calls without the shared token, or with the certificate of a role that is not answered.")),
        subscribers(m.AddGauge("longshelf_worker_watch_subscribers", "Open Watch streams.")),
        resyncs(m.AddGauge("longshelf_worker_watch_resyncs", "Snapshots sent because a subscriber fell behind.")),
        restore_failures(m, "longshelf_worker_restore_failures_total",
                         "Stored prefixes that were refused or not fetched, by reason.", "reason",
                         {"digest_mismatch", "missing", "bad_size", "no_tail", "store_unreachable", "store_timeout",
                          "slower_than_computing"}),
        restores(m.AddCounter("longshelf_worker_restores_total", "Prefixes fetched from the KV store.")),
        restored_tokens(m.AddCounter("longshelf_worker_restored_tokens_total", "Tokens of fetched prefixes.")),
        restored_bytes(m.AddCounter("longshelf_worker_restored_bytes_total", "Bytes of fetched prefixes.")),
        restore_seconds(
            m.AddHistogram("longshelf_worker_restore_seconds", "Time to fetch a prefix.", Metrics::SecondsBounds())),
        offload_queue(m.AddGauge("longshelf_worker_offload_queue_objects", "Objects waiting to be put.")),
        offload_queue_bytes(m.AddGauge("longshelf_worker_offload_queue_bytes", "Bytes waiting to be put.")),
        offload_dropped(m.AddCounter("longshelf_worker_offload_dropped_total", "Objects not put: the queue was full.")),
        offloads(m, "longshelf_worker_offload_objects_total", "Objects offered to the KV store, by outcome.", "result",
                 {"stored", "existed", "refused", "failed"}),
        offload_bytes(m.AddCounter("longshelf_worker_offload_bytes_total", "Bytes stored by offloading.")),
        digest_conflicts(m.AddCounter("longshelf_worker_digest_conflicts_total",
                                      "Objects the store already held with other bytes.")),
        parks(m, "longshelf_worker_parks_total", "Park calls, by outcome.", "result", {"ok", "not_found", "failed"}),
        healed(m.AddCounter("longshelf_worker_healed_blocks_total",
                            "Blocks of sessions that the KV store had lost and was given again.")),
        store_up(m.AddGauge("longshelf_worker_store_up", "1 while the KV store answers.")) {}

  Gauge &running, &waiting, &tokens_queued, &blocks_total, &blocks_used;
  Counter& preempted;
  Counter& token_mismatches;
  LabelledCounter drafts_accepted, drafts_rejected;
  Gauge& draining;
  engine::Load last;  // what the counters have; engine thread
  Counter& steps;
  Histogram& step_seconds;
  Counter &tokens_generated, &tokens_prefilled, &prompt_tokens;
  LabelledCounter hit_tokens, misses;
  Histogram &ttft, &inter_token;
  LabelledCounter streams;
  Counter& auth_refused;
  Gauge &subscribers, &resyncs;
  LabelledCounter restore_failures;
  Counter &restores, &restored_tokens, &restored_bytes;
  Histogram& restore_seconds;
  Gauge &offload_queue, &offload_queue_bytes;
  Counter& offload_dropped;
  LabelledCounter offloads;
  Counter &offload_bytes, &digest_conflicts;
  LabelledCounter parks;
  Counter& healed;
  Gauge& store_up;
};

WorkerMetrics::WorkerMetrics(Metrics& metrics) : impl_(std::make_unique<Impl>(metrics)) {}
WorkerMetrics::~WorkerMetrics() = default;

void WorkerMetrics::SetLoad(const engine::Load& load) {
  impl_->running.Set(load.n_running);
  impl_->waiting.Set(load.n_waiting);
  impl_->tokens_queued.Set(static_cast<double>(load.n_tokens_queued));
  impl_->blocks_total.Set(load.n_blocks_total);
  impl_->blocks_used.Set(static_cast<double>(load.n_blocks_total) - static_cast<double>(load.n_blocks_free));
  impl_->draining.Set(load.draining ? 1 : 0);
  const engine::Load last = std::exchange(impl_->last, load);
  impl_->preempted.Increment(static_cast<double>(load.n_preempted - last.n_preempted));
  impl_->token_mismatches.Increment(static_cast<double>(load.n_token_mismatches - last.n_token_mismatches));
  const auto count = [this](std::string_view drafter, const engine::DraftCounts& now,
                            const engine::DraftCounts& before) {
    impl_->drafts_accepted.Add(drafter, static_cast<double>(now.n_accepted - before.n_accepted));
    impl_->drafts_rejected.Add(drafter, static_cast<double>(now.n_rejected - before.n_rejected));
  };
  count("lookup", load.drafts_of_lookup, last.drafts_of_lookup);
  count("model", load.drafts_of_model, last.drafts_of_model);
}

void WorkerMetrics::StepDone(absl::Duration took, uint64_t n_decode_rows, uint64_t n_prefill_tokens) {
  impl_->steps.Increment();
  impl_->step_seconds.Observe(absl::ToDoubleSeconds(took));
  impl_->tokens_generated.Increment(static_cast<double>(n_decode_rows));
  impl_->tokens_prefilled.Increment(static_cast<double>(n_prefill_tokens));
}

void WorkerMetrics::StreamStarted(const engine::Started& started) {
  impl_->prompt_tokens.Increment(started.n_prompt_tokens);
  impl_->hit_tokens.Add("local", started.n_cached_local);
  impl_->hit_tokens.Add("store", started.n_cached_store);
  if (!started.miss_reason.empty()) impl_->misses.Add(started.miss_reason);
}

void WorkerMetrics::FirstToken(absl::Duration since_accepted) {
  impl_->ttft.Observe(absl::ToDoubleSeconds(since_accepted));
}
void WorkerMetrics::NextToken(absl::Duration since_previous) {
  impl_->inter_token.Observe(absl::ToDoubleSeconds(since_previous));
}
void WorkerMetrics::StreamEnded(std::string_view result) { impl_->streams.Add(result); }
void WorkerMetrics::AuthRefused() { impl_->auth_refused.Increment(); }
void WorkerMetrics::SetSubscribers(size_t n, uint64_t n_resyncs) {
  impl_->subscribers.Set(static_cast<double>(n));
  impl_->resyncs.Set(static_cast<double>(n_resyncs));
}

void WorkerMetrics::RestoreFailed(std::string_view reason) { impl_->restore_failures.Add(reason); }
void WorkerMetrics::RestoreDone(absl::Duration took, int64_t n_tokens, uint64_t n_bytes) {
  impl_->restores.Increment();
  impl_->restored_tokens.Increment(static_cast<double>(n_tokens));
  impl_->restored_bytes.Increment(static_cast<double>(n_bytes));
  impl_->restore_seconds.Observe(absl::ToDoubleSeconds(took));
}
void WorkerMetrics::SetOffloadQueue(size_t n_objects, uint64_t n_bytes) {
  impl_->offload_queue.Set(static_cast<double>(n_objects));
  impl_->offload_queue_bytes.Set(static_cast<double>(n_bytes));
}
void WorkerMetrics::OffloadDropped(uint64_t n_objects) {
  impl_->offload_dropped.Increment(static_cast<double>(n_objects));
}
void WorkerMetrics::OffloadDone(std::string_view result, uint64_t n_bytes) {
  impl_->offloads.Add(result);
  if (result == "stored") impl_->offload_bytes.Increment(static_cast<double>(n_bytes));
}
void WorkerMetrics::DigestConflict() { impl_->digest_conflicts.Increment(); }
void WorkerMetrics::ParkDone(std::string_view result) { impl_->parks.Add(result); }
void WorkerMetrics::Healed(uint64_t n_blocks) { impl_->healed.Increment(static_cast<double>(n_blocks)); }
void WorkerMetrics::SetStoreUp(bool up) { impl_->store_up.Set(up ? 1 : 0); }

absl::StatusOr<engine::StepResult> MeteredStepRunner::Run(const engine::StepPlan& plan) {
  const absl::Time begun = clock_.Now();
  auto result = inner_.Run(plan);
  uint64_t n_sampled = 0;
  uint64_t n_prefilled = 0;
  for (const engine::StepPlan::Row& row : plan.rows) {
    // A decode row carries the one token it continues from, and guesses.
    const size_t n_certain = row.tokens.size() - row.n_drafts;
    if (!row.sample || n_certain > 1) n_prefilled += n_certain;
  }
  if (result.ok()) {
    for (const engine::RowResult& row : result->rows) n_sampled += row.sampled.size();
  }
  metrics_.StepDone(clock_.Now() - begun, n_sampled, n_prefilled);
  return result;
}

}  // namespace longshelf::worker
