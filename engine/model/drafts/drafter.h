#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "draft_state.h"
#include "engine/model/model.h"
#include "layer.h"
#include "step_rows.h"

namespace longshelf::engine {

// A chunk of the last step as far as it holds.
struct KeptChunk {
  const SequenceRows* rows = nullptr;  // of the step
  int64_t n_kept = 0;                  // leading rows, at least one
  bool guess = false;                  // whether tokens are wanted after next_token, which was sampled after the rows
  uint32_t next_token = 0;

  int64_t end() const { return rows->n_past + n_kept; }
};

// [chunks to guess after, n_tokens], in the order of chunks; kept from step to step, so that they stop growing.
struct Guesses {
  std::vector<uint32_t> tokens;
  std::vector<float> confidence;  // log odds that the main model agrees, as the drafter sees it
};

// What the memory of a step must have room for, beyond the step itself.
struct DraftSize {
  int64_t n_rows = 0;    // of the step
  int64_t n_chunks = 0;  // of the step: at most as many requests
  int n_shards = 1;
};

// A draft module, beside the model's own pass. What it keeps of a sequence lies in the sequence's state slot. Its rows
// are as pure as the main model's: a guess depends on its sequence's tokens, and on the position from which the module
// saw them, only.
class Drafter {
 public:
  virtual ~Drafter() = default;

  // Tokens guessed at most.
  virtual int64_t n_draft() const = 0;
  // An upper bound of what one step's Begin, Observe and Draft take from the workspace.
  virtual size_t MemoryBytes(const DraftSize& size) const = 0;

  // Before the layers of a step. What is kept stays in the workspace.
  virtual void Begin(const StepRows& step) = 0;
  // After each layer, for all rows of the step or for those from first_row on: streams [n, hc_mult, D].
  virtual void Observe(int64_t layer, const StepRows& rows, int64_t first_row, const float* streams) = 0;
  // After the step, once: chunks are all of its chunks, streams those after the last layer. Exchanges expert rows as
  // often as n_tokens says, with or without something to guess. guesses have their size.
  virtual absl::Status Draft(const StepRows& step, const float* streams, std::span<const KeptChunk> chunks,
                             int64_t n_tokens, Guesses& guesses, TapSink* sink) = 0;

 protected:
  static DraftState& StateOf(const ForwardContext& context, std::byte* slot) {
    return *reinterpret_cast<DraftState*>(slot + context.layout.DraftOffset());
  }
};

// REQUIRES: the weights have the module, and the layout room for it.
std::unique_ptr<Drafter> MakeMtpDrafter(ForwardContext& context, const ModelWeights& weights);

}  // namespace longshelf::engine
