#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "net/admin_server.h"

namespace longshelf::worker {

// How far this process is, for /readyz. Written by the main and the control thread, read by the admin server's.
class LoadState {
 public:
  enum class Phase : uint8_t { kStarting, kLoading, kPreparing, kServing, kDraining, kFailed };

  void Set(Phase phase) {
    phase_.store(phase);
    if (phase == Phase::kServing) has_served_.store(true);
  }
  void SetPercent(int percent) { percent_.store(percent); }

  // Start-up is over: what fails from then on is the engine or its group.
  bool has_served() const { return has_served_.load(); }
  bool live() const { return phase_.load() != Phase::kFailed; }
  Readiness Read() const {
    switch (phase_.load()) {
      case Phase::kStarting:
        return {false, "starting"};
      case Phase::kLoading:
        return {false, "loading weights " + std::to_string(percent_.load()) + " %"};
      case Phase::kPreparing:
        return {false, "allocating KV memory"};
      case Phase::kServing:
        return {true, "serving"};
      case Phase::kDraining:
        return {false, "draining"};
      case Phase::kFailed:
        break;
    }
    return {false, "the engine has ended"};
  }

 private:
  std::atomic<Phase> phase_{Phase::kStarting};
  std::atomic<int> percent_{0};
  std::atomic<bool> has_served_{false};
};

}  // namespace longshelf::worker
