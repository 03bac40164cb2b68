#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "engine/executor.h"
#include "engine/prefix_key.h"

namespace longshelf::engine {

// A model whose next token depends on every byte of the sequence's past: position p leaves the record
// H(record of p-1, token p) in its block, the state keeps the last record and the count, and the logits are a function
// of all records. One lost, stale, foreign or repeated block, state or token changes every later token.
class FakeModel final : public SequenceModel {
 public:
  static constexpr uint32_t kVocab = 97;
  static constexpr size_t kRecordBytes = sizeof(uint64_t);

  // Guesses n_draft tokens at a time, most of them right; up to n_draft_max tokens can be taken back.
  // n_replay: its state can be rebuilt from blocks, and is right after so many tokens; before, it is rubbish.
  explicit FakeModel(int64_t n_draft_max = 0, int64_t n_draft = 0, int64_t n_replay = 0)
      : n_draft_max_(n_draft_max), n_draft_(n_draft), n_replay_(n_replay) {}

  uint32_t vocab_size() const override { return kVocab; }
  size_t block_bytes() const override { return kBlockTokens * kRecordBytes; }
  size_t state_bytes() const override { return (1 + kRecordsKept) * sizeof(uint64_t); }
  double position_cost() const override { return 0.0; }
  void ResetState(std::byte* slot) const override;
  // Grows and shrinks with n_tokens, as real ones do.
  size_t StateExportBytes(int64_t n_tokens) const override {
    return 2 * sizeof(uint64_t) + static_cast<size_t>(n_tokens % 4);
  }
  void ExportState(const std::byte* slot, int64_t n_tokens, std::span<std::byte> out) const override;
  absl::Status ImportState(std::span<const std::byte> bytes, int64_t n_tokens, std::byte* slot) const override;
  void ClearTail(std::byte* block, int64_t n_tokens_in_block) const override;
  absl::StatusOr<ForwardOutput> Forward(const ForwardBatch& batch) override;
  int64_t replay_tokens() const override { return n_replay_; }
  int64_t n_draft_max() const override { return n_draft_max_; }
  int64_t n_draft() const override { return n_draft_; }
  absl::StatusOr<DraftOutput> Draft(std::span<const DraftRequest> requests, int64_t n_tokens) override;

  // A sequence that processes this token gets NaN logits from then on.
  static constexpr uint32_t kPoison = 96;

  // The logits after `tokens`, from the definition.
  static std::vector<float> LogitsAfter(std::span<const uint32_t> tokens);
  // Greedy continuation: `n` tokens, or up to `eos`.
  static std::vector<uint32_t> Continue(std::vector<uint32_t> tokens, size_t n, uint32_t eos);

  int64_t n_forwards = 0;
  int64_t n_tokens_computed = 0;
  int64_t n_tokens_replayed = 0;

 private:
  void Replay(const SequenceChunk& chunk);
  void AppendLogits(const SequenceChunk& chunk, uint64_t n_tokens, bool poisoned, ForwardOutput& out);

  static constexpr size_t kRecordsKept = 16;  // of the last positions, in the state

  const int64_t n_draft_max_;
  const int64_t n_draft_;
  const int64_t n_replay_;
  std::vector<float> logits_;          // of the last Forward
  std::vector<SequenceChunk> chunks_;  // the same
  std::vector<uint32_t> guesses_;
  std::vector<float> confidence_;
};

// Not a good hash, but names are unlikely to meet.
class FakeHasher final : public PrefixHasher {
 public:
  PrefixKey Root(std::string_view namespace_salt) const override;
  PrefixKey Next(const PrefixKey& parent, std::span<const uint32_t> tokens) const override;
};

}  // namespace longshelf::engine
