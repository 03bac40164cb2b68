#include "router/prepare_queue.h"

#include <algorithm>
#include <utility>

namespace longshelf::router {
namespace {

constexpr uint64_t kLeastBytes = 4096;                  // what the smallest job counts for
constexpr uint64_t kBytesPerTurn = uint64_t{64} << 10;  // what a job gains on each that comes after it
constexpr size_t kSmallInARowMax = 16;                  // of a single thread, while large ones wait

}  // namespace

void PrepareQueue::Lane::Push(PrepareJob&& job, uint64_t urgency) {
  const auto [payer, is_new] = payers.try_emplace(job.payer);
  if (is_new) payer->second.n_served = clock;
  payer->second.jobs.emplace(urgency, std::move(job));
  ++n_jobs;
}

std::map<std::string, PrepareQueue::Payer>::iterator PrepareQueue::Lane::Next() {
  return std::min_element(payers.begin(), payers.end(),
                          [](const auto& a, const auto& b) { return a.second.n_served < b.second.n_served; });
}

PrepareJob PrepareQueue::Lane::Pop() {
  const auto payer = Next();
  const auto first = payer->second.jobs.begin();
  PrepareJob job = std::move(first->second);
  payer->second.jobs.erase(first);
  clock = payer->second.n_served;
  payer->second.n_served += std::max(job.n_bytes, kLeastBytes);
  if (payer->second.jobs.empty()) payers.erase(payer);
  --n_jobs;
  return job;
}

size_t PrepareQueue::CountOf(const std::string& payer) const {
  size_t n = 0;
  for (const Lane* lane : {&small_, &large_}) {
    if (const auto it = lane->payers.find(payer); it != lane->payers.end()) n += it->second.jobs.size();
  }
  return n;
}

bool PrepareQueue::Push(PrepareJob&& job) {
  const size_t n_free = limits_.n_waiting_max - std::min(limits_.n_waiting_max, n_waiting());
  if (n_free == 0 || CountOf(job.payer) >= n_free) return false;
  Lane& lane = is_large(job.n_bytes) ? large_ : small_;
  const uint64_t urgency = job.n_bytes + kBytesPerTurn * n_pushed_++;
  lane.Push(std::move(job), urgency);
  return true;
}

bool PrepareQueue::MayRunLarge() {
  if (large_.n_jobs == 0) return false;
  if (n_large_running_ == 0) return true;
  const uint64_t n_bytes = large_.Next()->second.jobs.begin()->second.n_bytes;
  return n_large_running_ + 1 < limits_.n_threads && n_bytes <= limits_.n_running_bytes_max &&
         n_large_bytes_running_ <= limits_.n_running_bytes_max - n_bytes;
}

std::optional<PrepareJob> PrepareQueue::Pop() {
  const bool may_run_large = MayRunLarge();
  const bool has_small = small_.n_jobs > 0;
  if (!may_run_large && !has_small) return std::nullopt;
  // One large job always runs, if there is one; more of them only where no small one waits. A single thread takes
  // turns.
  const bool is_turn_of_large = limits_.n_threads > 1 ? n_large_running_ == 0 : n_small_in_a_row_ >= kSmallInARowMax;
  if (may_run_large && (is_turn_of_large || !has_small)) {
    PrepareJob job = large_.Pop();
    n_small_in_a_row_ = 0;
    ++n_large_running_;
    n_large_bytes_running_ += job.n_bytes;
    return job;
  }
  ++n_small_in_a_row_;
  return small_.Pop();
}

void PrepareQueue::OnDone(uint64_t n_bytes) {
  if (!is_large(n_bytes)) return;
  --n_large_running_;
  n_large_bytes_running_ -= n_bytes;
}

}  // namespace longshelf::router
