#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "engine/sampling.h"

namespace longshelf::engine {

// How often each token was sampled so far. Only looked up, never iterated.
using TokenCounts = std::unordered_map<uint32_t, uint32_t>;

// Which tokens may be sampled, one bit each; those behind its end may not. Empty: all may.
using AllowedTokens = std::span<const uint64_t>;

// Samples the token for `position` (0-based, prompt included) from one row of logits [vocab]. A pure function:
// 1. each token of logit_bias gets its bias;
// 2. each token with count c > 0 loses presence_penalty + frequency_penalty * c; those that are not allowed are never;
// 3. temperature 0: the highest logit, the lowest id on ties. Otherwise softmax(logits / temperature), and
// 4. in the order (-logit, id): the first top_k; of these the shortest prefix holding top_p of their mass; of these
//    those with at least min_p of the first one's probability;
// 5. one draw of Philox keyed by (seed, position) walks what is left in that order.
// logprob and top are of softmax(logits) as the model gave them. Logits of -infinity mean "never".
// INTERNAL: NaN or +infinity among the logits, or none that is finite. FAILED_PRECONDITION: none of those allowed is.
absl::StatusOr<SampledToken> SampleToken(std::span<const float> logits, const SamplingParams& params,
                                         const TokenCounts& output_counts, int64_t position,
                                         AllowedTokens allowed = {});

// How likely `token` is by one row of logits, and the n_top likeliest. Errors as SampleToken's.
absl::StatusOr<ScoredToken> ScoreToken(std::span<const float> logits, uint32_t token, uint32_t n_top);

// INVALID_ARGUMENT names the parameter and its bounds.
absl::Status CheckSamplingParams(const SamplingParams& params, uint32_t vocab_size);

}  // namespace longshelf::engine
