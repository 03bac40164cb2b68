#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/model/config.h"
#include "engine/model/weights.h"

// Single operations of the forward pass, as the pass itself runs them: for `verify`, for tests, and as the contract of
// a second backend. The kernels are chosen by name; empty = the best of this machine.
namespace longshelf::engine::primitives {

uint8_t EncodeE4m3(float value);
uint8_t EncodeE2m1(float value);
float DecodeE4m3(uint8_t code);
float DecodeE2m1(uint8_t code);
float DecodeE8m0(uint8_t code);
uint16_t EncodeBf16(float value);
float DecodeBf16(uint16_t bits);

struct QuantizedRow {
  std::vector<uint8_t> codes;   // [n]
  std::vector<uint8_t> scales;  // [ceil(n / block)]
  std::vector<float> values;    // [n]
};
QuantizedRow QuantizeE4m3(std::span<const float> x, int64_t block);
QuantizedRow QuantizeE2m1(std::span<const float> x);

// x [n] -> rounded to BF16; n a power of two.
std::vector<float> Hadamard(std::span<const float> x);

// cos, sin: [rope_dim / 2] at one position.
void RopeAngles(const ModelConfig& config, bool compressed, int64_t position, std::span<float> cos,
                std::span<float> sin);

// mixes [(2 + hc) hc] -> pre [hc], post [hc], comb [hc * hc].
void SplitSinkhorn(const ModelConfig& config, std::span<const float> mixes, std::span<const float> scale,
                   std::span<const float> base, std::span<float> pre, std::span<float> post, std::span<float> comb);

// A native linear: input quantised when w is, output rounded to BF16. x [n, cols] -> [n, rows].
std::vector<float> Linear(const Matrix& w, std::span<const float> x, int64_t n, std::string_view kernels);

// One query row over KV rows picked by slot, native rounding, no RoPE. q [n_heads, width]; slots name rows of kv
// [*, width], -1 = masked; every 64 slots are one tile. Returns [n_heads, width].
std::vector<float> Attend(std::span<const float> q, int64_t n_heads, int64_t width, std::span<const float> kv,
                          std::span<const int64_t> slots, std::span<const float> sink, std::string_view kernels);

}  // namespace longshelf::engine::primitives
