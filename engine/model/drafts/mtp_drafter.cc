#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "drafter.h"
#include "greedy.h"
#include "hyper_connection.h"
#include "step_memory.h"
#include "vocabulary.h"

namespace longshelf::engine {
namespace {

// The multi-token-prediction layer (model.py: MTPBlock). Slot t joins the main model's streams of position t with the
// token at t + 1 and predicts the token at t + 2. Deeper guesses feed the layer's own streams back to it.
class MtpDrafter final : public Drafter {
 public:
  MtpDrafter(ForwardContext& context, const ModelWeights& weights)
      : context_(context), ops_(context.ops), weights_(weights), mtp_(weights.mtp.front()) {
    place_.experts = static_cast<uint32_t>(context.config.n_layers);
    place_.window = context.layout.DraftWindow(0);
  }

  int64_t n_draft() const override { return context_.layout.n_draft_max(); }

  size_t MemoryBytes(const DraftSize& size) const override {
    const ModelConfig& config = context_.config;
    const int n_threads = ops_.pool().n_threads();
    const int64_t n_received = size.n_chunks * config.n_experts_per_token * size.n_shards;
    return StepMemoryBytes(config, context_.layout, {size.n_rows + size.n_chunks, 0, 0}, n_threads) +
           StepMemoryBytes(config, context_.layout, {size.n_chunks, n_received, size.n_chunks}, n_threads);
  }

  void Begin(const StepRows&) override {}
  void Observe(int64_t, const StepRows&, int64_t, const float*) override {}

  absl::Status Draft(const StepRows& step, const float* streams, std::span<const KeptChunk> chunks, int64_t n_tokens,
                     Guesses& guesses, TapSink* sink) override {
    const int64_t width = context_.stream_width();
    float* x = ops_.memory().Take<float>(static_cast<int64_t>(chunks.size()) * width);
    float* spare = ops_.memory().Take<float>(static_cast<int64_t>(chunks.size()) * width);
    CompleteSlots(step, streams, chunks, x);
    for (int64_t depth = 0; depth < n_tokens; ++depth) {
      const Workspace::Scope scope(ops_.memory());
      if (depth > 0) {
        GuessedRows(chunks, depth, n_tokens, guesses);
        JoinStreams(guessed_.tokens(), x, spare);
        std::swap(x, spare);
      }
      const StepRotations rotations = guessed_.Rotations(ops_, context_.sliding_rope);
      if (absl::Status s = RunLayer(context_, mtp_.layer, place_, guessed_, rotations, &x, &spare, nullptr); !s.ok()) {
        return s;
      }
      Guess(x, depth, n_tokens, guesses, sink);
    }
    return absl::OkStatus();
  }

 private:
  // Stores the window rows of every slot that the chunks complete and the window still holds. Rows of the slots after
  // which to guess go to guessed_, their input to `inputs`.
  void CompleteSlots(const StepRows& step, const float* streams, std::span<const KeptChunk> chunks, float* inputs) {
    const Workspace::Scope scope(ops_.memory());
    const int64_t width = context_.stream_width();
    slots_.Clear();
    float* before = ops_.memory().Take<float>((step.n() + static_cast<int64_t>(chunks.size())) * width);
    for (const KeptChunk& chunk : chunks) AddSlots(step, streams, chunk, before);
    const int64_t n = slots_.n();
    float* x = ops_.memory().Take<float>(n * width);
    JoinStreams(slots_.tokens(), before, x);
    if (n > 0) {
      HyperMix mix;
      const SublayerInput input = HyperCollapse(ops_, mtp_.layer.hc_attn, mtp_.layer.attn_norm, x, n, &mix);
      StoreWindowRows(ops_, mtp_.layer.attn, context_.layout, place_.window, input, slots_.parts(),
                      slots_.Rotations(ops_, context_.sliding_rope));
    }
    guessed_.Clear();
    size_t part = 0;
    for (const KeptChunk& chunk : chunks) {
      if (!chunk.guess) {
        // A chunk without slots has no part.
        if (part < slots_.parts().size() && slots_.parts()[part].state == chunk.rows->state) ++part;
        continue;
      }
      const SequenceRows& rows = slots_.parts()[part++];
      const int64_t last = rows.row_begin + rows.n_rows - 1;
      std::copy_n(x + last * width, width, inputs + guessed_.n() * width);
      AddGuessed(chunk, chunk.next_token, 0);
    }
  }

  void AddSlots(const StepRows& step, const float* streams, const KeptChunk& chunk, float* before) {
    const SequenceRows& rows = *chunk.rows;
    const int64_t width = context_.stream_width();
    DraftState& state = StateOf(context_, rows.state);
    auto* waiting = reinterpret_cast<float*>(rows.state + context_.layout.DraftStreamsOffset());
    if (state.end + state.has_streams != rows.n_past) state = {rows.n_past, rows.n_past, 0};
    const int64_t begin = state.end;
    // Without a request the last position waits for its next token.
    const int64_t end = chunk.end() - (chunk.guess ? 0 : 1);
    const int64_t first = std::max(begin, end - context_.config.window);
    tokens_.clear();
    for (int64_t slot = first; slot < end; ++slot) {
      const int64_t own = slot - rows.n_past;  // -1: the one that waited
      const float* from = own < 0 ? waiting : streams + (rows.row_begin + own) * width;
      std::copy_n(from, width, before + (slots_.n() + slot - first) * width);
      tokens_.push_back(own + 1 < chunk.n_kept ? step.tokens()[static_cast<size_t>(rows.row_begin + own + 1)]
                                               : chunk.next_token);
    }
    if (!tokens_.empty()) slots_.Add(tokens_, {.n_past = first, .state = rows.state});
    state.end = end;
    state.has_streams = chunk.guess ? 0 : 1;
    if (!chunk.guess) std::copy_n(streams + (rows.row_begin + chunk.n_kept - 1) * width, width, waiting);
  }

  void AddGuessed(const KeptChunk& chunk, uint32_t token, int64_t depth) {
    std::byte* slot = chunk.rows->state;
    guessed_.Add({&token, 1},
                 {.n_past = chunk.end() - 1 + depth, .state = slot, .first_key = StateOf(context_, slot).first});
  }

  void GuessedRows(std::span<const KeptChunk> chunks, int64_t depth, int64_t n_tokens, const Guesses& guesses) {
    guessed_.Clear();
    for (const KeptChunk& chunk : chunks) {
      if (!chunk.guess) continue;
      AddGuessed(chunk, guesses.tokens[static_cast<size_t>(guessed_.n() * n_tokens + depth - 1)], depth);
    }
  }

  void Guess(const float* streams, int64_t depth, int64_t n_tokens, Guesses& guesses, TapSink* sink) {
    const int64_t vocab = context_.config.vocab_size;
    const int64_t n = guessed_.n();
    float* logits = ops_.memory().Take<float>(n * vocab);
    HeadLogits(ops_, weights_.head, mtp_.hc_head, mtp_.norm, streams, n, logits);
    if (sink != nullptr) sink->Tap("draft.logits", {logits, static_cast<size_t>(n * vocab)}, vocab);
    for (int64_t row = 0; row < n; ++row) {
      const std::span<const float> own(logits + row * vocab, static_cast<size_t>(vocab));
      const auto at = static_cast<size_t>(row * n_tokens + depth);
      guesses.tokens[at] = LargestOf(own);
      guesses.confidence[at] = LogOdds(own, guesses.tokens[at]);
    }
  }

  // X0[k] = e_proj . RMS(embed(token)) + h_proj . RMS(X[k]); before, out: [n, hc_mult, D].
  void JoinStreams(std::span<const uint32_t> tokens, const float* before, float* out) {
    const auto n = static_cast<int64_t>(tokens.size());
    if (n == 0) return;
    const Workspace::Scope scope(ops_.memory());
    const int64_t width = context_.config.hidden_size;
    const int64_t n_streams = context_.config.hc_mult;
    const OperandRows embedded = ops_.TakeRows(n, width);
    const OperandRows hidden = ops_.TakeRows(n * n_streams, width);
    ops_.pool().Run(n * (n_streams + 1), [&](int64_t item, int thread) {
      auto* row = reinterpret_cast<float*>(ops_.scratch(thread));
      if (item < n) {
        LookUp(ops_, weights_.embed, tokens[static_cast<size_t>(item)], row);
        ops_.RmsNormRow(mtp_.enorm, row, width, row);
        ops_.QuantizeInput(mtp_.e_proj, row);
        ops_.Pack(row, width, embedded, item);
      } else {
        ops_.RmsNormRow(mtp_.hnorm, before + (item - n) * width, width, row);
        ops_.QuantizeInput(mtp_.h_proj, row);
        ops_.Pack(row, width, hidden, item - n);
      }
    });
    float* e = ops_.memory().Take<float>(n * width);
    const std::array<DotJob, 2> jobs = {ops_.Dot(mtp_.e_proj, embedded, n, e, true),
                                        ops_.Dot(mtp_.h_proj, hidden, n * n_streams, out, true)};
    ops_.Run(jobs);
    ops_.pool().Run(n * n_streams, [&](int64_t k, int) {
      float* x = out + k * width;
      ops_.kernels().add_row(e + k / n_streams * width, width, x);
      ops_.Round(x, width);
    });
  }

  ForwardContext& context_;
  Ops& ops_;
  const ModelWeights& weights_;
  const MtpWeights& mtp_;
  LayerPlace place_;
  StepRows slots_;
  StepRows guessed_;
  std::vector<uint32_t> tokens_;
};

}  // namespace

std::unique_ptr<Drafter> MakeMtpDrafter(ForwardContext& context, const ModelWeights& weights) {
  return std::make_unique<MtpDrafter>(context, weights);
}

}  // namespace longshelf::engine
