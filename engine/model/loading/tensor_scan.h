#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "weights_builder.h"

namespace longshelf::engine {

// Reads every used tensor once, on several threads: refuses NaN (FP8 codes 0x7F and 0xFF, UE8M0 255, BF16 and F32 NaN)
// by tensor name, and returns the digest of ModelWeights. `progress` (may be null) is called on the calling thread.
absl::StatusOr<std::array<uint8_t, 32>> ScanTensors(const ModelConfig& config, std::vector<UsedTensor> used,
                                                    const std::function<void(const LoadProgress&)>& progress);

}  // namespace longshelf::engine
