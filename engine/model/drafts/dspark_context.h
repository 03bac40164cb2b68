#pragma once

#include <cstdint>
#include <span>

#include "engine/model/weights.h"
#include "layer.h"

namespace longshelf::engine {

// What a DSpark module reads of the main model: the mean of the streams after each target layer, projected once for all
// stages (0731's model.py: main_proj, main_norm), then kept as window rows of each.
class DsparkContext {
 public:
  DsparkContext(ForwardContext& context, const DsparkWeights& weights) : context_(context), weights_(weights) {}

  // Columns of one position's main hidden row.
  int64_t hidden_width() const;

  // Means of n rows' streams [n, hc_mult, D]: columns of target `index` in `hidden`, [n, hidden_width()].
  void Mean(const float* streams, int64_t n, size_t index, float* hidden) const;
  // hidden is used up; main_x: [n, D].
  void Project(float* hidden, int64_t n, float* main_x) const;
  // Window rows of every stage for the positions of `rows`.
  void Store(const float* main_x, const StepRows& rows) const;

 private:
  ForwardContext& context_;
  const DsparkWeights& weights_;
};

}  // namespace longshelf::engine
