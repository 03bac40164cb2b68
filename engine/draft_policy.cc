#include "draft_policy.h"

#include <algorithm>
#include <cmath>

namespace longshelf::engine {
namespace {

constexpr double kFade = 0.98;
constexpr double kPriorRowShare = 1.0 / 3.0;
constexpr double kHitRateStep = 0.1;
constexpr int64_t kRestMax = 2048;

}  // namespace

void DraftPolicy::ObserveDecode(size_t n_rows, absl::Duration took) {
  const double seconds = absl::ToDoubleSeconds(took);
  const auto rows = static_cast<double>(n_rows);
  if (seconds <= 0.0 || n_rows == 0) return;
  if (!has_seen_steps_) {
    // As if steps of one and of two rows had been seen, on the same line as this one.
    const double fixed = seconds / (1.0 + kPriorRowShare / (1.0 - kPriorRowShare) * rows);
    const double each = fixed * kPriorRowShare / (1.0 - kPriorRowShare);
    fit_.seconds = 2 * fixed + 3 * each;
    fit_.rows_seconds = (fixed + each) + 2 * (fixed + 2 * each);
    has_seen_steps_ = true;
  }
  fit_.weight = kFade * fit_.weight + 1.0;
  fit_.rows = kFade * fit_.rows + rows;
  fit_.seconds = kFade * fit_.seconds + seconds;
  fit_.rows_rows = kFade * fit_.rows_rows + rows * rows;
  fit_.rows_seconds = kFade * fit_.rows_seconds + rows * seconds;
}

double DraftPolicy::ChanceWanted(size_t n_sequences) const {
  const auto n = static_cast<double>(std::max<size_t>(1, n_sequences));
  double share = kPriorRowShare;  // of a step of one row
  const double spread = fit_.weight * fit_.rows_rows - fit_.rows * fit_.rows;
  if (has_seen_steps_ && spread > 1e-6 * fit_.weight * fit_.rows_rows) {
    const double each = (fit_.weight * fit_.rows_seconds - fit_.rows * fit_.seconds) / spread;
    const double fixed = (fit_.seconds - each * fit_.rows) / fit_.weight;
    if (fixed + each > 0.0) share = std::clamp(each / (fixed + each), 0.02, 1.0);
  }
  return n * share / (1.0 - share + n * share);
}

bool DraftPolicy::IsWorthTrying(DraftRecord& record, double chance_wanted, int64_t n_tokens) {
  if (record.hit_rate >= chance_wanted) return true;
  if (n_tokens < record.retry_at) return false;
  record.hit_rate = std::max(DraftRecord::kHitRateAtFirst, chance_wanted);
  return true;
}

size_t DraftPolicy::LengthWorthChecking(const DraftRecord& record, size_t n, std::span<const float> confidence,
                                        double chance_wanted) {
  double chance = 1.0;
  for (size_t i = 0; i < n; ++i) {
    chance *= confidence.empty() ? record.hit_rate : 1.0 / (1.0 + std::exp(-static_cast<double>(confidence[i])));
    if (chance < chance_wanted) return i;
  }
  return n;
}

void DraftPolicy::ObserveDrafts(DraftSource source, DraftRecord& record, size_t n_drafted, size_t n_accepted,
                                double chance_wanted, int64_t n_tokens) {
  if (n_drafted == 0) return;
  DraftCounts& counts = counts_[static_cast<size_t>(source)];
  counts.n_accepted += n_accepted;
  counts.n_rejected += n_drafted - n_accepted;
  for (size_t i = 0; i < n_accepted; ++i) record.hit_rate += kHitRateStep * (1.0 - record.hit_rate);
  if (n_accepted < n_drafted) record.hit_rate -= kHitRateStep * record.hit_rate;
  if (record.hit_rate < chance_wanted) {
    record.retry_at = n_tokens + record.rest;
    record.rest = std::min(2 * record.rest, kRestMax);
  } else if (record.hit_rate > DraftRecord::kHitRateAtFirst) {
    record.rest = DraftRecord::kRestMin;
  }
}

}  // namespace longshelf::engine
