#pragma once

#include <cstdint>
#include <span>

#include "engine/model/weights.h"
#include "ops.h"

// Where tokens come in and scores of tokens go out.
namespace longshelf::engine {

// One row of a table with a row per token, BF16 or F32 as it is stored; out: [table.cols].
void LookUp(const Ops& ops, const Matrix& table, uint32_t token, float* out);
// hc_mult equal copies of every token's embedding; streams: [n, hc_mult, D].
void Embed(Ops& ops, const Matrix& table, std::span<const uint32_t> tokens, float* streams);

// Scores of n rows x [n, D] (norm, then head); logits: [n, vocab].
void HeadLogits(Ops& ops, const Matrix& head, std::span<const float> norm, const float* x, int64_t n, float* logits);
// The same from streams [n, hc_mult, D], which are collapsed first.
void HeadLogits(Ops& ops, const Matrix& head, const HyperConnection& collapse, std::span<const float> norm,
                const float* streams, int64_t n, float* logits);

}  // namespace longshelf::engine
