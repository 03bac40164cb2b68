#include "greedy.h"

#include <algorithm>
#include <cmath>

namespace longshelf::engine {

uint32_t LargestOf(std::span<const float> logits) {
  return static_cast<uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

float LogOdds(std::span<const float> logits, uint32_t token) {
  constexpr float kLeast = 1e-30F;  // of the others' probability: a finite answer
  float others = 0.0F;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (i != token) others += std::exp(logits[i] - logits[token]);
  }
  return -std::log(std::max(others, kLeast));
}

}  // namespace longshelf::engine
