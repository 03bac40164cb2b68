#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fake_model.h"
#include "sampler.h"

namespace longshelf::engine {

// What FakeModel makes of each token of `prompt` from `first` on, by the definition.
inline std::vector<ScoredToken> ScoresOf(const std::vector<uint32_t>& prompt, size_t first = 1, uint32_t n_top = 0) {
  std::vector<ScoredToken> out;
  for (size_t i = first; i < prompt.size(); ++i) {
    out.push_back(*ScoreToken(FakeModel::LogitsAfter(std::span(prompt).first(i)), prompt[i], n_top));
  }
  return out;
}

}  // namespace longshelf::engine
