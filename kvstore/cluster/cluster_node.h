#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "common/breaker.h"
#include "kvstore/client.h"
#include "kvstore/members.h"

namespace longshelf::kvstore {

// How long a node's answers took lately. Owner: the loop.
class LatencyWindow {
 public:
  void Observe(absl::Duration took) {
    samples_[n_ % samples_.size()] = took;
    ++n_;
  }
  // Longer than 19 of 20 of them, and some more: who still waits then had better ask somebody else.
  absl::Duration HedgeAfter() const {
    constexpr absl::Duration kShortest = absl::Milliseconds(10);
    constexpr absl::Duration kLongest = absl::Milliseconds(500);
    if (n_ < 8) return absl::Milliseconds(100);
    auto sorted = samples_;
    const auto n = static_cast<std::ptrdiff_t>(std::min(n_, samples_.size()));
    const auto late = sorted.begin() + n * 95 / 100;
    std::nth_element(sorted.begin(), late, sorted.begin() + n);
    return std::clamp(2 * *late, kShortest, kLongest);
  }

 private:
  std::array<absl::Duration, 64> samples_{};
  size_t n_ = 0;
};

// One member as this client sees it.
struct ClusterNode {
  ClusterNode(Member the_member, std::unique_ptr<Client> the_client)
      : member(std::move(the_member)), client(std::move(the_client)) {}

  const Member member;
  std::unique_ptr<Client> client;  // null once the cluster client is closed
  Breaker breaker;
  LatencyWindow latency;
};

}  // namespace longshelf::kvstore
