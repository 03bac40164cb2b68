#include "long_prefill.h"

#include <time.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <ostream>
#include <span>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status.h"
#include "engine/comm/expert_transport.h"
#include "engine/model/kv_layout.h"
#include "engine/model/model.h"

namespace longshelf::bench {
namespace {

constexpr int64_t kChunkMax = 16384;
constexpr int kReports = 64;  // of a whole prefill

// One line at a time from several threads.
class Log {
 public:
  explicit Log(std::ostream& out) : out_(out) {}
  void Line(const std::string& text) {
    std::lock_guard lock(mutex_);  // guards out_: passes report from their own threads
    out_ << text << std::endl;
  }

 private:
  std::mutex mutex_;
  std::ostream& out_;
};

double ThreadCpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The same tokens for every chunking: SplitMix64 over the vocabulary.
std::vector<uint32_t> Prompt(int64_t n, int64_t vocab_size, uint64_t seed) {
  std::vector<uint32_t> tokens(static_cast<size_t>(n));
  for (uint32_t& token : tokens) {
    uint64_t z = (seed += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    token = static_cast<uint32_t>((z ^ (z >> 31)) % static_cast<uint64_t>(vocab_size));
  }
  return tokens;
}

// One sequence computed from its first token on. Used by one thread.
class Pass {
 public:
  Pass(std::unique_ptr<engine::LocalExpertTransport> transport, std::unique_ptr<engine::Model> model, int64_t n_chunk,
       int64_t n_context)
      : transport_(std::move(transport)),
        model_(std::move(model)),
        n_chunk_(n_chunk),
        state_(model_->layout().state_bytes()),
        kv_(static_cast<size_t>((n_context + engine::kBlockTokens - 1) / engine::kBlockTokens) *
            model_->layout().block_bytes()) {
    for (size_t at = 0; at < kv_.size(); at += model_->layout().block_bytes()) blocks_.push_back(kv_.data() + at);
    model_->layout().ResetState(state_.data());
  }

  absl::Status Run(std::span<const uint32_t> prompt, int64_t n_decode, Log& log) {
    const auto begin = std::chrono::steady_clock::now();
    const double cpu_begin = ThreadCpuSeconds();
    const auto n_prompt = static_cast<int64_t>(prompt.size());
    const int64_t report_every = std::max(n_prompt / kReports, int64_t{1});
    while (n_past_ < n_prompt) {
      const int64_t n = std::min(n_chunk_, n_prompt - n_past_);
      const int64_t n_before = n_past_;
      RETURN_IF_ERROR(
          Step(prompt.subspan(static_cast<size_t>(n_past_), static_cast<size_t>(n)), n_past_ + n == n_prompt));
      if (n_past_ / report_every == n_before / report_every) continue;
      log.Line(absl::StrFormat("chunks of %d: %d of %d tokens, %.1f processor seconds", n_chunk_, n_past_, n_prompt,
                               ThreadCpuSeconds() - cpu_begin));
    }
    prefill_cpu_s_ = ThreadCpuSeconds() - cpu_begin;
    prefill_s_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    for (int64_t i = 0; i < n_decode; ++i) {
      const std::vector<float>& last = logits_.back();
      const auto likeliest = static_cast<uint32_t>(std::max_element(last.begin(), last.end()) - last.begin());
      RETURN_IF_ERROR(Step(std::span(&likeliest, 1), true));
    }
    decode_cpu_s_ = ThreadCpuSeconds() - cpu_begin - prefill_cpu_s_;
    return absl::OkStatus();
  }

  // Where the bits of `other` differ first; empty: nowhere.
  std::string DifferenceFrom(const Pass& other) const {
    for (size_t i = 0; i < logits_.size(); ++i) {
      if (std::memcmp(logits_[i].data(), other.logits_[i].data(), logits_[i].size() * sizeof(float)) != 0) {
        return absl::StrCat("the logits after ", n_past_ - static_cast<int64_t>(logits_.size() - 1 - i), " tokens");
      }
    }
    const size_t n_block = model_->layout().block_bytes();
    for (size_t b = 0; b < blocks_.size(); ++b) {
      if (std::memcmp(blocks_[b], other.blocks_[b], n_block) != 0) return absl::StrCat("KV block ", b);
    }
    return ExportedState() == other.ExportedState() ? "" : "the state";
  }

  std::string CsvLine() const {
    return absl::StrFormat("%s,%d,%d,%d,%.1f,%.1f,%.3f\n", std::string(model_->kernels()), n_chunk_,
                           n_past_ - static_cast<int64_t>(logits_.size()) + 1, static_cast<int64_t>(logits_.size()) - 1,
                           prefill_s_, prefill_cpu_s_, decode_cpu_s_);
  }

 private:
  absl::Status Step(std::span<const uint32_t> tokens, bool want_logits) {
    engine::SequenceChunk chunk;
    chunk.n_past = n_past_;
    chunk.tokens = tokens;
    chunk.blocks = blocks_;
    chunk.state = state_.data();
    chunk.want_logits = want_logits ? engine::WantLogits::kLast : engine::WantLogits::kNone;
    engine::ForwardBatch batch;
    batch.chunks.push_back(chunk);
    ASSIGN_OR_RETURN(const engine::ForwardOutput output, model_->Forward(batch));
    n_past_ += static_cast<int64_t>(tokens.size());
    if (want_logits) logits_.emplace_back(output.logits.begin(), output.logits.end());
    return absl::OkStatus();
  }

  std::vector<std::byte> ExportedState() const {
    std::vector<std::byte> out(model_->layout().StateExportBytes(n_past_));
    model_->layout().ExportState(state_.data(), n_past_, out);
    return out;
  }

  const std::unique_ptr<engine::LocalExpertTransport> transport_;
  const std::unique_ptr<engine::Model> model_;
  const int64_t n_chunk_;
  std::vector<std::byte> state_;
  std::vector<std::byte> kv_;  // all blocks
  std::vector<std::byte*> blocks_;
  int64_t n_past_ = 0;
  std::vector<std::vector<float>> logits_;  // of the last prompt token, then of each decoded one
  double prefill_s_ = 0;
  double prefill_cpu_s_ = 0;
  double decode_cpu_s_ = 0;
};

absl::StatusOr<std::vector<int64_t>> ChunksOf(const LongPrefillSettings& settings) {
  std::vector<int64_t> chunks;
  for (const std::string& text : settings.chunks) {
    int64_t n = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
    if (error != std::errc() || end != text.data() + text.size() || n < 1 || n > kChunkMax) {
      return absl::InvalidArgumentError(absl::StrCat("--chunk ", text, ": must be from 1 to ", kChunkMax));
    }
    chunks.push_back(n);
  }
  if (chunks.size() < 2) return absl::InvalidArgumentError("--chunk: give at least two, there is nothing to compare");
  return chunks;
}

}  // namespace

absl::Status RunLongPrefill(const LongPrefillSettings& settings, std::ostream& csv, std::ostream& out) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> chunks, ChunksOf(settings));
  ASSIGN_OR_RETURN(const std::shared_ptr<const engine::ModelWeights> weights,
                   engine::LoadModelWeights(settings.model, nullptr));
  const int64_t n_prompt = settings.n_context - settings.n_decode;
  if (settings.n_context > weights->config.max_positions || n_prompt < 1) {
    return absl::InvalidArgumentError(absl::StrCat("--context ", settings.n_context,
                                                   ": must be above --decode and at most ",
                                                   weights->config.max_positions, ", the positions of the model"));
  }
  const std::vector<uint32_t> prompt = Prompt(n_prompt, weights->config.vocab_size, settings.seed);
  Log log(out);
  std::vector<std::unique_ptr<Pass>> passes;
  for (const int64_t n_chunk : chunks) {
    engine::ModelOptions options;
    options.kernels = settings.isa;
    options.n_rows_max = n_chunk;
    auto transport = std::make_unique<engine::LocalExpertTransport>();  // not shared: it keeps order between two calls
    ASSIGN_OR_RETURN(std::unique_ptr<engine::Model> model, engine::Model::Create(weights, options, *transport));
    passes.push_back(std::make_unique<Pass>(std::move(transport), std::move(model), n_chunk, settings.n_context));
  }
  std::vector<absl::Status> results(passes.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < passes.size(); ++i) {
    threads.emplace_back([&, i] { results[i] = passes[i]->Run(prompt, settings.n_decode, log); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& result : results) RETURN_IF_ERROR(result);
  csv << "isa,chunk,prompt_tokens,decoded_tokens,prefill_s,prefill_cpu_s,decode_cpu_s\n";
  for (const auto& pass : passes) csv << pass->CsvLine();
  for (size_t i = 1; i < passes.size(); ++i) {
    const std::string where = passes[i]->DifferenceFrom(*passes[0]);
    if (!where.empty()) {
      return absl::DataLossError(absl::StrCat("chunks of ", chunks[i], " and of ", chunks[0], " differ: ", where));
    }
  }
  csv << "equal\n";
  return absl::OkStatus();
}

}  // namespace longshelf::bench
