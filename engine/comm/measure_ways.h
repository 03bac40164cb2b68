#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/comm/communicator.h"
#include "engine/comm/expert_transport.h"
#include "engine/comm/row_way.h"

namespace longshelf::engine {

// Tokens of each shard in the exchanges that are measured: steps of decode and, beyond the caches, of prefill.
inline constexpr std::array<size_t, 4> kMeasuredTokens = {1, 8, 64, 512};

// What is sent while ways are measured.
struct MeasuredExchange {
  std::vector<uint32_t> experts;  // to choose from
  size_t n_experts_per_token = 0;
  size_t n_tokens_max = 0;
  size_t row_bytes = 0;
  size_t result_bytes = 0;
};

// Exchanges rows by each way in turn, some tens of milliseconds in all: written anew, as a quantiser and a product
// would, sent, and every line from elsewhere read once. `use` makes the transport take a way. Collective; everybody
// gets the same figures: of each round the slowest shard's, of these the best round's.
absl::StatusOr<std::vector<WayFigures>> MeasureWays(Communicator& communicator, ExpertTransport& transport,
                                                    const MeasuredExchange& exchange,
                                                    const std::function<void(const RowWays&)>& use);

}  // namespace longshelf::engine
