#pragma once

#include <cstdint>
#include <vector>

namespace longshelf::engine {

// What is added to one token's logit.
struct TokenBias {
  uint32_t token = 0;
  float bias = 0.0F;  // -100 to 100
  bool operator==(const TokenBias&) const = default;
};

// How a sequence's tokens are chosen, and what is told of each.
struct SamplingParams {
  double temperature = 1.0;  // 0 = greedy
  double top_p = 1.0;
  uint32_t top_k = 0;  // 0 = off
  double min_p = 0.0;
  uint64_t seed = 0;
  double presence_penalty = 0.0;  // over output tokens
  double frequency_penalty = 0.0;
  bool logprobs = false;
  uint32_t n_top_logprobs = 0;
  std::vector<TokenBias> logit_bias = {};  // in ascending order of tokens, each once
  bool operator==(const SamplingParams&) const = default;
};

struct TokenLogprob {
  uint32_t token = 0;
  float logprob = 0.0F;
  bool operator==(const TokenLogprob&) const = default;
};

struct SampledToken {
  uint32_t token = 0;
  float logprob = 0.0F;  // of the model's distribution before temperature; 0 unless asked for
  std::vector<TokenLogprob> top;
  std::vector<float> logits;  // [vocab], only with return_logits
  bool operator==(const SampledToken&) const = default;
};

// A token that was given: how likely the model held it.
struct ScoredToken {
  uint32_t token = 0;
  float logprob = 0.0F;  // of the model's distribution, as SampledToken's
  std::vector<TokenLogprob> top;
  bool operator==(const ScoredToken&) const = default;
};

}  // namespace longshelf::engine
