#pragma once

#include <cstdint>
#include <vector>

#include "engine/model/config.h"

namespace longshelf::engine {

// The rotation of one position. u: the last rope_dim channels of a head, as interleaved pairs (u[2i], u[2i+1]).
struct Rotation {
  std::vector<float> cos;  // [n_pairs]
  std::vector<float> sin;

  void Apply(float* u) const;
  // By the negative angle.
  void ApplyInverse(float* u) const;
};

// Rotary embedding of one layer kind. Frequencies in fp32 exactly as model.py: precompute_freqs_cis; angle =
// fp32(position) * fp32(frequency), rounded; cos and sin of that angle in double, rounded once.
class RopeTable {
 public:
  // Sliding layers and MTP: rope_theta, no scaling.
  static RopeTable Sliding(const ModelConfig& config);
  // Layers that compress: compress_rope_theta with YaRN.
  static RopeTable Compressed(const ModelConfig& config);

  Rotation At(int64_t position) const;

 private:
  std::vector<float> frequencies_;
};

}  // namespace longshelf::engine
