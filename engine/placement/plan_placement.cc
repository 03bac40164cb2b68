#include "engine/placement/plan_placement.h"

#include <algorithm>
#include <numeric>

namespace longshelf::engine {
namespace {

// Bins are alike, so each takes the name of a shard that already holds much of it: the largest overlap first.
std::vector<int> NameBins(const std::vector<std::vector<uint32_t>>& experts_of_bin, const ExpertPlacement& current,
                          uint32_t layer) {
  const auto n = static_cast<int>(experts_of_bin.size());
  struct Overlap {
    int n_held;
    int bin;
    int rank;
  };
  std::vector<Overlap> overlaps;
  for (int b = 0; b < n; ++b) {
    for (int r = 0; r < n; ++r) {
      const auto& experts = experts_of_bin[static_cast<size_t>(b)];
      const auto n_held =
          std::count_if(experts.begin(), experts.end(), [&](uint32_t e) { return current.Holds(r, layer, e); });
      overlaps.push_back({static_cast<int>(n_held), b, r});
    }
  }
  std::stable_sort(overlaps.begin(), overlaps.end(),
                   [](const Overlap& a, const Overlap& b) { return a.n_held > b.n_held; });
  std::vector<int> rank_of_bin(static_cast<size_t>(n), -1);
  std::vector<bool> taken(static_cast<size_t>(n));
  for (const Overlap& o : overlaps) {
    if (rank_of_bin[static_cast<size_t>(o.bin)] >= 0 || taken[static_cast<size_t>(o.rank)]) continue;
    rank_of_bin[static_cast<size_t>(o.bin)] = o.rank;
    taken[static_cast<size_t>(o.rank)] = true;
  }
  return rank_of_bin;
}

// Holders of each expert of one layer.
void PlanLayer(const ExpertLoads& loads, uint32_t layer, uint32_t n_redundant, const ExpertPlacement& current,
               std::span<std::vector<uint16_t>> holders) {
  const auto n_ranks = static_cast<uint32_t>(current.n_ranks());
  std::vector<uint64_t> rows(loads.n_experts());
  for (uint32_t e = 0; e < loads.n_experts(); ++e) rows[e] = loads.rows(layer, e);
  const std::vector<uint32_t> copies = CountReplicas(rows, n_redundant, n_ranks);
  std::vector<double> weights;
  std::vector<uint32_t> experts;
  for (uint32_t e = 0; e < loads.n_experts(); ++e) {
    for (uint32_t c = 0; c < copies[e]; ++c) {
      experts.push_back(e);
      weights.push_back(static_cast<double>(rows[e]) / copies[e]);
    }
  }
  const std::vector<int> bins = PackBalanced(weights, experts, current.n_ranks());
  std::vector<std::vector<uint32_t>> experts_of_bin(n_ranks);
  for (size_t i = 0; i < bins.size(); ++i) experts_of_bin[static_cast<size_t>(bins[i])].push_back(experts[i]);
  const std::vector<int> rank_of_bin = NameBins(experts_of_bin, current, layer);
  for (size_t i = 0; i < bins.size(); ++i) {
    holders[experts[i]].push_back(static_cast<uint16_t>(rank_of_bin[static_cast<size_t>(bins[i])]));
  }
  for (std::vector<uint16_t>& of_expert : holders) {
    std::sort(of_expert.begin(), of_expert.end());
    of_expert.erase(std::unique(of_expert.begin(), of_expert.end()), of_expert.end());
  }
}

}  // namespace

std::vector<int> PackBalanced(std::span<const double> weights, std::span<const uint32_t> kinds, int n_bins) {
  const auto bins = static_cast<size_t>(n_bins);
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return weights[a] > weights[b]; });
  std::vector<double> weight_of_bin(bins, 0.0);
  std::vector<std::vector<uint32_t>> kinds_of_bin(bins);
  std::vector<int> out(weights.size());
  // So many bins may have one item more than the others.
  size_t n_larger = weights.size() % bins;
  for (const size_t item : order) {
    const auto has_kind = [&](size_t b) {
      return std::find(kinds_of_bin[b].begin(), kinds_of_bin[b].end(), kinds[item]) != kinds_of_bin[b].end();
    };
    size_t best = bins;
    bool best_has_kind = true;
    for (size_t b = 0; b < bins; ++b) {
      const size_t n = kinds_of_bin[b].size();
      if (n > weights.size() / bins || (n == weights.size() / bins && n_larger == 0)) continue;
      const bool has = has_kind(b);
      if (best < bins && (has > best_has_kind || (has == best_has_kind && weight_of_bin[b] >= weight_of_bin[best]))) {
        continue;
      }
      best = b;
      best_has_kind = has;
    }
    if (kinds_of_bin[best].size() == weights.size() / bins) --n_larger;
    kinds_of_bin[best].push_back(kinds[item]);
    weight_of_bin[best] += weights[item];
    out[item] = static_cast<int>(best);
  }
  return out;
}

std::vector<uint32_t> CountReplicas(std::span<const uint64_t> rows, uint32_t n_redundant, uint32_t n_copies_max) {
  std::vector<uint32_t> copies(rows.size(), 1);
  for (uint32_t n = 0; n < n_redundant; ++n) {
    size_t best = rows.size();
    for (size_t e = 0; e < rows.size(); ++e) {
      if (copies[e] >= n_copies_max) continue;
      // rows / copies, without a division.
      if (best == rows.size() || rows[e] * copies[best] > rows[best] * copies[e]) best = e;
    }
    if (best == rows.size()) break;
    ++copies[best];
  }
  return copies;
}

std::vector<double> PredictRankRows(const ExpertPlacement& placement, const ExpertLoads& loads, StepPhase phase,
                                    uint32_t layer) {
  std::vector<double> out(static_cast<size_t>(placement.n_ranks()), 0.0);
  for (uint32_t e = 0; e < loads.n_experts(); ++e) {
    const std::span<const uint16_t> holders = placement.holders(layer, e);
    const double share = static_cast<double>(loads.at(phase, layer, e)) / static_cast<double>(holders.size());
    for (const uint16_t r : holders) out[r] += share;
  }
  return out;
}

double PredictSlowest(const ExpertPlacement& placement, const ExpertLoads& loads) {
  double sum = 0;
  for (uint32_t l = 0; l < loads.n_layers(); ++l) {
    std::vector<double> rows = PredictRankRows(placement, loads, StepPhase::kDecode, l);
    const std::vector<double> prefill = PredictRankRows(placement, loads, StepPhase::kPrefill, l);
    for (size_t r = 0; r < rows.size(); ++r) rows[r] += prefill[r];
    sum += *std::max_element(rows.begin(), rows.end());
  }
  return sum;
}

ExpertPlacement PlanPlacement(const ExpertLoads& loads, uint32_t n_redundant, const ExpertPlacement& current) {
  std::vector<std::vector<uint16_t>> holders(size_t{loads.n_layers()} * loads.n_experts());
  for (uint32_t l = 0; l < loads.n_layers(); ++l) {
    PlanLayer(loads, l, n_redundant, current,
              std::span(holders).subspan(size_t{l} * loads.n_experts(), loads.n_experts()));
  }
  return {loads.n_layers(), loads.n_experts(), current.n_ranks(), std::move(holders)};
}

}  // namespace longshelf::engine
