#pragma once

#include <cstdint>

namespace longshelf::engine {

// How PyTorch on a CPU was called when it ran the published inference for a file of vectors: once, on n_tokens tokens.
// A few of its results depend on that call and on nothing the model defines. Only `verify` asks for them; what is
// served depends on none.
struct ReferenceCall {
  // Its BF16 rsqrt works on 32 values at a time with one rounding, and rounds twice (root, then reciprocal) for the
  // values left over: the last query heads of the call, or all heads of a short one. Native numerics.
  int64_t n_tokens = 0;
  // With two threads (1 or 2), its matrix product adds long rows in two halves.
  int n_threads = 1;
  // Its products of small matrices, attention's scores of some shapes among them, run in sixteen interleaved chains.
  bool lane_scores = false;
  // Its topk of few among many leaves equal index scores as its heap happens to, not to the lower entry. (A query that
  // matches no key scores exactly zero everywhere.) Seen in long fp32 files.
  bool heap_ties = false;
};

}  // namespace longshelf::engine
