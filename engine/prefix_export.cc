#include "prefix_export.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace longshelf::engine {

PrefixExports::PrefixExports(const PrefixHasher& hasher, PrefixCache& cache, size_t block_bytes)
    : hasher_(hasher),
      cache_(cache),
      n_blocks_per_step_(std::max<size_t>(1, kBytesPerStep / std::max<size_t>(1, block_bytes))) {}

void PrefixExports::Start(ExportPrefix request) {
  if (jobs_.size() >= kJobsMax) {
    request.reply(absl::ResourceExhaustedError(absl::StrCat("already ", kJobsMax, " exports wait; try again later")));
    return;
  }
  PrefixChain chain(hasher_, request.namespace_salt);
  const auto n_tokens = static_cast<int64_t>(request.tokens.size());
  chain.Adopt(std::move(request.prefix_keys), n_tokens);
  chain.Extend(request.tokens, n_tokens);
  int shard = 0;
  PrefixMatch match = cache_.MatchAnywhere(chain, request.tokens, n_tokens, shard);
  if (match.checkpoint == nullptr) {
    request.reply(absl::NotFoundError("no position of these tokens can be resumed here"));
    return;
  }
  cache_.TouchCheckpoint(match.checkpoint->key);
  Job job{.request = std::move(request),
          .chain = std::move(chain),
          .checkpoint = std::move(match.checkpoint),
          .shard = shard,
          .n_blocks = match.n_tokens / kBlockTokens,
          .objects = {}};
  if (job.n_blocks == 0) {
    Finish(job);
  } else {
    jobs_.push_back(std::move(job));
  }
}

void PrefixExports::AddExports(StepWork& work) {
  first_export_ = work.plan.export_blocks.size();
  n_exports_ = 0;
  while (!jobs_.empty() && n_exports_ == 0) {
    Job& job = jobs_.front();
    const auto n_left = static_cast<size_t>(job.n_blocks) - job.objects.size();
    for (size_t i = 0; i < std::min(n_left, n_blocks_per_step_); ++i) {
      const auto block = cache_.pool(job.shard).Find(job.chain.keys()[job.objects.size() + i]);
      if (!block.has_value()) {
        job.request.reply(absl::NotFoundError("the prefix was evicted while it was copied out"));
        jobs_.pop_front();
        work.plan.export_blocks.resize(first_export_);
        n_exports_ = 0;
        break;
      }
      work.plan.export_blocks.push_back({static_cast<uint16_t>(job.shard), *block, kBlockTokens});
      ++n_exports_;
    }
  }
}

void PrefixExports::Commit(StepResult& result) {
  if (n_exports_ == 0) return;
  Job& job = jobs_.front();
  for (size_t i = 0; i < n_exports_; ++i) {
    const auto number = static_cast<int64_t>(job.objects.size());
    job.objects.push_back({.kind = ParkedObject::Kind::kBlock,
                           .key = job.chain.keys()[static_cast<size_t>(number)],
                           .parent = job.chain.ParentAt(number * kBlockTokens),
                           .n_tokens = (number + 1) * kBlockTokens,
                           .bytes = std::move(result.blocks[first_export_ + i])});
  }
  n_exports_ = 0;
  if (static_cast<int64_t>(job.objects.size()) < job.n_blocks) return;
  Finish(job);
  jobs_.pop_front();
}

void PrefixExports::Finish(Job& job) {
  const Checkpoint& from = *job.checkpoint;
  if (!from.tail.empty()) {
    job.objects.push_back({ParkedObject::Kind::kTail, from.key, from.parent, from.n_tokens, from.tail});
  }
  job.objects.push_back({ParkedObject::Kind::kCheckpoint, from.key, from.parent, from.n_tokens, from.state});
  job.request.reply(std::move(job.objects));
}

void PrefixExports::FailAll(const absl::Status& status) {
  for (Job& job : jobs_) job.request.reply(status);
  jobs_.clear();
}

}  // namespace longshelf::engine
