#pragma once

#include <cstdint>
#include <vector>

#include "engine/model/config.h"

namespace longshelf::engine {

// Rotary embedding of one layer kind. Frequencies in fp32 exactly as model.py: precompute_freqs_cis; angle =
// fp32(position) * fp32(frequency), rounded; cos and sin of that angle in double, rounded once.
class RopeTable {
 public:
  // Sliding layers and MTP: rope_theta, no scaling.
  static RopeTable Sliding(const ModelConfig& config);
  // Layers that compress: compress_rope_theta with YaRN.
  static RopeTable Compressed(const ModelConfig& config);

  int64_t n_pairs() const { return static_cast<int64_t>(frequencies_.size()); }
  // cos, sin: [n_pairs]
  void Angles(int64_t position, float* cos, float* sin) const;

 private:
  std::vector<float> frequencies_;
};

// Rotates interleaved pairs (u[2i], u[2i+1]); inverse rotates by the negative angle.
void ApplyRope(float* u, int64_t n_pairs, const float* cos, const float* sin);
void ApplyInverseRope(float* u, int64_t n_pairs, const float* cos, const float* sin);

}  // namespace longshelf::engine
