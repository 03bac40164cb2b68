#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "absl/time/time.h"

namespace longshelf::net {

// Keeps what strangers can cause as often as they like from filling the log. Safe from any thread.
class LogGate {
 public:
  // How many were passed over since the last that was logged; nothing when this one is passed over, too. One a second
  // is logged.
  std::optional<uint64_t> Open(absl::Time now) {
    int64_t last = last_ns_.load();
    const int64_t now_ns = absl::ToUnixNanos(now);
    if (now_ns - last < 1'000'000'000 || !last_ns_.compare_exchange_strong(last, now_ns)) {
      n_passed_over_.fetch_add(1);
      return std::nullopt;
    }
    return n_passed_over_.exchange(0);
  }

 private:
  std::atomic<int64_t> last_ns_{-1'000'000'000'000'000'000};
  std::atomic<uint64_t> n_passed_over_{0};
};

}  // namespace longshelf::net
