#pragma once

#include <cstdint>
#include <vector>

#include "engine/model/config.h"

namespace longshelf::engine {

// Cosines and sines of one position: [n_pairs] each.
struct Rotation {
  const float* cos = nullptr;
  const float* sin = nullptr;
};

// Rotary embedding of one layer kind. Frequencies in fp32 exactly as model.py: precompute_freqs_cis; angle =
// fp32(position) * fp32(frequency), rounded; cos and sin of that angle as CosSin (elementary.h).
class RopeTable {
 public:
  // Sliding layers and MTP: rope_theta, no scaling.
  static RopeTable Sliding(const ModelConfig& config);
  // Layers that compress: compress_rope_theta with YaRN.
  static RopeTable Compressed(const ModelConfig& config);

  int64_t n_pairs() const { return static_cast<int64_t>(frequencies_.size()); }
  // cos, sin: [n_pairs].
  void Angles(int64_t position, float* cos, float* sin) const;

 private:
  std::vector<float> frequencies_;
};

}  // namespace longshelf::engine
