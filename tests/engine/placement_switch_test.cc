// Experts that move while sequences are being generated change no bit, and wrong bytes do not move.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "comm/thread_group.h"
#include "common/status.h"
#include "engine/comm/direct_expert_transport.h"
#include "engine/executor.h"
#include "engine/group_digests.h"
#include "engine/model/model.h"
#include "engine/placement/placement_control.h"
#include "engine/shard_group.h"
#include "safetensors_bytes.h"
#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr uint64_t kGeneration = 4;
constexpr int kSteps = 130;
constexpr int kSequences = 5;
constexpr uint64_t kInterval = 32;

// All logits of kSequences that are read in pieces of two tokens and then go on by themselves.
std::string Drive(StepRunner& runner, uint32_t vocab_size) {
  const auto n_shards = static_cast<uint32_t>(runner.shape().n_shards);
  std::string logits;
  std::vector<std::vector<uint32_t>> next(kSequences);
  std::vector<int64_t> n_past(kSequences);
  for (int step = 0; step < kSteps; ++step) {
    StepPlan plan;
    plan.seq = static_cast<uint64_t>(step) + 1;
    for (uint32_t s = 0; s < kSequences; ++s) {
      const SlotId slot{static_cast<uint16_t>(s % n_shards), static_cast<uint16_t>(s / n_shards)};
      if (step == 0) {
        StepPlan::OpenSlot open;
        open.slot = slot;
        open.sampling.temperature = 0.0;
        plan.open_slots.push_back(open);
        plan.set_blocks.push_back({slot, 0, s / n_shards});
      }
      StepPlan::Row row;
      row.slot = slot;
      row.n_past = n_past[s];
      row.tokens = next[s];
      if (step < 20) row.tokens = {(s * 31 + static_cast<uint32_t>(step)) % vocab_size, (s + 7U) % vocab_size};
      row.sample = row.return_logits = step >= 19;
      n_past[s] += static_cast<int64_t>(row.tokens.size());
      plan.rows.push_back(row);
    }
    const auto result = runner.Run(plan);
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return "";
    for (uint32_t s = 0; s < kSequences && step >= 19; ++s) {
      const SampledToken& sampled = result->rows[s].sampled.at(0);
      logits.append(reinterpret_cast<const char*>(sampled.logits.data()), sampled.logits.size() * sizeof(float));
      next[s] = {sampled.token};
    }
  }
  return logits;
}

std::unique_ptr<Executor> MakeExecutor(Model& model) {
  auto executor = Executor::Create(MakeSequenceModel(model), {.n_slots = kSequences, .n_blocks = kSequences});
  EXPECT_TRUE(executor.ok()) << executor.status();
  return *std::move(executor);
}

// Waits for what was allowed, so that a busy machine decides no test.
class PromptMover final : public ExpertMover {
 public:
  PromptMover(std::shared_ptr<const ModelWeights> weights, GroupDigests::ByName digests)
      : inner_(std::move(weights), std::move(digests)) {}
  void Fetch(std::vector<ExpertId> experts) override {
    n_asked_ = experts.size();
    n_allowed_ = 0;
    inner_.Fetch(std::move(experts));
  }
  void AllowOne() override {
    n_allowed_ = std::min(n_allowed_ + 1, n_asked_);
    inner_.AllowOne();
  }
  std::optional<State> Look() override {
    while (true) {
      std::optional<State> state = inner_.Look();
      if (state.has_value() && (!state->status.ok() || n_asked_ - state->n_left >= n_allowed_)) return state;
      // Again, in case that it could not be told.
      inner_.AllowOne();
      std::this_thread::yield();
    }
  }
  void Release(std::vector<ExpertId> experts) override { inner_.Release(std::move(experts)); }

 private:
  MappedExperts inner_;
  size_t n_asked_ = 0;
  size_t n_allowed_ = 0;
};

struct GroupRun {
  std::string logits;
  std::vector<PlacementReport> reports;
  std::vector<ExpertPlacement> placements;
  std::vector<std::string> said;  // by shard 0
};

// `spoil`: between loading and the first step.
class Group {
 public:
  Group(int n_shards, uint32_t n_redundant, fs::path model, std::function<void()> spoil = nullptr)
      : n_redundant_(n_redundant), model_(std::move(model)), spoil_(std::move(spoil)), threads_(n_shards) {
    run_.reports.resize(static_cast<size_t>(n_shards));
    dir_ = testing::MakeTempDir("group").string();
    leader_bell_ = *Doorbell::Create(dir_, kGeneration);
  }

  GroupRun Run() {
    threads_.Run([this](Communicator& communicator) {
      const absl::Status status = RunShard(communicator);
      EXPECT_TRUE(status.ok()) << communicator.rank() << ": " << status;
    });
    return std::move(run_);
  }

 private:
  absl::Status RunShard(Communicator& communicator) {
    const int rank = communicator.rank();
    const auto config = LoadModelConfig(model_);
    const auto n_experts = static_cast<uint32_t>(config->n_routed_experts);
    GroupDigests digests(communicator);
    LoadOptions load;
    load.part = WeightsPart{FirstExpertOf(rank, n_experts, communicator.size()),
                            FirstExpertOf(rank + 1, n_experts, communicator.size()), &digests};
    ASSIGN_OR_RETURN(std::shared_ptr<const ModelWeights> weights, LoadModelWeights(model_, nullptr, load));
    RETURN_IF_ERROR(communicator.Barrier());
    if (rank == 0 && spoil_) spoil_();
    RETURN_IF_ERROR(communicator.Barrier());
    DirectTransportOptions options;
    options.n_experts = n_experts;
    options.n_tokens_max = 64;
    options.n_experts_per_token = static_cast<size_t>(config->n_experts_per_token);
    options.row_bytes_max = options.result_bytes_max = static_cast<size_t>(config->hidden_size) * sizeof(float);
    options.shm_dir = dir_;
    ASSIGN_OR_RETURN(const auto transport,
                     DirectExpertTransport::Create(communicator, HostMap(communicator.size()), options));
    PromptMover experts(weights, digests.of_experts());
    PlacementOptions placing;
    placing.interval_steps = kInterval;
    placing.window_steps = kInterval - 2;
    placing.n_redundant = n_redundant_;
    if (rank == 0) placing.say = [this](const std::string& text) { run_.said.push_back(text); };
    PlacementControl placement(communicator, *transport, experts, CountExpertLayers(*weights), n_experts, placing);
    const auto vocab_size = static_cast<uint32_t>(weights->config.vocab_size);
    ASSIGN_OR_RETURN(const auto model, Model::Create(std::move(weights), ModelOptions{}, placement.transport()));
    const std::unique_ptr<Executor> executor = MakeExecutor(*model);
    RETURN_IF_ERROR(Serve(communicator, placement, *executor, vocab_size));
    run_.reports[static_cast<size_t>(rank)] = placement.report();
    const std::lock_guard lock(mutex_);
    run_.placements.push_back(placement.placement());
    return absl::OkStatus();
  }

  absl::Status Serve(Communicator& communicator, PlacementControl& placement, Executor& executor, uint32_t vocab_size) {
    if (communicator.rank() == 0) {
      ShardGroupRunner runner(
          {communicator, *leader_bell_, placement.transport(), nullptr, kGeneration, nullptr, &placement}, executor);
      run_.logits = Drive(runner, vocab_size);
      return runner.Shutdown();
    }
    ASSIGN_OR_RETURN(const auto bell, Doorbell::Open(dir_, kGeneration));
    return RunFollower({communicator, *bell, placement.transport(), nullptr, kGeneration, nullptr, &placement},
                       executor);
  }

  const uint32_t n_redundant_;
  const fs::path model_;
  const std::function<void()> spoil_;
  testing::ThreadGroup threads_;
  std::string dir_;
  std::unique_ptr<Doorbell> leader_bell_;
  std::mutex mutex_;  // guards run_.placements
  GroupRun run_;
};

std::string OfOneShard(const fs::path& path) {
  LocalExpertTransport transport;
  auto weights = LoadModelWeights(path, nullptr);
  EXPECT_TRUE(weights.ok()) << weights.status();
  const auto vocab_size = static_cast<uint32_t>((*weights)->config.vocab_size);
  const auto model = Model::Create(*std::move(weights), ModelOptions{}, transport);
  const std::unique_ptr<Executor> executor = MakeExecutor(**model);
  LocalStepRunner runner(*executor);
  return Drive(runner, vocab_size);
}

class WithCopies : public ::testing::TestWithParam<uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Redundant, WithCopies, ::testing::Values(0, 8, 64));

TEST_P(WithCopies, ExpertsMoveInTheMiddleOfAnswersAndNoLogitChanges) {
  const fs::path model = testing::ModelPath("micro-flash");
  const std::string expected = OfOneShard(model);
  ASSERT_FALSE(expected.empty());
  for (const int n_shards : {2, 3}) {
    const GroupRun run = Group(n_shards, GetParam(), model).Run();
    EXPECT_TRUE(run.logits == expected) << n_shards << " shards";
    uint64_t n_moved = 0;
    for (const PlacementReport& report : run.reports) {
      EXPECT_EQ(report.epoch, run.reports[0].epoch);
      EXPECT_EQ(report.n_refused, 0U);
      n_moved += report.n_moved;
    }
    EXPECT_GE(run.reports[0].epoch, 1U) << "nothing was switched";
    EXPECT_GT(n_moved, 0U);
    for (const ExpertPlacement& placement : run.placements) EXPECT_EQ(placement, run.placements[0]);
    EXPECT_EQ(run.reports[0].rank_rows.size(), static_cast<size_t>(n_shards));
  }
}

// Turns one bit of the last byte of every expert tensor of the files, each of which belongs to some shard.
void SpoilExperts(const fs::path& dir) {
  for (const auto& entry : fs::directory_iterator(dir)) {
    if (entry.path().extension() != ".safetensors") continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    for (const auto& [name, bytes] : ReadTensorBytes(entry.path())) {
      if (name.find(".ffn.experts.") == std::string::npos || !name.ends_with(".w1.scale")) continue;
      const std::streamoff at = bytes.end - 1;
      file.seekg(at);
      const auto byte = static_cast<char>(file.get() ^ 1);
      file.seekp(at);
      file.put(byte);
    }
  }
}

TEST(Placement, AnExpertWhoseBytesAreNotThoseOfTheGroupIsRefusedByEverybody) {
  const fs::path dir = testing::MakeTempDir("weights") / "model";
  fs::copy(testing::ModelPath("micro-flash"), dir, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  const GroupRun run = Group(2, 0, dir, [&] { SpoilExperts(dir); }).Run();
  for (const PlacementReport& report : run.reports) {
    EXPECT_EQ(report.epoch, 0U);
    EXPECT_GE(report.n_refused, 1U);
    EXPECT_EQ(report.n_moved, 0U);
  }
  EXPECT_EQ(run.placements[0], ExpertPlacement::Even(run.placements[0].n_layers(), 8, 2));
  EXPECT_THAT(run.said, ::testing::Contains(HasSubstr("are not those that the group agreed on")));
}

}  // namespace
}  // namespace longshelf::engine
