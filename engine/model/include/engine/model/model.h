#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "engine/comm/expert_transport.h"
#include "engine/model/kv_layout.h"
#include "engine/model/weights.h"

namespace longshelf::engine {

enum class WantLogits : uint8_t { kNone, kLast, kAll };

// One sequence's part of a step: tokens [n_past, n_past + tokens.size()).
struct SequenceChunk {
  // Tokens already processed into blocks and state. May be up to ModelOptions::n_draft_max lower than what ever was:
  // then the last ones are taken back, and all is as if they had never been there.
  int64_t n_past = 0;
  std::span<const uint32_t> tokens;    // at least one; each < vocab_size
  std::span<std::byte* const> blocks;  // block i covers tokens [256 i, 256 (i+1)); covers n_past + tokens.size()
  std::byte* state = nullptr;          // state slot
  WantLogits want_logits = WantLogits::kLast;
  // At least 0: only the state is rebuilt, from this position on, by chunks one after another. The blocks hold the
  // entries of these tokens and are read, not written; what the state knew before is not looked at. After
  // Model::replay_tokens() it is, bit for bit, what it was when the tokens were first processed. No logits.
  int64_t replay_begin = -1;
};

// A plain batch; the model knows nothing of scheduling. Chunks are independent and must be distinct sequences.
struct ForwardBatch {
  std::vector<SequenceChunk> chunks;
  // 2: one half of the rows computes while the other half's travel to their experts and back. At most as many as the
  // transport has lanes, and the same on all shards. No bit of any result depends on it.
  int n_microbatches = 1;
};

// The logits stay valid until the model's next call.
struct ForwardOutput {
  int64_t n_rows = 0;             // rows of logits, in chunk order
  std::span<const float> logits;  // [n_rows, vocab_size]
};

// Tokens to guess after a chunk of the last Forward().
struct DraftRequest {
  size_t chunk = 0;
  int64_t n_kept = 0;       // its leading tokens that hold; the others, n_draft_max at most, are taken back
  uint32_t next_token = 0;  // sampled after them; guesses follow it
};

// Valid until the model's next call.
struct DraftOutput {
  int64_t n_each = 0;
  std::span<const uint32_t> tokens;   // [requests, n_each]
  std::span<const float> confidence;  // [requests, n_each]: log odds that a token is right if those before it are
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
  // Tokens that a sequence may be taken back, 0 to kDraftTokensLimit: rows of slack in every state slot. No bit of any
  // result depends on it.
  int64_t n_draft_max = 0;
  // The draft module that Draft() runs; needs n_draft_max. No bit of any result but Draft's depends on it.
  DrafterKind drafter = DrafterKind::kNone;
  std::string kernels;  // one of AvailableKernels(); empty = the first
  // The largest step that is prepared for: memory for it is set aside once. A larger one makes the model set aside
  // more.
  int64_t n_rows_max = 0;
};

// Kernels of this machine that compute the defined bits, best first ("avx512-bf16", "avx512-vnni", "avx512", "avx2",
// "portable"): each was compared with the portable ones when it was first asked for. The environment variable
// LONGSHELF_KERNELS names the only ones to consider, for tests.
std::vector<std::string> AvailableKernels();
// What keeps kernels of this machine from being used, one line each: their self-test found other bits.
std::vector<std::string> RefusedKernels();

// The order of sums and the elementary functions. Any change of bits counts it up: it is part of the fingerprint, so
// that KV of another revision is never mixed in, and of what shards of a group compare.
inline constexpr int kNumericsRevision = 2;

// The forward pass. Owned and called by one engine thread; its thread pool forks and joins inside a call.
// Row-pure: a row's bits depend on its own sequence only, never on the batch, the chunking, n_threads or the number of
// expert shards (docs/numerics.md).
class Model {
 public:
  // `transport` must outlive the model; every shard of the group calls Forward the same number of times.
  // INVALID_ARGUMENT: an option is out of its bounds. FAILED_PRECONDITION: the weights do not have the draft module, or
  // this machine not the kernels asked for, or they compute other bits.
  static absl::StatusOr<std::unique_ptr<Model>> Create(std::shared_ptr<const ModelWeights> weights,
                                                       const ModelOptions& options, ExpertTransport& transport);
  ~Model();

  const ModelConfig& config() const;
  const ModelWeights& weights() const;
  const KvLayout& layout() const;
  Numerics numerics() const;
  // Name of the kernels in use, e.g. "avx512-bf16".
  std::string_view kernels() const;
  // SHA-256 of weights digest, layout, numerics and their revision: equal fingerprints promise equal bits.
  std::array<uint8_t, 32> fingerprint() const;

  // Tokens after which a replayed state is right: each layer's inputs are once the window of the layer below is.
  int64_t replay_tokens() const;

  // Appends every chunk's KV to its blocks and state, and returns the logits asked for. An empty batch still takes
  // part in expert dispatch. UNAVAILABLE: a peer shard is gone.
  absl::StatusOr<ForwardOutput> Forward(const ForwardBatch& batch, TapSink* taps = nullptr);

  // Tokens that Draft() guesses at most; 0 without a drafter.
  int64_t n_draft() const;
  // Guesses n_tokens <= n_draft() tokens, greedily, after each request's chunk; chunks of the last Forward() that no
  // request names are kept whole. Once after each Forward(), on every shard of a group alike: how often its layers
  // exchange experts depends on n_tokens only. A sequence whose state was imported, or that went on without Draft(), is
  // guessed from what the drafter has seen since. INVALID_ARGUMENT: a request does not fit that batch.
  // FAILED_PRECONDITION: no drafter, or no Forward() before.
  absl::StatusOr<DraftOutput> Draft(std::span<const DraftRequest> requests, int64_t n_tokens, TapSink* taps = nullptr);

  // fn(i) for every i < n, spread over the model's threads: work of a step beside the pass. Denormals are zero.
  void ForEach(int64_t n, absl::FunctionRef<void(int64_t)> fn);

  // Parts of the same pass, for `verify` and debugging. streams: [n, hc_mult, D].
  std::vector<float> Embed(std::span<const uint32_t> tokens) const;
  // One layer on one sequence's chunk, in place; appends that layer's KV only.
  absl::Status ForwardLayer(int64_t layer, const SequenceChunk& chunk, std::vector<float>& streams,
                            TapSink* taps = nullptr);
  // [n, vocab_size]
  std::vector<float> Logits(std::span<const float> streams, int64_t n);

 private:
  friend class DsparkParts;
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace longshelf::engine
