// What a step costs on each shard of a group, and what it is made of: the measurements behind the model of steps
// (simulation/). By mpirun: the time of whole steps in a group. Alone, with --parts: a layer's parts, one expert by its
// rows, and which experts were chosen. A JSON object in each line.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/config.h"
#include "common/status.h"
#include "engine/comm/direct_expert_transport.h"
#include "engine/comm/mpi_session.h"
#include "engine/model/model.h"
#include "engine/model/primitives.h"
#include "figures.h"
#include "group_of_shards.h"
#include "shapes.h"
#include "synthetic_sequence.h"

namespace longshelf::bench {
namespace {

constexpr int64_t kTokensMax = 4096;
// Up to here a step decodes, a token for each sequence; beyond, it reads a prompt.
constexpr int64_t kSequencesMax = 8;
constexpr int kSpins = 2000;
constexpr int64_t kRecordedTokens = 64;
constexpr int64_t kReferenceTokens = 8;

struct Settings {
  std::string model = "mid";
  std::string run_dir;
  std::string shm_dir;
  std::vector<std::string> tokens = {"1", "8", "64", "512"};
  int64_t context = 4096;
  int n_rounds = 15;
  bool parts = false;
  bool halves = false;
};

// When a layer's parts began, and what the gate chose.
class PartTimes final : public engine::TapSink {
 public:
  void Begin() {
    last_us_ = NowUs();
    before_us_ = moe_us_ = after_us_ = 0;
    chosen_.clear();
  }
  void Tap(std::string_view name, std::span<const float> values, int64_t) override {
    double* part = name.ends_with(".ffn.gate.indices")     ? &before_us_
                   : name.ends_with(".ffn.shared_experts") ? &moe_us_
                   : name.ends_with(".ffn")                ? &after_us_
                                                           : nullptr;
    if (part == nullptr) return;
    *part += NowUs() - last_us_;
    if (part == &before_us_) {
      for (const float e : values) chosen_.push_back(static_cast<uint32_t>(e));
    }
    last_us_ = NowUs();
  }
  double before_us() const { return before_us_; }
  double moe_us() const { return moe_us_; }
  double after_us() const { return after_us_; }
  double last_us() const { return last_us_; }
  const std::vector<uint32_t>& chosen() const { return chosen_; }

 private:
  double last_us_ = 0;
  double before_us_ = 0;
  double moe_us_ = 0;
  double after_us_ = 0;
  std::vector<uint32_t> chosen_;
};

// The rows of one step of this shard.
class Rows {
 public:
  Rows(const engine::Model& model, int64_t n_tokens, int64_t context, int n_steps, int rank) {
    const bool is_prompt = n_tokens > kSequencesMax;
    for (int64_t i = 0; i < n_tokens; ++i) {
      tokens_.push_back(static_cast<uint32_t>((i * 7919 + rank * 104'729 + 17) % model.config().vocab_size));
    }
    for (int64_t i = 0; i < (is_prompt ? 1 : n_tokens); ++i) {
      const int64_t n_past = is_prompt ? context - n_tokens : context;
      const auto seed = static_cast<uint64_t>(1000 * rank + i + 1);
      sequences_.push_back(std::make_unique<SyntheticSequence>(
          model.config(), model.layout(), std::max<int64_t>(n_past, 0), is_prompt ? n_tokens : n_steps, seed));
    }
  }
  engine::ForwardBatch Batch() {
    engine::ForwardBatch batch;
    const size_t each = tokens_.size() / sequences_.size();
    for (size_t i = 0; i < sequences_.size(); ++i) {
      batch.chunks.push_back(sequences_[i]->Next(std::span(tokens_).subspan(i * each, each)));
    }
    return batch;
  }

 private:
  std::vector<uint32_t> tokens_;
  std::vector<std::unique_ptr<SyntheticSequence>> sequences_;
};

absl::StatusOr<std::unique_ptr<engine::Model>> MakeModel(std::shared_ptr<const engine::ModelWeights> weights,
                                                         engine::ExpertTransport& transport) {
  engine::ModelOptions options;
  options.n_rows_max = 512;
  return engine::Model::Create(std::move(weights), options, transport);
}

// How fast this machine is right now: the processor time of a step of this shard alone, of always the same size. What a
// machine gives changes within minutes by more than what is asked here.
class Speed {
 public:
  static absl::StatusOr<std::unique_ptr<Speed>> Create(std::shared_ptr<const engine::ModelWeights> weights,
                                                       int64_t context, int n_steps) {
    auto out = std::make_unique<Speed>();
    ASSIGN_OR_RETURN(out->model_, MakeModel(std::move(weights), out->transport_));
    out->rows_ = std::make_unique<Rows>(*out->model_, kReferenceTokens, context, n_steps, 0);
    return out;
  }
  absl::StatusOr<double> ReferenceUs() {
    const engine::ForwardBatch batch = rows_->Batch();
    const double begin_s = CpuSeconds();
    RETURN_IF_ERROR(model_->Forward(batch).status());
    return (CpuSeconds() - begin_s) * 1e6;
  }

 private:
  engine::LocalExpertTransport transport_;
  std::unique_ptr<engine::Model> model_;
  std::unique_ptr<Rows> rows_;
};

// One expert after the other, so that weights come from memory.
void PrintExperts(const engine::ModelWeights& weights, const std::string& kernels, int n_rounds) {
  const auto run = [&](const engine::ExpertWeights& expert, const std::vector<float>& x, int64_t n) {
    const std::vector<float> up = engine::primitives::Linear(expert.w1, x, n, kernels);
    engine::primitives::Linear(expert.w3, x, n, kernels);
    engine::primitives::Linear(expert.w2, up, n, kernels);
  };
  for (const int64_t n : {1, 2, 4, 8, 16, 32, 64, 128, 256, 512}) {
    std::vector<float> x(static_cast<size_t>(n * weights.config.hidden_size));
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 101) / 50.0F - 1.0F;
    std::vector<double> routed;
    std::vector<double> shared;
    for (int round = 0; round < 4 * n_rounds; ++round) {
      const auto& layer = weights.layers[static_cast<size_t>(round) % weights.layers.size()].moe;
      const double begin_us = NowUs();
      run(layer.experts[static_cast<size_t>(round * 7) % layer.experts.size()], x, n);
      const double middle_us = NowUs();
      run(layer.shared, x, n);
      routed.push_back(middle_us - begin_us);
      shared.push_back(NowUs() - middle_us);
    }
    std::printf("{\"kind\": \"expert\", \"rows\": %d, \"routed_us\": %.2f, \"shared_us\": %.2f}\n", static_cast<int>(n),
                Quiet(routed), Quiet(shared));
  }
}

// How many rows each expert of each layer had; and, of one size, what each token chose.
void PrintRouting(const engine::ModelConfig& config, const std::vector<uint32_t>& chosen, int64_t n_tokens) {
  const auto n_experts = static_cast<size_t>(config.n_routed_experts);
  const size_t per_layer = chosen.size() / static_cast<size_t>(config.n_layers);
  std::vector<int> rows(n_experts * static_cast<size_t>(config.n_layers));
  for (size_t i = 0; i < chosen.size(); ++i) ++rows[i / per_layer * n_experts + chosen[i]];
  std::printf("{\"kind\": \"rows\", \"tokens\": %d, \"rows\": [%s]}\n", static_cast<int>(n_tokens),
              absl::StrJoin(rows, ",").c_str());
  if (n_tokens != kRecordedTokens) return;
  std::printf("{\"kind\": \"routing\", \"tokens\": %d, \"experts\": [%s]}\n", static_cast<int>(n_tokens),
              absl::StrJoin(chosen, ",").c_str());
}

absl::Status PrintParts(engine::Model& model, std::shared_ptr<const engine::ModelWeights> weights,
                        const Settings& settings, int64_t n_tokens) {
  ASSIGN_OR_RETURN(const auto speed, Speed::Create(std::move(weights), settings.context, settings.n_rounds));
  std::vector<double> reference;
  Rows rows(model, n_tokens, settings.context, settings.n_rounds, 0);
  PartTimes parts;
  std::vector<double> before;
  std::vector<double> moe;
  std::vector<double> after;
  std::vector<double> head;
  std::vector<double> whole;
  for (int round = 0; round < settings.n_rounds; ++round) {
    const engine::ForwardBatch batch = rows.Batch();
    parts.Begin();
    const double begin_us = NowUs();
    RETURN_IF_ERROR(model.Forward(batch, &parts).status());
    head.push_back(NowUs() - parts.last_us());
    whole.push_back(NowUs() - begin_us);
    before.push_back(parts.before_us());
    moe.push_back(parts.moe_us());
    after.push_back(parts.after_us());
    ASSIGN_OR_RETURN(const double reference_us, speed->ReferenceUs());
    reference.push_back(reference_us);
  }
  const auto n_layers = static_cast<double>(model.config().n_layers);
  std::printf(
      "{\"kind\": \"layer\", \"tokens\": %d, \"before_us\": %.2f, \"moe_us\": %.2f, \"after_us\": %.2f, \"head_us\": "
      "%.2f, \"step_us\": %.2f, \"reference_us\": %.1f}\n",
      static_cast<int>(n_tokens), Quiet(before) / n_layers, Quiet(moe) / n_layers, Quiet(after) / n_layers, Quiet(head),
      Quiet(whole), Quiet(reference));
  PrintRouting(model.config(), parts.chosen(), n_tokens);
  return absl::OkStatus();
}

// What every shard spent in a step.
struct Spent {
  double step_us = 0;
  double reference_us = 0;
  double exposed_us = 0;
  double shared_bytes = 0;
  double sent_bytes = 0;
};

absl::Status PrintGroupSteps(engine::Model& model, engine::Communicator& communicator,
                             const engine::DirectExpertTransport& transport,
                             std::shared_ptr<const engine::ModelWeights> weights, const Settings& settings,
                             int64_t n_tokens) {
  constexpr int kWarmUp = 2;
  // Whole steps and those in two microbatches take turns.
  const int n_ways = transport.n_lanes();
  const int n_rounds = n_ways * (kWarmUp + settings.n_rounds);
  Rows rows(model, n_tokens, settings.context, n_rounds, communicator.rank());
  ASSIGN_OR_RETURN(const auto speed, Speed::Create(std::move(weights), settings.context, n_rounds));
  struct Figures {
    std::vector<double> step;
    std::vector<double> reference;
    std::vector<double> exposed;
    double near_bytes = 0;
    double far_bytes = 0;
  };
  std::vector<Figures> figures(static_cast<size_t>(n_ways));
  for (int round = 0; round < n_rounds; ++round) {
    engine::ForwardBatch batch = rows.Batch();
    batch.n_microbatches = 1 + round % n_ways;
    RETURN_IF_ERROR(communicator.Barrier());
    const engine::ExchangeTotals before = transport.totals();
    const double begin_us = NowUs();
    RETURN_IF_ERROR(model.Forward(batch).status());
    const engine::ExchangeTotals after = transport.totals();
    const double step_us = NowUs() - begin_us;
    ASSIGN_OR_RETURN(const double reference_us, speed->ReferenceUs());
    const Spent mine = {step_us, reference_us, static_cast<double>(after.exposed_ns - before.exposed_ns) / 1e3,
                        static_cast<double>(after.shared_bytes - before.shared_bytes),
                        static_cast<double>(after.sent_bytes - before.sent_bytes)};
    ASSIGN_OR_RETURN(const std::vector<Spent> all, GatherFromAll(communicator, mine));
    if (round < n_ways * kWarmUp) continue;
    Spent sum;
    for (const Spent& spent : all) {
      sum.step_us = std::max(sum.step_us, spent.step_us);
      sum.reference_us += spent.reference_us / static_cast<double>(all.size());
      sum.exposed_us += spent.exposed_us / static_cast<double>(all.size());
      sum.shared_bytes += spent.shared_bytes;
      sum.sent_bytes += spent.sent_bytes;
    }
    Figures& of_way = figures[static_cast<size_t>(round % n_ways)];
    of_way.step.push_back(sum.step_us);
    of_way.reference.push_back(sum.reference_us);
    of_way.exposed.push_back(sum.exposed_us);
    of_way.near_bytes = sum.shared_bytes;
    of_way.far_bytes = sum.sent_bytes;
  }
  if (communicator.rank() != 0) return absl::OkStatus();
  const auto n_layers = static_cast<double>(model.config().n_layers);
  for (size_t way = 0; way < figures.size(); ++way) {
    const Figures& f = figures[way];
    std::printf(
        "{\"kind\": \"step\", \"shards\": %d, \"tokens\": %d, \"microbatches\": %d, \"step_us\": %.1f, "
        "\"step_quiet_us\": %.1f, \"reference_us\": %.1f, \"exposed_us\": %.2f, \"exposed_quiet_us\": %.2f, "
        "\"near_bytes\": %.0f, "
        "\"far_bytes\": %.0f}\n",
        communicator.size(), static_cast<int>(n_tokens), static_cast<int>(way) + 1, Median(f.step), Quiet(f.step),
        Quiet(f.reference), Median(f.exposed) / n_layers, Quiet(f.exposed) / n_layers, f.near_bytes, f.far_bytes);
  }
  std::fflush(stdout);
  return absl::OkStatus();
}

absl::Status RunGroup(const Settings& settings, const std::vector<int64_t>& all_tokens,
                      std::shared_ptr<const engine::ModelWeights> weights) {
  ASSIGN_OR_RETURN(const auto session, JoinGroup(settings.run_dir));
  const engine::ModelConfig& config = weights->config;
  const auto width = static_cast<size_t>(config.hidden_size);
  engine::DirectTransportOptions transport_options;
  transport_options.n_experts = static_cast<uint32_t>(config.n_routed_experts);
  transport_options.generation = 1;
  transport_options.n_tokens_max = static_cast<size_t>(*std::max_element(all_tokens.begin(), all_tokens.end()));
  transport_options.n_experts_per_token = static_cast<size_t>(config.n_experts_per_token);
  transport_options.row_bytes_max = 2 * width;
  transport_options.result_bytes_max = 2 * width;
  transport_options.shm_dir = settings.shm_dir;
  transport_options.n_lanes = settings.halves ? engine::kExchangeLanes : 1;
  // As a worker does, for shards of one machine.
  transport_options.n_spins = TakesTurns(session->communicator()) ? 0 : kSpins;
  ASSIGN_OR_RETURN(const auto transport,
                   engine::DirectExpertTransport::Create(session->communicator(), session->hosts(), transport_options));
  ASSIGN_OR_RETURN(const auto model, MakeModel(weights, *transport));
  for (const int64_t n : all_tokens) {
    RETURN_IF_ERROR(PrintGroupSteps(*model, session->communicator(), *transport, weights, settings, n));
  }
  return session->Finish(absl::Seconds(5));
}

absl::Status Run(const Settings& settings) {
  std::vector<int64_t> all_tokens;
  for (const std::string& text : settings.tokens) {
    int64_t n = 0;
    if (!absl::SimpleAtoi(text, &n) || n < 1 || n > std::min(kTokensMax, settings.context)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--tokens ", text, ": must be from 1 to ", kTokensMax, " and to --context"));
    }
    all_tokens.push_back(n);
  }
  ASSIGN_OR_RETURN(const engine::ModelConfig config, ConfigNamed(settings.model));
  ASSIGN_OR_RETURN(std::shared_ptr<const engine::ModelWeights> weights, engine::MakeRandomModelWeights(config, 1));
  if (!settings.parts) return RunGroup(settings, all_tokens, std::move(weights));
  std::printf(
      "{\"kind\": \"model\", \"layers\": %d, \"experts\": %d, \"experts_per_token\": %d, \"row_bytes\": %d, "
      "\"result_bytes\": %d}\n",
      static_cast<int>(config.n_layers), static_cast<int>(config.n_routed_experts),
      static_cast<int>(config.n_experts_per_token),
      static_cast<int>(config.hidden_size + (config.hidden_size + 127) / 128),
      static_cast<int>(2 * config.hidden_size));
  engine::LocalExpertTransport transport;
  ASSIGN_OR_RETURN(const auto model, MakeModel(weights, transport));
  for (const int64_t n : all_tokens) RETURN_IF_ERROR(PrintParts(*model, weights, settings, n));
  PrintExperts(*weights, std::string(model->kernels()), settings.n_rounds);
  return absl::OkStatus();
}

}  // namespace
}  // namespace longshelf::bench

int main(int argc, char** argv) {
  longshelf::bench::Settings settings;
  longshelf::ConfigSpec spec("group_step_bench", "What a step costs in a group of shards, and what it is made of.");
  spec.set_unknown_env(longshelf::ConfigSpec::UnknownEnv::kIgnore);
  spec.Add(&settings.model, "model",
           "mid, flash-thin, flash-small, pro-small, a checkpoint directory or a config.json");
  spec.Add(&settings.run_dir, "run-dir", "an empty directory for the group's files");
  spec.Add(&settings.shm_dir, "shm-dir", "a directory in shared memory; empty: shards send messages");
  spec.Add(&settings.tokens, "tokens", "tokens of each shard; repeatable");
  spec.Add(&settings.context, "context", "tokens before them, or with those of a prompt", {1, 1 << 20});
  spec.Add(&settings.n_rounds, "rounds", "rounds of each measurement; the median counts", {1, 10'000});
  spec.Add(&settings.halves, "halves", "every other step in two microbatches, to compare");
  spec.Add(&settings.parts, "parts", "alone, without mpirun: what a step is made of");
  if (const longshelf::ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  const absl::Status status = longshelf::bench::Run(settings);
  if (!status.ok()) std::fprintf(stderr, "group_step_bench: %s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
