#include "engine_bench.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <ostream>
#include <span>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status.h"
#include "engine/comm/expert_transport.h"
#include "engine/model/model.h"
#include "engine/model/plan.h"
#include "figures.h"
#include "shapes.h"
#include "synthetic_sequence.h"

namespace longshelf::bench {
namespace {

using engine::ModelConfig;

absl::StatusOr<std::vector<int64_t>> Numbers(const std::vector<std::string>& texts, const char* option, int64_t max) {
  std::vector<int64_t> numbers;
  for (const std::string& text : texts) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > max) {
      return absl::InvalidArgumentError(absl::StrCat("--", option, " ", text, ": must be from 1 to ", max));
    }
    numbers.push_back(value);
  }
  return numbers;
}

// Overwrites memory of twice the last-level cache, so that weights and KV come from memory as they do in service,
// where other work runs between two steps of a layer.
class CacheDirtier {
 public:
  CacheDirtier() {
    const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    bytes_.resize(static_cast<size_t>(std::clamp(2 * cache, 64L << 20, 1L << 30)));
  }
  void Run() { std::memset(bytes_.data(), ++value_, bytes_.size()); }

 private:
  std::vector<unsigned char> bytes_;
  unsigned char value_ = 0;
};

struct Measurement {
  const char* phase;
  int64_t context;
  int64_t batch;
  int64_t n_tokens;  // per round
  std::vector<double> seconds;
  std::vector<double> cpu_seconds;  // of the whole process
};

class EngineBench {
 public:
  EngineBench(const EngineBenchSettings& settings, engine::Model& model, std::ostream& csv)
      : settings_(settings), model_(model), csv_(csv) {
    csv_ << "config,isa,numerics,threads,phase,context,batch,tokens,median_s,min_s,max_s,tokens_per_s,"
            "median_cpu_s,tokens_per_cpu_s\n";
  }

  absl::Status Prefill(int64_t context) {
    const int64_t n_tokens = std::min(settings_.chunk_tokens, context);
    SyntheticSequence sequence(model_.config(), model_.layout(), context - n_tokens, n_tokens, settings_.seed);
    const std::vector<uint32_t> tokens = Tokens(n_tokens, 0);
    Measurement m{"prefill", context, 1, n_tokens, {}, {}};
    for (int round = 0; round < settings_.n_rounds; ++round) {
      engine::ForwardBatch batch;
      batch.chunks.push_back(sequence.Next(tokens));
      RETURN_IF_ERROR(Round(batch, m));
    }
    return Report(m);
  }

  absl::Status Decode(int64_t context, int64_t n_sequences) {
    std::vector<std::unique_ptr<SyntheticSequence>> sequences;
    for (int64_t i = 0; i < n_sequences; ++i) {
      sequences.push_back(std::make_unique<SyntheticSequence>(
          model_.config(), model_.layout(), context, settings_.n_rounds, settings_.seed + static_cast<uint64_t>(i)));
    }
    Measurement m{"decode", context, n_sequences, n_sequences, {}, {}};
    for (int round = 0; round < settings_.n_rounds; ++round) {
      const std::vector<uint32_t> tokens = Tokens(n_sequences, round);
      engine::ForwardBatch batch;
      for (size_t i = 0; i < sequences.size(); ++i) {
        batch.chunks.push_back(sequences[i]->Next(std::span(tokens).subspan(i, 1)));
      }
      RETURN_IF_ERROR(Round(batch, m));
      for (const auto& sequence : sequences) sequence->Advance(1);
    }
    return Report(m);
  }

 private:
  std::vector<uint32_t> Tokens(int64_t n, int round) const {
    std::vector<uint32_t> tokens;
    for (int64_t i = 0; i < n; ++i) {
      tokens.push_back(static_cast<uint32_t>((i * 7919 + round * 104729 + 17) % model_.config().vocab_size));
    }
    return tokens;
  }

  absl::Status Round(const engine::ForwardBatch& batch, Measurement& m) {
    dirtier_.Run();
    const double cpu_begin = CpuSeconds();
    const auto begin = std::chrono::steady_clock::now();
    ASSIGN_OR_RETURN(const engine::ForwardOutput output, model_.Forward(batch));
    m.seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    m.cpu_seconds.push_back(CpuSeconds() - cpu_begin);
    // A fast wrong pass is no result.
    const bool finite =
        std::all_of(output.logits.begin(), output.logits.end(), [](float x) { return std::isfinite(x); });
    if (output.logits.empty() || !finite) return absl::InternalError("the pass gave no finite logits");
    return absl::OkStatus();
  }

  absl::Status Report(Measurement& m) {
    std::sort(m.seconds.begin(), m.seconds.end());
    const double median = Median(m.seconds);
    const double cpu_median = Median(m.cpu_seconds);
    csv_ << absl::StrFormat("%s,%s,%s,%d,%s,%d,%d,%d,%.6f,%.6f,%.6f,%.3f,%.6f,%.3f\n", settings_.config,
                            std::string(model_.kernels()), settings_.numerics, settings_.n_threads, m.phase, m.context,
                            m.batch, m.n_tokens, median, m.seconds.front(), m.seconds.back(),
                            static_cast<double>(m.n_tokens) / median, cpu_median,
                            static_cast<double>(m.n_tokens) / cpu_median)
         << std::flush;
    return absl::OkStatus();
  }

  const EngineBenchSettings& settings_;
  engine::Model& model_;
  std::ostream& csv_;
  CacheDirtier dirtier_;
};

absl::StatusOr<std::unique_ptr<const engine::ModelWeights>> MakeWeights(const EngineBenchSettings& settings,
                                                                        const ModelConfig& config) {
  if (settings.weights == "random") return engine::MakeRandomModelWeights(config, settings.seed);
  engine::LoadOptions options;
  if (settings.weights == "huge") options.memory = engine::WeightsMemory::kHuge;
  return engine::LoadModelWeights(settings.config, nullptr, options);
}

}  // namespace

absl::Status RunEngineBench(const EngineBenchSettings& settings, std::ostream& csv) {
  ASSIGN_OR_RETURN(const ModelConfig config, ConfigNamed(settings.config));
  const int64_t max_context = config.max_positions - std::max<int64_t>(settings.n_rounds, settings.chunk_tokens);
  ASSIGN_OR_RETURN(const std::vector<int64_t> contexts, Numbers(settings.contexts, "context", max_context));
  ASSIGN_OR_RETURN(const std::vector<int64_t> batches, Numbers(settings.batches, "batch", 1024));
  ASSIGN_OR_RETURN(std::shared_ptr<const engine::ModelWeights> weights, MakeWeights(settings, config));
  engine::ModelOptions options;
  options.numerics = settings.numerics == "fp32" ? engine::Numerics::kFp32 : engine::Numerics::kNative;
  options.n_threads = settings.n_threads;
  options.kernels = settings.isa;
  engine::LocalExpertTransport transport;
  ASSIGN_OR_RETURN(const std::unique_ptr<engine::Model> model, engine::Model::Create(weights, options, transport));
  EngineBench bench(settings, *model, csv);
  for (const int64_t context : contexts) {
    RETURN_IF_ERROR(bench.Prefill(context));
    for (const int64_t batch : batches) RETURN_IF_ERROR(bench.Decode(context, batch));
  }
  return absl::OkStatus();
}

}  // namespace longshelf::bench
