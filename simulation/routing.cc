#include "simulation/routing.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace longshelf::simulation {
namespace {

// In [0, 1), the same on every machine: distributions of the standard library are not.
double Uniform(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

absl::Status BadRouting(const std::string& text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "routing \"", text, "\": must be uniform, zipf, zipf:EXPONENT (0 to 4), hot or hot:EXPERTS:SHARE (0 to 1)"));
}

std::vector<double> Weights(const RoutingSpec& spec, int n_experts, std::mt19937_64& random) {
  std::vector<double> weights(static_cast<size_t>(n_experts), 1.0);
  if (spec.kind == RoutingSpec::Kind::kZipf) {
    for (size_t i = 0; i < weights.size(); ++i) weights[i] = std::pow(static_cast<double>(i + 1), -spec.zipf_exponent);
    for (size_t i = weights.size() - 1; i > 0; --i) std::swap(weights[i], weights[random() % (i + 1)]);
  } else if (spec.kind == RoutingSpec::Kind::kHot) {
    for (size_t i = 0; i < weights.size(); ++i) {
      const bool is_hot = i < static_cast<size_t>(spec.n_hot);
      weights[i] = is_hot ? spec.hot_share / spec.n_hot : (1 - spec.hot_share) / (n_experts - spec.n_hot);
    }
  }
  return weights;
}

}  // namespace

absl::StatusOr<RoutingSpec> ParseRouting(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  RoutingSpec spec;
  if (parts[0] == "uniform" && parts.size() == 1) return spec;
  if (parts[0] == "zipf" && parts.size() <= 2) {
    spec.kind = RoutingSpec::Kind::kZipf;
    if (parts.size() == 2 && !absl::SimpleAtod(parts[1], &spec.zipf_exponent)) return BadRouting(text);
    if (!(spec.zipf_exponent >= 0 && spec.zipf_exponent <= 4)) return BadRouting(text);
    return spec;
  }
  if (parts[0] == "hot" && (parts.size() == 1 || parts.size() == 3)) {
    spec.kind = RoutingSpec::Kind::kHot;
    if (parts.size() == 3 &&
        (!absl::SimpleAtoi(parts[1], &spec.n_hot) || !absl::SimpleAtod(parts[2], &spec.hot_share))) {
      return BadRouting(text);
    }
    if (spec.n_hot < 1 || !(spec.hot_share > 0 && spec.hot_share < 1)) return BadRouting(text);
    return spec;
  }
  return BadRouting(text);
}

absl::StatusOr<ExpertSampler> ExpertSampler::Create(const RoutingSpec& spec, const ExpertShape& shape,
                                                    std::mt19937_64& random) {
  ExpertSampler sampler;
  if (spec.kind == RoutingSpec::Kind::kRecorded) {
    const auto n = static_cast<size_t>(shape.n_per_token);
    const bool fits = std::all_of(spec.recorded.begin(), spec.recorded.end(),
                                  [&](uint32_t e) { return e < static_cast<uint32_t>(shape.n_experts); });
    if (spec.recorded.empty() || spec.recorded.size() % n != 0 || !fits) {
      return absl::InvalidArgumentError(absl::StrCat("recorded routing: ", spec.recorded.size(), " experts, of tokens ",
                                                     "with ", n, " each, below ", shape.n_experts));
    }
    sampler.recorded_ = spec.recorded;
    sampler.next_recorded_ = random() % (spec.recorded.size() / n) * n;
    return sampler;
  }
  if (spec.kind == RoutingSpec::Kind::kHot && spec.n_hot >= shape.n_experts) {
    return absl::InvalidArgumentError(
        absl::StrCat("hot routing: ", spec.n_hot, " hot experts of ", shape.n_experts, "; must be fewer than all"));
  }
  sampler.below_ = Weights(spec, shape.n_experts, random);
  std::partial_sum(sampler.below_.begin(), sampler.below_.end(), sampler.below_.begin());
  return sampler;
}

uint32_t ExpertSampler::DrawOne(std::mt19937_64& random) const {
  const auto at = std::upper_bound(below_.begin(), below_.end(), Uniform(random) * below_.back());
  return static_cast<uint32_t>(std::min<size_t>(static_cast<size_t>(at - below_.begin()), below_.size() - 1));
}

void ExpertSampler::Draw(std::mt19937_64& random, std::span<uint32_t> out) {
  if (!recorded_.empty()) {
    std::copy_n(recorded_.begin() + static_cast<std::ptrdiff_t>(next_recorded_), out.size(), out.begin());
    next_recorded_ = (next_recorded_ + out.size()) % recorded_.size();
  } else {
    for (size_t i = 0; i < out.size();) {
      out[i] = DrawOne(random);
      if (std::find(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(i), out[i]) ==
          out.begin() + static_cast<std::ptrdiff_t>(i)) {
        ++i;
      }
    }
  }
  std::sort(out.begin(), out.end());
}

ExchangeCounts::ExchangeCounts(const Cluster& cluster, const ExpertShape& shape, std::span<const int> tokens,
                               ExpertSampler& sampler, std::mt19937_64& random)
    : cluster_(cluster), shape_(shape) {
  const auto n = static_cast<size_t>(cluster.n_ranks);
  pairs_.resize(n * n);
  tokens_.resize(n * n);
  host_tokens_.resize(n * static_cast<size_t>(cluster.n_hosts));
  host_pairs_.resize(host_tokens_.size());
  expert_rows_.resize(static_cast<size_t>(shape.n_experts));
  std::vector<int> owner(static_cast<size_t>(shape.n_experts));
  for (int r = 0; r < cluster.n_ranks; ++r) {
    std::fill(owner.begin() + shape.first_expert(r, cluster.n_ranks),
              owner.begin() + shape.first_expert(r + 1, cluster.n_ranks), r);
  }
  std::vector<uint32_t> experts(static_cast<size_t>(shape.n_per_token));
  for (int r = 0; r < cluster.n_ranks; ++r) {
    for (int t = 0; t < tokens[static_cast<size_t>(r)]; ++t) {
      sampler.Draw(random, experts);
      Add(r, experts, owner);
    }
  }
}

// Ascending experts have ascending owners.
void ExchangeCounts::Add(int source, std::span<const uint32_t> experts, std::span<const int> owner) {
  int last_rank = -1;
  for (const uint32_t e : experts) {
    const int rank = owner[e];
    const int host = cluster_.host_of(rank);
    ++expert_rows_[e];
    ++pairs_[Index(source, rank)];
    ++host_pairs_[HostIndex(source, host)];
    if (rank == last_rank) continue;
    ++tokens_[Index(source, rank)];
    if (last_rank < 0 || cluster_.host_of(last_rank) != host) ++host_tokens_[HostIndex(source, host)];
    last_rank = rank;
  }
}

std::span<const int64_t> ExchangeCounts::rows_of_experts(int rank) const {
  const auto begin = static_cast<size_t>(shape_.first_expert(rank, cluster_.n_ranks));
  const auto end = static_cast<size_t>(shape_.first_expert(rank + 1, cluster_.n_ranks));
  return std::span(expert_rows_).subspan(begin, end - begin);
}

}  // namespace longshelf::simulation
