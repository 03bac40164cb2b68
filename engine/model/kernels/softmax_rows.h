#pragma once

#include "rows.h"

// The running softmax over one tile of keys.
namespace longshelf::engine {
namespace {

// Scores of a tile (scaled here) to probabilities, running maximum and sum; keys outside [begin, end) become 0. Returns
// what the sums so far must be multiplied with.
inline float SoftmaxTile(float* p, int64_t begin, int64_t end, float scale, bool round, SoftmaxState* state) {
  F scores[kTileKeys / kLanes];
  float positions[kLanes];
  for (int l = 0; l < kLanes; ++l) positions[l] = static_cast<float>(l);
  const F lane = Load(positions);
  const F none = Set(-std::numeric_limits<float>::infinity());
  F largest = none;
  for (int64_t v = 0; v < kTileKeys / kLanes; ++v) {
    const F at = Add(lane, Set(static_cast<float>(v * kLanes)));
    const F score = Mul(Load(p + v * kLanes), Set(scale));
    const F from = Select(Less(at, Set(static_cast<float>(begin))), none, score);
    scores[v] = Select(Less(at, Set(static_cast<float>(end))), from, none);
    largest = Max(scores[v], largest);
  }
  const float previous = state->max;
  const float tile_max = Largest(largest);
  state->max = tile_max > previous ? tile_max : previous;
  float factor[kLanes];
  Store(Exp(Set(previous - state->max)), factor);
  F sum = Zero();
  for (int64_t v = 0; v < kTileKeys / kLanes; ++v) {
    const F value = Exp(Sub(scores[v], Set(state->max)));
    sum = Add(sum, value);
    Store(RoundIf(round, value), p + v * kLanes);
  }
  state->sum = state->sum * factor[0] + Fold(sum);
  return factor[0];
}

inline float SoftmaxDenominator(SoftmaxState state, float sink) {
  float last[kLanes];
  Store(Exp(Set(sink - state.max)), last);
  return state.sum + last[0];
}

}  // namespace
}  // namespace longshelf::engine
