#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "common/status.h"
#include "exact_math.h"
#include "philox.h"

namespace longshelf::engine {
namespace {

constexpr uint32_t kTopLogprobsMax = 128;
constexpr size_t kLogitBiasMax = 1024;
constexpr float kBiasMax = 100.0F;
// First number of candidates put in order; doubled as often as a draw needs more.
constexpr size_t kFirstSorted = 64;

// Token ids in the order (-logit, id), sorted only as far as somebody looked.
class RankedTokens {
 public:
  explicit RankedTokens(std::span<const float> logits) : logits_(logits), ids_(logits.size()) {
    std::iota(ids_.begin(), ids_.end(), 0U);
  }
  size_t size() const { return ids_.size(); }
  uint32_t operator[](size_t rank) {
    while (rank >= n_sorted_) Extend(std::max(kFirstSorted, 4 * n_sorted_));
    return ids_[rank];
  }

 private:
  void Extend(size_t n) {
    const auto before = [this](uint32_t a, uint32_t b) {
      return logits_[a] != logits_[b] ? logits_[a] > logits_[b] : a < b;
    };
    n = std::min(n, ids_.size());
    const auto at = [this](size_t i) { return ids_.begin() + static_cast<std::ptrdiff_t>(i); };
    if (n < ids_.size()) std::nth_element(at(n_sorted_), at(n), ids_.end(), before);
    std::sort(at(n_sorted_), at(n), before);
    n_sorted_ = n;
  }

  std::span<const float> logits_;
  std::vector<uint32_t> ids_;
  size_t n_sorted_ = 0;
};

absl::Status CheckLogits(std::span<const float> logits) {
  bool any_finite = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == HUGE_VALF) {
      return absl::InternalError(
          absl::StrCat("logit of token ", i, " is ", std::isnan(logits[i]) ? "not a number" : "infinite"));
    }
    any_finite |= std::isfinite(logits[i]);
  }
  return any_finite ? absl::OkStatus() : absl::InternalError("no logit is finite");
}

std::vector<float> WithBiasAndPenalties(std::span<const float> logits, const SamplingParams& params,
                                        const TokenCounts& counts) {
  std::vector<float> out(logits.begin(), logits.end());
  for (const TokenBias& entry : params.logit_bias) {
    if (entry.token < out.size()) out[entry.token] += entry.bias;
  }
  if (params.presence_penalty == 0.0 && params.frequency_penalty == 0.0) return out;
  for (const auto& [token, count] : counts) {  // independent updates: their order does not matter
    if (token >= out.size() || count == 0) continue;
    const double penalty = params.presence_penalty + params.frequency_penalty * count;
    out[token] = static_cast<float>(out[token] - penalty);
  }
  return out;
}

// The logits of tokens that are not allowed become -infinity. False: there is no other.
bool Forbid(AllowedTokens allowed, std::vector<float>& logits) {
  bool any_left = false;
  for (size_t first = 0; first < logits.size(); first += 64) {
    const uint64_t word = first / 64 < allowed.size() ? allowed[first / 64] : 0;
    const size_t n = std::min<size_t>(64, logits.size() - first);
    for (size_t i = 0; i < n; ++i) {
      if ((word >> i & 1) == 0) logits[first + i] = -HUGE_VALF;
      any_left |= std::isfinite(logits[first + i]);
    }
  }
  return any_left;
}

uint32_t ArgMax(std::span<const float> logits) {
  return static_cast<uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

uint32_t Draw(std::span<const float> logits, const SamplingParams& params, double uniform) {
  RankedTokens ranked(logits);
  const double top_logit = logits[ranked[0]];
  const auto weight = [&](uint32_t id) { return ExactExp((logits[id] - top_logit) / params.temperature); };

  const bool has_top_k = params.top_k > 0 && params.top_k < ranked.size();
  size_t n_kept = has_top_k ? params.top_k : ranked.size();
  double mass = 0.0;
  if (has_top_k) {
    for (size_t i = 0; i < n_kept; ++i) mass += weight(ranked[i]);
  } else {
    for (uint32_t id = 0; id < logits.size(); ++id) mass += weight(id);
  }
  if (params.top_p < 1.0 || params.min_p > 0.0) {
    const double mass_wanted = params.top_p * mass;
    double kept_mass = 0.0;
    size_t n = 0;
    while (n < n_kept) {
      const double w = weight(ranked[n]);
      if (n > 0 && ((params.top_p < 1.0 && kept_mass >= mass_wanted) || w < params.min_p)) break;
      kept_mass += w;
      ++n;
    }
    n_kept = n;
    mass = kept_mass;
  }
  const double target = uniform * mass;
  double cumulative = 0.0;
  size_t last_possible = 0;
  for (size_t i = 0; i < n_kept; ++i) {
    const double w = weight(ranked[i]);
    if (w == 0.0) break;  // so are all after it
    cumulative += w;
    last_possible = i;
    if (cumulative > target) break;
  }
  return ranked[last_possible];
}

// Token: a SampledToken or a ScoredToken.
template <typename Token>
void AddLogprobs(std::span<const float> logits, uint32_t n_top, Token& out) {
  const double top_logit = *std::max_element(logits.begin(), logits.end());
  double mass = 0.0;
  for (const float logit : logits) mass += ExactExp(logit - top_logit);
  const double log_mass = top_logit + ExactLog(mass);
  const auto logprob = [&](uint32_t id) { return static_cast<float>(logits[id] - log_mass); };
  out.logprob = logprob(out.token);
  if (n_top == 0) return;
  RankedTokens ranked(logits);
  for (size_t i = 0; i < std::min<size_t>(n_top, ranked.size()); ++i) {
    out.top.push_back({ranked[i], logprob(ranked[i])});
  }
}

absl::Status CheckLogitBias(const std::vector<TokenBias>& biases, uint32_t vocab_size) {
  if (biases.size() > kLogitBiasMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("logit_bias has ", biases.size(), " entries; at most ", kLogitBiasMax));
  }
  for (size_t i = 0; i < biases.size(); ++i) {
    const auto& [token, bias] = biases[i];
    if (token >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("logit_bias names token ", token, "; the vocabulary has ", vocab_size, " tokens"));
    }
    if (i > 0 && token <= biases[i - 1].token) {
      return absl::InvalidArgumentError(
          absl::StrCat("logit_bias names token ", token, " after ", biases[i - 1].token, "; tokens must ascend"));
    }
    if (!(std::abs(bias) <= kBiasMax)) {  // also when it is not a number
      return absl::InvalidArgumentError(
          absl::StrCat("logit_bias of token ", token, " is ", bias, "; it must lie in -", kBiasMax, " to ", kBiasMax));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SampledToken> SampleToken(std::span<const float> logits, const SamplingParams& params,
                                         const TokenCounts& output_counts, int64_t position, AllowedTokens allowed) {
  RETURN_IF_ERROR(CheckLogits(logits));
  SampledToken out;
  std::vector<float> penalized = WithBiasAndPenalties(logits, params, output_counts);
  if (!allowed.empty() && !Forbid(allowed, penalized)) {
    return absl::FailedPreconditionError("the model gives no chance to any token of the form that is asked for");
  }
  if (params.temperature == 0.0) {
    out.token = ArgMax(penalized);
  } else {
    out.token = Draw(penalized, params, UniformAt(params.seed, static_cast<uint64_t>(position)));
  }
  if (params.logprobs) AddLogprobs(logits, params.n_top_logprobs, out);
  return out;
}

absl::StatusOr<ScoredToken> ScoreToken(std::span<const float> logits, uint32_t token, uint32_t n_top) {
  RETURN_IF_ERROR(CheckLogits(logits));
  ScoredToken out;
  out.token = token;
  AddLogprobs(logits, n_top, out);
  return out;
}

absl::Status CheckSamplingParams(const SamplingParams& params, uint32_t vocab_size) {
  const auto check = [](absl::string_view name, double value, double low, double high) {
    if (value >= low && value <= high) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, "; it must lie in ", low, " to ", high));
  };
  RETURN_IF_ERROR(check("temperature", params.temperature, 0.0, 100.0));
  RETURN_IF_ERROR(check("top_p", params.top_p, 0.0, 1.0));
  RETURN_IF_ERROR(check("min_p", params.min_p, 0.0, 1.0));
  RETURN_IF_ERROR(check("presence_penalty", params.presence_penalty, -100.0, 100.0));
  RETURN_IF_ERROR(check("frequency_penalty", params.frequency_penalty, -100.0, 100.0));
  if (params.n_top_logprobs > kTopLogprobsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("n_top_logprobs is ", params.n_top_logprobs, "; at most ", kTopLogprobsMax));
  }
  return CheckLogitBias(params.logit_bias, vocab_size);
}

}  // namespace longshelf::engine
