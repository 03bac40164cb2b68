#include "group_end.h"

#include <spdlog/spdlog.h>

#include "common/public_text.h"
#include "last_words.h"
#include "worker/node_service.h"

namespace longshelf::worker {
namespace {

// Other shards and mpirun may end this process soon after.
constexpr absl::Duration kTimeToSpeak = absl::Milliseconds(500);

}  // namespace

void GroupEnd::SetNode(WorkerNode* node) {
  std::lock_guard lock(mutex_);
  node_ = node;
}

std::string GroupEnd::Say(const std::string& seen) {
  std::string words = PublicText(FindLastWords(run_dir_, 0, seen));
  spdlog::error("the group ends: {}", words);
  std::lock_guard lock(mutex_);
  if (node_ != nullptr) node_->BreakOff(words, kTimeToSpeak);
  return words;
}

}  // namespace longshelf::worker
