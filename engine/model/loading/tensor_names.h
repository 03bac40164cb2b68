#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace longshelf::engine {

// The official name of a stored tensor: V3-style synonyms and the names transformers converts to become the official
// ones; anything else is returned as it is. Stacked experts become "layers.3.ffn.experts.gate_up_proj.weight",
// ".gate_up_proj.scale", ".down_proj.weight", ".down_proj.scale".
std::string CanonicalTensorName(std::string_view stored);

// Copies of the main model's embedding and head below "mtp.", which the reference drops too.
bool IsDroppedTensor(std::string_view canonical);

// 17 for "layers.3.ffn.experts.17.w1.weight"; nothing for what every shard holds.
std::optional<int64_t> RoutedExpertOf(std::string_view canonical);

}  // namespace longshelf::engine
