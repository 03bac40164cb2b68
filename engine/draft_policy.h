#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/time/time.h"
#include "engine/observer.h"

namespace longshelf::engine {

// Who guessed: the text so far (prompt_lookup.h), or the checkpoint's own draft module (Model::Draft).
enum class DraftSource : uint8_t { kLookup, kModel };
inline constexpr size_t kDraftSources = 2;

// How one sequence's guesses of one source fare. Owner: its sequence.
struct DraftRecord {
  static constexpr double kHitRateAtFirst = 0.7;
  static constexpr int64_t kRestMin = 32;

  double hit_rate = kHitRateAtFirst;  // of guesses that were looked at, the last ones weighing most
  int64_t retry_at = 0;               // not before this many tokens; a source that did not pay rests
  int64_t rest = kRestMin;            // tokens of its next rest
};

// Decides whether guesses pay. A guessed token is one more row of the step: it costs the time that a row adds, which is
// measured, and is worth the tokens that it brings if it holds. So a guess pays when its chance is above what the same
// time brings otherwise: rows x (time of a row) / (time of the step). Output never depends on it.
// Owner thread: the leader's engine thread.
class DraftPolicy {
 public:
  // A step of n_rows decode rows, guessed ones included, and nothing else took so long.
  void ObserveDecode(size_t n_rows, absl::Duration took);
  // The chance that a guess must have, in a step of n_sequences decoding ones.
  double ChanceWanted(size_t n_sequences) const;
  // Whether to guess at all after n_tokens tokens. A source that rests may be tried again: that is noted.
  static bool IsWorthTrying(DraftRecord& record, double chance_wanted, int64_t n_tokens);
  // How many of n guesses to check: their chances multiply, and the product has to stay above what is wanted.
  // confidence: log odds of each, or empty.
  static size_t LengthWorthChecking(const DraftRecord& record, size_t n, std::span<const float> confidence,
                                    double chance_wanted);
  // n_accepted of n_drafted guesses held.
  void ObserveDrafts(DraftSource source, DraftRecord& record, size_t n_drafted, size_t n_accepted, double chance_wanted,
                     int64_t n_tokens);

  const DraftCounts& counts(DraftSource source) const { return counts_[static_cast<size_t>(source)]; }

 private:
  // Least squares of step time over rows, older steps fading. It begins as if it had seen a machine on which a row more
  // takes a third of a step of one row.
  struct Fit {
    double weight = 2.0;
    double rows = 3.0;        // 1 + 2
    double seconds = 0.0;     // set by the first step
    double rows_rows = 5.0;   // 1 + 4
    double rows_seconds = 0;  // set by the first step
  };
  Fit fit_;
  bool has_seen_steps_ = false;
  std::array<DraftCounts, kDraftSources> counts_;
};

}  // namespace longshelf::engine
