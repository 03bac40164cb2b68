#include "dspark_drafter.h"

#include <algorithm>
#include <utility>

#include "greedy.h"
#include "step_memory.h"
#include "vocabulary.h"

namespace longshelf::engine {

DsparkDrafter::DsparkDrafter(ForwardContext& context, const ModelWeights& weights)
    : context_(context),
      ops_(context.ops),
      weights_(weights),
      dspark_(*weights.dspark),
      main_(context, dspark_),
      head_(context, weights),
      block_tokens_(static_cast<size_t>(context.config.dspark.block_size), context.config.dspark.noise_token_id) {}

int64_t DsparkDrafter::n_draft() const {
  return std::min(context_.config.dspark.block_size, context_.layout.n_draft_max());
}

size_t DsparkDrafter::MemoryBytes(const DraftSize& size) const {
  const ModelConfig& config = context_.config;
  const int n_threads = ops_.pool().n_threads();
  const int64_t n_places = size.n_chunks * config.dspark.block_size;
  const int64_t n_received = n_places * config.n_experts_per_token * size.n_shards;
  // Observed rows, those that are fed, and their operand.
  const int64_t hidden_bytes = size.n_rows * 3 * main_.hidden_width() * static_cast<int64_t>(sizeof(float));
  return static_cast<size_t>(hidden_bytes) + StepMemoryBytes(config, context_.layout, {size.n_rows, 0, 0}, n_threads) +
         StepMemoryBytes(config, context_.layout, {n_places, n_received, n_places}, n_threads);
}

void DsparkDrafter::Begin(const StepRows& step) {
  hidden_ = ops_.memory().Take<float>(step.n() * main_.hidden_width());
}

int64_t DsparkDrafter::FirstObserved(const SequenceRows& rows) const {
  return std::max<int64_t>(rows.n_rows - context_.config.window - context_.layout.n_draft_max(), 0);
}

void DsparkDrafter::Observe(int64_t layer, const StepRows& observed, int64_t first_row, const float* streams) {
  const std::vector<int64_t>& targets = context_.config.dspark.target_layers;
  const auto target = std::find(targets.begin(), targets.end(), layer);
  if (target == targets.end()) return;
  for (const SequenceRows& rows : observed.parts()) {
    const int64_t first = FirstObserved(rows);
    const int64_t row = rows.row_begin + first;
    main_.Mean(streams + row * context_.stream_width(), rows.n_rows - first,
               static_cast<size_t>(target - targets.begin()), hidden_ + (first_row + row) * main_.hidden_width());
  }
}

absl::Status DsparkDrafter::Draft(const StepRows&, const float*, std::span<const KeptChunk> chunks, int64_t n_tokens,
                                  Guesses& guesses, TapSink* sink) {
  Feed(chunks);
  if (n_tokens == 0) return absl::OkStatus();
  blocks_.Clear();
  for (const KeptChunk& chunk : chunks) {
    if (!chunk.guess) continue;
    std::byte* slot = chunk.rows->state;
    AddBlock(chunk.next_token, {.n_past = chunk.end(), .state = slot, .first_key = StateOf(context_, slot).first},
             blocks_);
  }
  float* x = ops_.memory().Take<float>(blocks_.n() * context_.stream_width());
  float* spare = ops_.memory().Take<float>(blocks_.n() * context_.stream_width());
  EmbedBlocks(blocks_, x);
  const StepRotations rotations = blocks_.Rotations(ops_, context_.sliding_rope);
  for (size_t stage = 0; stage < dspark_.stages.size(); ++stage) {
    if (absl::Status s = RunStage(stage, blocks_, rotations, &x, &spare); !s.ok()) return s;
  }
  return Guess(chunks, n_tokens, x, guesses, sink);
}

// The kept rows that the window still holds.
void DsparkDrafter::Feed(std::span<const KeptChunk> chunks) {
  const Workspace::Scope scope(ops_.memory());
  const int64_t width = main_.hidden_width();
  fed_.Clear();
  int64_t n = 0;
  for (const KeptChunk& chunk : chunks) n += std::min(chunk.n_kept, context_.config.window);
  float* hidden = ops_.memory().Take<float>(n * width);
  for (const KeptChunk& chunk : chunks) {
    const SequenceRows& rows = *chunk.rows;
    DraftState& state = StateOf(context_, rows.state);
    if (state.end != rows.n_past) state.first = rows.n_past;
    const int64_t n_fed = std::min(chunk.n_kept, context_.config.window);
    const int64_t first = chunk.n_kept - n_fed;
    state.end = chunk.end();
    std::copy_n(hidden_ + (rows.row_begin + first) * width, n_fed * width, hidden + fed_.n() * width);
    fed_.AddPositions(n_fed, {.n_past = rows.n_past + first, .state = rows.state});
  }
  float* main_x = ops_.memory().Take<float>(n * context_.config.hidden_size);
  main_.Project(hidden, n, main_x);
  main_.Store(main_x, fed_);
}

void DsparkDrafter::AddBlock(uint32_t token, const SequenceRows& rows, StepRows& blocks) {
  block_tokens_.front() = token;
  SequenceRows block = rows;
  block.is_draft_block = true;
  blocks.Add(block_tokens_, block);
}

void DsparkDrafter::EmbedBlocks(const StepRows& blocks, float* streams) const {
  Embed(ops_, weights_.embed, blocks.tokens(), streams);
}

absl::Status DsparkDrafter::RunStage(size_t stage, const StepRows& blocks, const StepRotations& rotations,
                                     float** streams, float** spare) {
  LayerPlace place;
  place.experts = static_cast<uint32_t>(context_.config.n_layers) + static_cast<uint32_t>(stage);
  place.window = context_.layout.DraftWindow(static_cast<int64_t>(stage));
  return RunLayer(context_, dspark_.stages[stage], place, blocks, rotations, streams, spare, nullptr);
}

// streams: [requests, block, hc_mult, D]; only the first n_tokens places of a block are scored.
absl::Status DsparkDrafter::Guess(std::span<const KeptChunk> chunks, int64_t n_tokens, const float* streams,
                                  Guesses& guesses, TapSink* sink) {
  const auto n_requests = static_cast<int64_t>(blocks_.parts().size());
  const int64_t n = n_requests * n_tokens;
  const int64_t vocab = context_.config.vocab_size;
  const int64_t width = context_.stream_width();
  float* places = ops_.memory().Take<float>(n * width);
  for (int64_t r = 0; r < n_requests; ++r) {
    std::copy_n(streams + blocks_.parts()[static_cast<size_t>(r)].row_begin * width, n_tokens * width,
                places + r * n_tokens * width);
  }
  float* hidden = ops_.memory().Take<float>(n * context_.config.hidden_size);
  float* logits = ops_.memory().Take<float>(n * vocab);
  head_.Hidden(places, n, hidden);
  head_.BaseLogits(hidden, n, logits);
  const auto tap = [&](std::string_view name) {
    if (sink != nullptr) sink->Tap(name, {logits, static_cast<size_t>(n * vocab)}, vocab);
  };
  tap("draft.base_logits");
  previous_.clear();
  for (const KeptChunk& chunk : chunks) {
    if (chunk.guess) previous_.push_back(chunk.next_token);
  }
  before_.resize(static_cast<size_t>(n));
  for (int64_t i = 0; i < n_tokens; ++i) {
    head_.AddMarkov(previous_, logits + i * vocab, n_tokens);
    for (int64_t r = 0; r < n_requests; ++r) {
      const auto place = static_cast<size_t>(r * n_tokens + i);
      uint32_t& previous = previous_[static_cast<size_t>(r)];
      before_[place] = previous;
      previous = LargestOf({logits + (r * n_tokens + i) * vocab, static_cast<size_t>(vocab)});
      guesses.tokens[place] = previous;
    }
  }
  tap("draft.logits");
  head_.Confidence(hidden, before_, guesses.confidence.data());
  return absl::OkStatus();
}

}  // namespace longshelf::engine
