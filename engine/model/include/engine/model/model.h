#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/comm/expert_transport.h"
#include "engine/model/kv_layout.h"
#include "engine/model/weights.h"

namespace longshelf::engine {

enum class WantLogits : uint8_t { kNone, kLast, kAll };

// One sequence's part of a step: tokens [n_past, n_past + tokens.size()).
struct SequenceChunk {
  int64_t n_past = 0;                      // tokens already processed into blocks and state
  std::span<const uint32_t> tokens;        // at least one; each < vocab_size
  std::span<std::byte* const> blocks;      // block i covers tokens [256 i, 256 (i+1)); covers n_past + tokens.size()
  std::byte* state = nullptr;              // state slot holding n_past tokens
  WantLogits want_logits = WantLogits::kLast;
};

// A plain batch; the model knows nothing of scheduling. Chunks are independent and must be distinct sequences.
struct ForwardBatch {
  std::vector<SequenceChunk> chunks;
};

struct ForwardOutput {
  int64_t n_rows = 0;           // rows of logits, in chunk order
  std::vector<float> logits;    // [n_rows, vocab_size]
  // MTP logits of slot t (spec section 8.1) for each logits row whose next token is known inside its chunk; only with
  // ModelOptions::run_mtp. [n_mtp_rows, vocab_size]
  std::vector<float> mtp_logits;
  std::vector<int64_t> mtp_row_positions;
};

// Receives inner results by their official tensor names ("layers.2.attn.wq_a", ...). For `verify`.
class TapSink {
 public:
  virtual ~TapSink() = default;
  // values: [rows, cols] fp32 for this step's rows.
  virtual void Tap(std::string_view name, std::span<const float> values, int64_t cols) = 0;
};

struct ModelOptions {
  Numerics numerics = Numerics::kNative;
  int n_threads = 1;
  bool run_mtp = false;
};

// The forward pass. Owned and called by one engine thread; its thread pool forks and joins inside a call.
// Row-pure: a row's bits depend on its own sequence only, never on the batch, the chunking, n_threads or the number of
// expert shards (architecture.md section 3).
class Model {
 public:
  // `transport` must outlive the model; every shard of the group calls Forward the same number of times.
  Model(std::unique_ptr<const ModelWeights> weights, const ModelOptions& options, ExpertTransport& transport);
  ~Model();

  const ModelConfig& config() const;
  const ModelWeights& weights() const;
  const KvLayout& layout() const;
  // Name of the vector kernels in use, e.g. "avx512".
  std::string_view kernel_isa() const;
  // SHA-256 of weights digest, layout, numerics and kernel ISA: equal fingerprints promise equal bits.
  std::array<uint8_t, 32> fingerprint() const;

  // Appends every chunk's KV to its blocks and state, and returns the logits asked for. An empty batch still takes
  // part in expert dispatch. UNAVAILABLE: a peer shard is gone.
  absl::StatusOr<ForwardOutput> Forward(const ForwardBatch& batch, TapSink* taps = nullptr);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace longshelf::engine
