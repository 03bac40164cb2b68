#include "block_exports.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace longshelf::engine {

BlockExports::BlockExports(const PrefixCache& cache, KvCopyLedger& copies, size_t block_bytes)
    : cache_(cache),
      copies_(copies),
      block_bytes_(block_bytes),
      n_blocks_per_step_(std::max<size_t>(1, kBytesPerStep / std::max<size_t>(1, block_bytes))) {}

void BlockExports::Start(ExportBlocks request) {
  if (jobs_.size() >= kJobsMax) {
    request.sink->OnEnd(absl::UnavailableError(absl::StrCat("already ", kJobsMax, " exports; try again later")));
    return;
  }
  const size_t first = request.first;
  if (first >= request.keys.size()) {
    request.sink->OnEnd(absl::OkStatus());
    return;
  }
  jobs_.push_back({.request = std::move(request), .next = first, .in_step = {}, .end = {}});
}

void BlockExports::AddExports(StepWork& work) {
  size_t n_left = n_blocks_per_step_;
  for (auto job = jobs_.begin(); job != jobs_.end();) {
    const int64_t n_room = job->request.sink->n_room();
    if (n_room < 0) {
      job = jobs_.erase(job);
      continue;
    }
    Plan(*job, std::min(n_left, static_cast<size_t>(n_room)), work);
    n_left -= job->in_step.size();
    if (job->in_step.empty() && !job->end.ok()) {
      job->request.sink->OnEnd(job->end);
      job = jobs_.erase(job);
    } else {
      ++job;
    }
  }
}

void BlockExports::Plan(Job& job, size_t n_max, StepWork& work) {
  const size_t n = std::min(n_max, job.request.keys.size() - job.next);
  while (job.in_step.size() < n) {
    const PrefixKey& key = job.request.keys[job.next + job.in_step.size()];
    const auto held = cache_.FindBlock(key);
    if (!held.has_value()) {
      job.end = absl::NotFoundError("the prefix was evicted while it was copied out");
      return;
    }
    const auto shard = static_cast<uint16_t>(held->shard);
    const EncodedStamp stamp = EncodeStamp(cache_.pool(held->shard).StampOf(held->block));
    KvCopyPtr copy = copies_.HoldNew(shard, block_bytes_ + kStampBytes, stamp);
    work.plan.export_blocks.push_back({shard, held->block, kBlockTokens, copy->number(), stamp});
    job.in_step.push_back(std::move(copy));
  }
}

void BlockExports::Commit() {
  for (auto job = jobs_.begin(); job != jobs_.end();) {
    const auto& keys = job->request.keys;
    for (KvCopyPtr& copy : std::exchange(job->in_step, {})) {
      const size_t number = job->next++;
      job->request.sink->OnBlock({.kind = ParkedObject::Kind::kBlock,
                                  .key = keys[number],
                                  .parent = number == 0 ? job->request.root : keys[number - 1],
                                  .n_tokens = static_cast<int64_t>(number + 1) * kBlockTokens,
                                  .copy = std::move(copy)});
    }
    if (job->next < keys.size()) {
      ++job;
      continue;
    }
    job->request.sink->OnEnd(absl::OkStatus());
    job = jobs_.erase(job);
  }
}

void BlockExports::FailAll(const absl::Status& status) {
  for (Job& job : jobs_) job.request.sink->OnEnd(status);
  jobs_.clear();
}

}  // namespace longshelf::engine
