#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/model.h"

namespace longshelf::engine {

// The parts of a DSpark module's Draft, each alone on given values: for `verify`. Used by the model's thread, between
// its other calls.
class DsparkParts {
 public:
  // REQUIRES: the model was created with DrafterKind::kDspark. It must outlive this.
  explicit DsparkParts(Model& model) : model_(model) {}

  // streams: of every target layer, [n, hc_mult, D] after it. Returns [n, n_targets * D].
  std::vector<float> MainHidden(std::span<const std::vector<float>> streams, int64_t n);
  std::vector<float> MainX(std::span<const float> main_hidden, int64_t n);  // [n, D]
  // Window rows of every stage, of positions [n_past, n_past + n), in a state slot.
  void Store(std::span<const float> main_x, int64_t n_past, int64_t n, std::byte* state);
  // [min(n_tokens, window), head_dim] in the order of a ring of window rows.
  std::vector<float> Window(int64_t stage, const std::byte* state, int64_t n_tokens) const;

  // Streams of a block are [block_size, hc_mult, D].
  std::vector<float> EmbedBlock(uint32_t token);
  // The block after `position`, whose window is in the state slot.
  absl::StatusOr<std::vector<float>> RunStage(int64_t stage, int64_t position, std::byte* state,
                                              std::span<const float> streams);
  // Of n places.
  std::vector<float> Hidden(std::span<const float> streams, int64_t n);     // [n, D]
  std::vector<float> BaseLogits(std::span<const float> hidden, int64_t n);  // [n, vocab]
  std::vector<float> Logits(std::span<const float> base_logits, std::span<const uint32_t> tokens_before);
  std::vector<float> Confidence(std::span<const float> hidden, std::span<const uint32_t> tokens_before);

 private:
  Model& model_;
};

}  // namespace longshelf::engine
