#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "absl/time/time.h"

// Which request killed a worker group. A group dies as a unit and takes every stream on it along, so one death says
// nothing of any of them. The rule:
//
// 1. Every stream that a group had when it died is a suspect until it gets a new token. Deaths count only when the
//    group ended unasked: not a drain, a call that failed, or a connection that was refused.
// 2. Suspects of different requests are not placed together, so that a second death tells them apart: each waits until
//    a worker has no other, but for DispatcherConfig::suspect_wait at most.
// 3. A request is blamed, and refused, when a second group dies under it before it got a new token and no other request
//    there has such a record. A culprit has killed exactly two groups then. Who was merely near it has one death, and
//    goes on.
// 4. A request that gets some tokens each time before it kills is blamed in the same way for three deaths in a row,
//    each but the first within kProofTokens new tokens.
// 5. While groups die that it has nothing to do with, one death more is asked for: somebody kills them from outside, or
//    there are several culprits. Such are deaths of the last kStorm that no refused request explains.
//
// What the rule cannot do. When suspects had to share a worker and it dies, nobody is blamed and they are tried apart
// again: a culprit kills one more. When two groups are killed from outside, one after the other and after a quiet time,
// the second before a suspect got its next token there, that suspect is taken for the culprit. With kProofTokens or
// more between its kills a culprit goes on to the limit of resumes.
namespace longshelf::router {

inline constexpr uint32_t kProofTokens = 32;
inline constexpr absl::Duration kStorm = absl::Minutes(1);

// What the deaths of groups say about one stream.
struct Suspicion {
  std::vector<uint64_t> deaths;  // numbers of all that it was under; bounded by its retries and resumes
  uint32_t n_silent = 0;         // since its last new token
  uint32_t n_early = 0;          // in a row, each but the first within kProofTokens new tokens on that group
  uint32_t n_new_tokens = 0;     // from the worker that has it now
  absl::Time since;              // of the last death

  bool is_suspect() const { return n_silent > 0; }
  void OnPlaced() { n_new_tokens = 0; }
  void OnToken() {
    ++n_new_tokens;
    n_silent = 0;
  }
  void OnDeath(uint64_t death, absl::Time now);
  // That death was none: the same group is back.
  void OnSurvived(uint64_t death);
};

// Deaths that nobody was blamed for yet.
class UnexplainedDeaths {
 public:
  void Add(uint64_t death, absl::Time now);
  void Remove(uint64_t death);
  // Groups died lately that had nothing of it.
  bool HasOthers(const Suspicion& suspicion) const;

 private:
  struct Death {
    uint64_t number;
    absl::Time at;
  };
  std::deque<Death> deaths_;  // the last kStorm
};

// A stream that was on a group when it died, with that death counted.
struct DeathWitness {
  const void* request = nullptr;  // equal for the streams of one request: they are judged as one
  const Suspicion* suspicion = nullptr;
  bool others_died = false;
};
// Which of them are to blame: all of one request, or none. Pure.
std::vector<size_t> FindBlamed(std::span<const DeathWitness> witnesses);

}  // namespace longshelf::router
