#pragma once

#include <cstdint>
#include <span>

namespace longshelf::engine {

// The largest logit's token; on ties the lower one.
uint32_t LargestOf(std::span<const float> logits);
// log(p / (1 - p)) of a token's probability p. Decides no token, so it may come from the C library.
float LogOdds(std::span<const float> logits, uint32_t token);

}  // namespace longshelf::engine
