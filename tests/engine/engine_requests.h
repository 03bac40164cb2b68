#pragma once

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "engine/request.h"

namespace longshelf::engine {

// Tokens that neither end a fake sequence nor poison it.
inline std::vector<uint32_t> Prompt(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint32_t> out(n);
  for (uint32_t& token : out) token = 2 + static_cast<uint32_t>(random() % 90);
  return out;
}

inline SequenceRequest Request(std::vector<uint32_t> prompt, uint32_t max_tokens) {
  SequenceRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.sampling.temperature = 0.0;
  return request;
}

inline std::vector<uint32_t> Join(std::vector<uint32_t> a, const std::vector<uint32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace longshelf::engine
