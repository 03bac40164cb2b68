#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "drafter.h"
#include "dspark_context.h"
#include "dspark_head.h"

namespace longshelf::engine {

// Drafts a block at once: the sampled token and noise behind it pass through the stages, every place sees the others
// and the window of what the main model has read; then tokens are chosen one after another.
class DsparkDrafter final : public Drafter {
 public:
  DsparkDrafter(ForwardContext& context, const ModelWeights& weights);

  int64_t n_draft() const override;
  size_t MemoryBytes(const DraftSize& size) const override;
  void Begin(const StepRows& step) override;
  void Observe(int64_t layer, const StepRows& rows, int64_t first_row, const float* streams) override;
  absl::Status Draft(const StepRows& step, const float* streams, std::span<const KeptChunk> chunks, int64_t n_tokens,
                     Guesses& guesses, TapSink* sink) override;

  // The parts of Draft.
  const DsparkContext& main() const { return main_; }
  const DsparkHead& head() const { return head_; }
  // Embeds what blocks begin with: streams [places, hc_mult, D].
  void EmbedBlocks(const StepRows& blocks, float* streams) const;
  // A block's tokens behind position end - 1, of a sequence whose window begins at first_key.
  void AddBlock(uint32_t token, const SequenceRows& rows, StepRows& blocks);
  absl::Status RunStage(size_t stage, const StepRows& blocks, const StepRotations& rotations, float** streams,
                        float** spare);

 private:
  // Rows of a part that may still be asked for: what the window holds, and what may be taken back.
  int64_t FirstObserved(const SequenceRows& rows) const;
  void Feed(std::span<const KeptChunk> chunks);
  absl::Status Guess(std::span<const KeptChunk> chunks, int64_t n_tokens, const float* streams, Guesses& guesses,
                     TapSink* sink);

  ForwardContext& context_;
  Ops& ops_;
  const ModelWeights& weights_;
  const DsparkWeights& dspark_;
  const DsparkContext main_;
  const DsparkHead head_;
  float* hidden_ = nullptr;  // of the step: [n, hidden_width()], set for observed rows
  StepRows fed_;
  StepRows blocks_;
  std::vector<uint32_t> block_tokens_;
  std::vector<uint32_t> previous_;  // the last token of each block so far
  std::vector<uint32_t> before_;    // the token before each place
};

}  // namespace longshelf::engine
