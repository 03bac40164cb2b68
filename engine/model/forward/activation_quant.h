#pragma once

#include <cstdint>

// Activation quantisation (kernel.py of the published inference: act_quant, fp4_act_quant). All in fp32; the results
// are exact in BF16.
namespace longshelf::engine {

// One group of n <= block channels. codes may alias nothing; returns the UE8M0 scale code.
uint8_t QuantizeE4m3Group(const float* x, int64_t n, uint8_t* codes);
uint8_t QuantizeE2m1Group(const float* x, int64_t n, uint8_t* codes);

// Q8_block(x) in place: value = code * scale per group of `block` channels; the last group may be short.
void FakeQuantE4m3(float* x, int64_t n, int64_t block);
// Q4_32(x) in place.
void FakeQuantE2m1(float* x, int64_t n);

// y = x * H / sqrt(n), H in Sylvester order, n a power of two; in place, rounded to BF16 by the caller.
void Hadamard(float* x, int64_t n);

}  // namespace longshelf::engine
