#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "absl/time/time.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "engine/events.h"
#include "engine/observer.h"
#include "engine/step_plan.h"

namespace longshelf::worker {

// Every figure of a worker, registered at construction so that all of them exist from the start. Any thread; `metrics`
// must outlive this. Labels come from fixed lists: an unknown one is counted as "other".
class WorkerMetrics {
 public:
  explicit WorkerMetrics(Metrics& metrics);
  ~WorkerMetrics();

  void SetLoad(const engine::Load& load);
  void StepDone(absl::Duration took, uint64_t n_decode_rows, uint64_t n_prefill_tokens);

  void StreamStarted(const engine::Started& started);
  void FirstToken(absl::Duration since_accepted);
  void NextToken(absl::Duration since_previous);
  // result: "stop", "length", "cancelled", "failed", "slow_client", "refused".
  void StreamEnded(std::string_view result);
  void AuthRefused();
  void SetSubscribers(size_t n, uint64_t n_resyncs);

  // reason: see ReasonOf in bridge_core.cc, e.g. "digest_mismatch", "missing", "bad_size", "store_unreachable".
  void RestoreFailed(std::string_view reason);
  void RestoreDone(absl::Duration took, int64_t n_tokens, uint64_t n_bytes);
  void SetOffloadQueue(size_t n_objects, uint64_t n_bytes);
  void OffloadDropped(uint64_t n_objects);
  // result: "stored", "existed", "refused", "failed".
  void OffloadDone(std::string_view result, uint64_t n_bytes);
  // The store held other bytes under the same name: two writers computed one prefix differently.
  void DigestConflict();
  // result: "ok", "not_found", "failed".
  void ParkDone(std::string_view result);
  // Blocks the store had lost and was given again.
  void Healed(uint64_t n_blocks);
  void SetStoreUp(bool up);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Measures every step on its way to the runner that does it.
class MeteredStepRunner final : public engine::StepRunner {
 public:
  MeteredStepRunner(Clock& clock, WorkerMetrics& metrics, engine::StepRunner& inner)
      : clock_(clock), metrics_(metrics), inner_(inner) {}
  engine::GroupShape shape() const override { return inner_.shape(); }
  absl::StatusOr<engine::StepResult> Run(const engine::StepPlan& plan) override;

 private:
  Clock& clock_;
  WorkerMetrics& metrics_;
  engine::StepRunner& inner_;
};

}  // namespace longshelf::worker
