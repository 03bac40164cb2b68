#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/comm/expert_placement.h"
#include "engine/placement/expert_loads.h"

namespace longshelf::engine {

// Spreads items over bins, heaviest first, each into the lightest bin that has room: every bin gets as many items as
// any other, or one less when they do not divide. Returns each item's bin. Ties: the lower item, the lower bin.
// `kinds`: items of one kind go to different bins as long as there are such with room.
std::vector<int> PackBalanced(std::span<const double> weights, std::span<const uint32_t> kinds, int n_bins);

// How many copies each expert gets when n_redundant more are made: every time one of that with the most rows per copy.
// No more than n_copies_max of any.
std::vector<uint32_t> CountReplicas(std::span<const uint64_t> rows, uint32_t n_redundant, uint32_t n_copies_max);

// Rows of each shard on a layer in a phase, when the copies of an expert share its rows evenly.
std::vector<double> PredictRankRows(const ExpertPlacement& placement, const ExpertLoads& loads, StepPhase phase,
                                    uint32_t layer);

// What the slowest shard computes, summed over layers: what a step waits for.
double PredictSlowest(const ExpertPlacement& placement, const ExpertLoads& loads);

// A placement for these loads with n_redundant copies more than experts on every layer. A pure function: shards that
// have the same arguments come to the same. Shards keep what they hold of it where they can.
ExpertPlacement PlanPlacement(const ExpertLoads& loads, uint32_t n_redundant, const ExpertPlacement& current);

}  // namespace longshelf::engine
