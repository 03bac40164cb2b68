#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "common/shutdown.h"
#include "engine/step_plan.h"
#include "load_state.h"
#include "worker/shard_config.h"

namespace longshelf::worker {

// What rank 0 got from its process.
struct LeaderContext {
  const ShardConfig& config;
  ShutdownSignals& signals;
  Clock& clock;
  Metrics& metrics;
  LoadState& load_state;
};

// What rank 0 says of the loaded model.
struct LeaderModel {
  std::array<uint8_t, 32> fingerprint{};
  std::string kernel_isa;
  std::string numerics;
  uint32_t vocab_size = 0;
  uint32_t eos_token_id = 0;
  int64_t n_context_max = 0;
  uint64_t block_bytes = 0;
  std::function<uint64_t(int64_t n_tokens)> state_export_bytes;
  std::vector<int64_t> shard_pids;
};

// Rank 0: serves worker.proto over an engine on the calling thread, until a signal has drained it (OK) or a step failed
// (its status). FAILED_PRECONDITION: the listen rule forbids the address.
absl::Status RunLeader(const LeaderContext& context, const LeaderModel& model, engine::StepRunner& runner);

}  // namespace longshelf::worker
