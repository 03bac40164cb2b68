// One shard of shard_group_logits_test: group_logits RUN_DIR OUTPUT WAY PLACEMENT MICROBATCHES. Runs the same requests
// through every fixture model in both numerics; rank 0 writes every logit and, at the end of each model, every KV block
// and state to OUTPUT.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "common/status.h"
#include "engine/comm/baseline_expert_transport.h"
#include "engine/comm/direct_expert_transport.h"
#include "engine/comm/mpi_session.h"
#include "engine/executor.h"
#include "engine/model/model.h"
#include "engine/shard_group.h"
#include "testing/fixtures.h"

namespace longshelf {
namespace {

using engine::StepPlan;
using engine::StepResult;

constexpr uint32_t kSlotsPerShard = 8;
constexpr uint32_t kBlocksPerSequence = 3;
constexpr uint32_t kBlocksPerShard = kSlotsPerShard * kBlocksPerSequence;
constexpr int kSamples = 4;
// Prompt lengths around the window, the compressors' groups and the block size.
constexpr size_t kPromptTokens[] = {1, 70, 131, 300, 517};
constexpr size_t kChunkTokens[] = {1, 64, 50, 129, 512};

// One sequence on its home shard.
struct Sequence {
  engine::SlotId slot;
  std::vector<uint32_t> blocks;
  std::vector<uint32_t> prompt;
  std::vector<uint32_t> next;  // tokens of the next step
  size_t chunk = 0;
  int64_t n_past = 0;
  int n_sampled = 0;
};

std::vector<Sequence> MakeSequences(int n_shards, uint32_t vocab_size) {
  std::vector<Sequence> sequences(std::size(kPromptTokens));
  for (size_t s = 0; s < sequences.size(); ++s) {
    Sequence& sequence = sequences[s];
    const auto shards = static_cast<size_t>(n_shards);
    sequence.slot = {static_cast<uint16_t>(s % shards), static_cast<uint16_t>(s / shards)};
    for (uint32_t b = 0; b < kBlocksPerSequence; ++b) {
      sequence.blocks.push_back(static_cast<uint32_t>(s / shards) * kBlocksPerSequence + b);
    }
    for (size_t i = 0; i < kPromptTokens[s]; ++i) {
      sequence.prompt.push_back(static_cast<uint32_t>((i * 7919 + s * 104729 + i * i) % vocab_size));
    }
    sequence.chunk = kChunkTokens[s];
  }
  return sequences;
}

// Rows of all sequences that still have something to do.
StepPlan NextPlan(std::vector<Sequence>& sequences, std::vector<Sequence*>& in_plan) {
  StepPlan plan;
  in_plan.clear();
  for (Sequence& sequence : sequences) {
    const auto n_past = static_cast<size_t>(sequence.n_past);
    if (n_past < sequence.prompt.size()) {
      const size_t n = std::min(sequence.chunk, sequence.prompt.size() - n_past);
      sequence.next.assign(sequence.prompt.begin() + sequence.n_past,
                           sequence.prompt.begin() + sequence.n_past + static_cast<int64_t>(n));
    } else if (sequence.n_sampled == kSamples) {
      continue;
    }
    if (n_past == 0) {
      StepPlan::OpenSlot open;
      open.slot = sequence.slot;
      open.sampling.temperature = 0.0;
      plan.open_slots.push_back(open);
      for (uint32_t b = 0; b < kBlocksPerSequence; ++b) {
        plan.set_blocks.push_back({sequence.slot, b, sequence.blocks[b]});
      }
    }
    StepPlan::Row row;
    row.slot = sequence.slot;
    row.n_past = sequence.n_past;
    row.tokens = sequence.next;
    row.sample = n_past + sequence.next.size() >= sequence.prompt.size();
    row.return_logits = row.sample;
    plan.rows.push_back(row);
    in_plan.push_back(&sequence);
  }
  return plan;
}

// Copies get the numbers 1, 2, ...: the same however many shards there are.
StepPlan ExportPlan(const std::vector<Sequence>& sequences) {
  StepPlan plan;
  uint64_t n_copies = 0;
  for (const Sequence& sequence : sequences) {
    for (size_t b = 0; b * engine::kBlockTokens < static_cast<size_t>(sequence.n_past); ++b) {
      const int64_t n =
          std::min<int64_t>(sequence.n_past - static_cast<int64_t>(b) * engine::kBlockTokens, engine::kBlockTokens);
      plan.export_blocks.push_back({sequence.slot.shard, sequence.blocks[b], n, ++n_copies, {}});
    }
    plan.export_states.push_back({sequence.slot, sequence.n_past, ++n_copies, {}});
  }
  return plan;
}

// Of what `plan` exports, to shard 0, under the same numbers.
StepPlan BringPlan(const StepPlan& plan, const engine::GroupShape& shape) {
  StepPlan bring;
  for (const StepPlan::ExportBlock& ex : plan.export_blocks) {
    if (ex.shard > 0)
      bring.move_copies.push_back({ex.shard, ex.copy, 0, ex.copy, shape.block_bytes + engine::kStampBytes});
  }
  for (const StepPlan::ExportState& ex : plan.export_states) {
    const uint64_t n_bytes = shape.state_export_bytes(ex.n_tokens) + engine::kStampBytes;
    if (ex.slot.shard > 0) bring.move_copies.push_back({ex.slot.shard, ex.copy, 0, ex.copy, n_bytes});
  }
  return bring;
}

// own: shard 0's.
absl::Status Drive(engine::StepRunner& runner, engine::KvCopies& own, uint32_t vocab_size, std::ofstream& out) {
  std::vector<Sequence> sequences = MakeSequences(runner.shape().n_shards, vocab_size);
  std::vector<Sequence*> in_plan;
  uint64_t seq = 0;
  for (StepPlan plan = NextPlan(sequences, in_plan); !plan.rows.empty(); plan = NextPlan(sequences, in_plan)) {
    plan.seq = ++seq;
    ASSIGN_OR_RETURN(const StepResult result, runner.Run(plan));
    for (size_t i = 0; i < in_plan.size(); ++i) {
      Sequence& sequence = *in_plan[i];
      sequence.n_past += static_cast<int64_t>(plan.rows[i].tokens.size());
      if (!plan.rows[i].sample) continue;
      const engine::SampledToken& sampled = result.rows[i].sampled.at(0);
      out.write(reinterpret_cast<const char*>(sampled.logits.data()),
                static_cast<std::streamsize>(sampled.logits.size() * sizeof(float)));
      sequence.next = {sampled.token};
      ++sequence.n_sampled;
    }
  }
  StepPlan plan = ExportPlan(sequences);
  plan.seq = ++seq;
  RETURN_IF_ERROR(runner.Run(plan).status());
  StepPlan bring = BringPlan(plan, runner.shape());
  bring.seq = ++seq;
  RETURN_IF_ERROR(runner.Run(bring).status());
  for (uint64_t number = 1; number <= plan.export_blocks.size() + plan.export_states.size(); ++number) {
    const engine::KvCopies::Bytes bytes = own.Find(number);
    if (bytes == nullptr) return absl::InternalError("a copy has not come to shard 0");
    out.write(reinterpret_cast<const char*>(bytes->data()), static_cast<std::streamsize>(bytes->size()));
  }
  return absl::OkStatus();
}

// How rows travel, where experts lie, and in how many parts large steps are run.
struct Setting {
  std::string run_dir;
  std::string way;
  std::string placement;
  int n_microbatches = 1;
};

// setting.way: "baseline", "messages", "chosen" or the name of a RowWay, through shared memory in the run directory.
absl::StatusOr<std::unique_ptr<engine::ExpertTransport>> MakeTransport(engine::MpiSession& session,
                                                                       const engine::ModelConfig& config,
                                                                       const Setting& setting) {
  const std::string& way = setting.way;
  engine::DirectTransportOptions options;
  options.n_lanes = setting.n_microbatches;
  options.n_experts = static_cast<uint32_t>(config.n_routed_experts);
  options.generation = session.generation();
  if (way == "baseline") {
    return std::make_unique<engine::BaselineExpertTransport>(session.communicator(), options.n_experts,
                                                             options.generation);
  }
  options.n_tokens_max = std::accumulate(std::begin(kChunkTokens), std::end(kChunkTokens), size_t{0});
  options.n_experts_per_token = static_cast<size_t>(config.n_experts_per_token);
  options.row_bytes_max = static_cast<size_t>(config.hidden_size) * sizeof(float);
  options.result_bytes_max = options.row_bytes_max;
  if (way != "messages") options.shm_dir = setting.run_dir;
  for (const engine::RowWay one : engine::kRowWays) {
    if (way == engine::RowWayName(one)) options.ways = engine::RowWays{one, one};
  }
  return engine::DirectExpertTransport::Create(session.communicator(), session.hosts(), options);
}

// "even", "scattered": somewhere each, other places on every layer, or "copied": two or more of each.
void Place(const std::string& placement, const engine::ModelWeights& weights, engine::ExpertTransport& transport) {
  if (placement == "even") return;
  const uint32_t n_layers = engine::CountExpertLayers(weights);
  const auto n_experts = static_cast<uint32_t>(weights.config.n_routed_experts);
  const auto n_ranks = static_cast<uint32_t>(transport.size());
  std::vector<std::vector<uint16_t>> holders(size_t{n_layers} * n_experts);
  for (uint32_t i = 0; i < holders.size(); ++i) {
    const uint32_t first = (i * 7919 + i / n_experts) % n_ranks;
    for (uint32_t r = 0; r < n_ranks; ++r) {
      const bool is_copy = placement == "copied" && (r + i) % 2 == 0;
      if (r == first || is_copy) holders[i].push_back(static_cast<uint16_t>(r));
    }
  }
  transport.SetPlacement({n_layers, n_experts, transport.size(), std::move(holders)});
}

absl::Status RunModel(engine::MpiSession* session, const Setting& setting, const std::string& name,
                      engine::Numerics numerics, std::ofstream& out) {
  ASSIGN_OR_RETURN(auto weights, engine::LoadModelWeights(testing::ModelPath(name), nullptr));
  const auto vocab_size = static_cast<uint32_t>(weights->config.vocab_size);
  engine::LocalExpertTransport local;
  std::unique_ptr<engine::ExpertTransport> remote;
  if (session != nullptr) {
    ASSIGN_OR_RETURN(remote, MakeTransport(*session, weights->config, setting));
    Place(setting.placement, *weights, *remote);
  }
  engine::ExpertTransport& transport = remote != nullptr ? *remote : local;
  engine::ModelOptions options;
  options.numerics = numerics;
  ASSIGN_OR_RETURN(auto model, engine::Model::Create(std::move(weights), options, transport));
  ASSIGN_OR_RETURN(auto executor, engine::Executor::Create(engine::MakeSequenceModel(*model),
                                                           {.n_slots = kSlotsPerShard, .n_blocks = kBlocksPerShard}));
  if (session == nullptr) {
    engine::LocalStepRunner runner(*executor);
    return Drive(runner, executor->copies(), vocab_size, out);
  }
  RETURN_IF_ERROR(engine::AgreeOnIdentity(
      session->communicator(),
      engine::GroupIdentity(*model, executor->shape(session->communicator().size()), /*n_context_max=*/1024)));
  const engine::ShardGroup group = {
      session->communicator(),
      session->doorbell(),
      *remote,
      &session->watch(),
      session->generation(),
      nullptr,
      nullptr,
      setting.n_microbatches == 2 ? engine::Microbatches::kTwo : engine::Microbatches::kOne};
  if (session->communicator().rank() != 0) return engine::RunFollower(group, *executor);
  engine::ShardGroupRunner runner(group, *executor);
  RETURN_IF_ERROR(Drive(runner, executor->copies(), vocab_size, out));
  return runner.Shutdown();
}

absl::Status Run(const Setting& setting, const std::string& output) {
  std::unique_ptr<engine::MpiSession> session;
  if (const auto position = engine::ReadLaunchPosition(); position.has_value()) {
    engine::MpiSessionOptions options;
    options.run_dir = setting.run_dir;
    options.generation = 5;
    options.n_shards = position->size;
    ASSIGN_OR_RETURN(session, engine::MpiSession::Start(options));
  }
  std::ofstream out;
  if (session == nullptr || session->communicator().rank() == 0) out.open(output, std::ios::binary);
  for (const char* name : {"micro-flash", "micro-pro", "micro-odd", "demo"}) {
    for (const engine::Numerics numerics : {engine::Numerics::kNative, engine::Numerics::kFp32}) {
      RETURN_IF_ERROR(RunModel(session.get(), setting, name, numerics, out));
    }
  }
  return session == nullptr ? absl::OkStatus() : session->Finish(absl::Seconds(5));
}

}  // namespace
}  // namespace longshelf

int main(int argc, char** argv) {
  if (argc != 6) return 64;
  const absl::Status status = longshelf::Run({argv[1], argv[3], argv[4], std::stoi(argv[5])}, argv[2]);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
