#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "engine/messages.h"
#include "prefix_cache.h"
#include "step_builder.h"

namespace longshelf::engine {

// Answers ExportPrefix: copies out blocks a few per step, so that a long prefix neither stalls decoding nor fills a
// step's result. Nothing is pinned: a block that is evicted before its turn ends the export with NOT_FOUND. The
// checkpoint is held from the start. Owner thread: the leader's engine thread.
class PrefixExports {
 public:
  static constexpr size_t kJobsMax = 64;
  static constexpr size_t kBytesPerStep = size_t{64} << 20;

  PrefixExports(const PrefixHasher& hasher, PrefixCache& cache, size_t block_bytes);

  bool idle() const { return jobs_.empty(); }
  // Replies at once when nothing has to be copied, or nothing is held, or too many exports run.
  void Start(ExportPrefix request);
  // The next blocks of the oldest job. After every allocation of the step, so that what is planned stays in place.
  void AddExports(StepWork& work);
  void Commit(StepResult& result);
  // Ends all with `status`.
  void FailAll(const absl::Status& status);

 private:
  struct Job {
    ExportPrefix request;
    PrefixChain chain;
    std::shared_ptr<const Checkpoint> checkpoint;
    int shard = 0;
    int64_t n_blocks = 0;
    std::vector<ParkedObject> objects;
  };
  void Finish(Job& job);

  const PrefixHasher& hasher_;
  PrefixCache& cache_;
  const size_t n_blocks_per_step_;
  std::deque<Job> jobs_;
  size_t first_export_ = 0;  // of the step that runs: where the front job's blocks are in its result
  size_t n_exports_ = 0;
};

}  // namespace longshelf::engine
