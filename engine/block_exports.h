#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "engine/messages.h"
#include "prefix_cache.h"
#include "step_builder.h"

namespace longshelf::engine {

// Answers ExportBlocks: copies out as many blocks per step as the sinks have room for, so that a long prefix neither
// stalls decoding, and needs no memory beyond what the sinks hold. Nothing is pinned: a block
// that is evicted before its turn ends the export with NOT_FOUND. Owner thread: the leader's engine thread.
class BlockExports {
 public:
  static constexpr size_t kJobsMax = 64;
  static constexpr size_t kBytesPerStep = size_t{16} << 20;

  BlockExports(const PrefixCache& cache, KvCopyLedger& copies, size_t block_bytes);

  bool idle() const { return jobs_.empty(); }
  void Start(ExportBlocks request);
  // The next blocks of all jobs, the oldest first. After every allocation of the step, so that what is planned stays in
  // place.
  void AddExports(StepWork& work);
  void Commit();
  // Ends all with `status`.
  void FailAll(const absl::Status& status);

 private:
  struct Job {
    ExportBlocks request;
    size_t next = 0;                 // of request.keys
    std::vector<KvCopyPtr> in_step;  // of the step that runs
    absl::Status end;                // not OK: how it ends, after what is in the step
  };
  void Plan(Job& job, size_t n_max, StepWork& work);

  const PrefixCache& cache_;
  KvCopyLedger& copies_;
  const size_t block_bytes_;
  const size_t n_blocks_per_step_;
  std::deque<Job> jobs_;
};

}  // namespace longshelf::engine
