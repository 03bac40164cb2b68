#include "engine/shard_group.h"

#include <gtest/gtest.h>

#include <cstring>
#include <mutex>

#include "common/status.h"
#include "engine/comm/baseline_expert_transport.h"
#include "engine/comm/expert_transport.h"
#include "testing/fixtures.h"
#include "thread_group.h"

namespace longshelf::engine {
namespace {

constexpr uint32_t kVocab = 97;
constexpr uint32_t kExperts = 5;
constexpr uint64_t kGeneration = 11;

// A model whose state is a running hash, and whose logits come back through expert dispatch and combine, so that a
// missing, doubled or misplaced row changes the tokens.
class HashModel final : public SequenceModel {
 public:
  explicit HashModel(ExpertTransport& transport) : transport_(transport) {}
  uint32_t vocab_size() const override { return kVocab; }
  size_t block_bytes() const override { return 64; }
  size_t state_bytes() const override { return sizeof(uint64_t); }
  void ResetState(std::byte* slot) const override { std::memset(slot, 0, sizeof(uint64_t)); }
  size_t StateExportBytes(int64_t) const override { return sizeof(uint64_t); }
  void ExportState(const std::byte* slot, int64_t, std::span<std::byte> out) const override {
    std::memcpy(out.data(), slot, out.size());
  }
  absl::Status ImportState(std::span<const std::byte> bytes, int64_t, std::byte* slot) const override {
    std::memcpy(slot, bytes.data(), bytes.size());
    return absl::OkStatus();
  }
  void ClearTail(std::byte*, int64_t) const override {}
  double position_cost() const override { return 0.0; }
  int64_t n_draft_max() const override { return 0; }
  int64_t n_draft() const override { return 0; }
  absl::StatusOr<DraftOutput> Draft(std::span<const DraftRequest>, int64_t) override { return DraftOutput(); }

  absl::StatusOr<ForwardOutput> Forward(const ForwardBatch& batch) override {
    std::vector<uint64_t> rows;
    std::vector<ExpertAssignment> assignments;
    for (const SequenceChunk& chunk : batch.chunks) {
      uint64_t hash = 0;
      std::memcpy(&hash, chunk.state, sizeof(hash));
      for (const uint32_t token : chunk.tokens) hash = (hash ^ (token + 1)) * 0x9E3779B97F4A7C15ULL;
      std::memcpy(chunk.state, &hash, sizeof(hash));
      const auto row = static_cast<uint32_t>(rows.size());
      const auto expert = static_cast<uint32_t>((hash >> 7) % (kExperts - 1));
      assignments.push_back({row, expert, 0.5F});
      assignments.push_back({row, expert + 1, 0.25F});
      rows.push_back(hash);
    }
    std::vector<DispatchedRow> received;
    const auto bytes = std::as_bytes(std::span(rows));
    RETURN_IF_ERROR(transport_.BeginDispatch(0, 0, bytes, sizeof(uint64_t), assignments));
    RETURN_IF_ERROR(transport_.FinishDispatch(0, {}, received));
    std::vector<uint64_t> results(received.size());
    RETURN_IF_ERROR(transport_.PlaceResults(0, std::as_writable_bytes(std::span(results)), sizeof(uint64_t), received));
    for (const DispatchedRow& row : received) {
      uint64_t hash = 0;
      std::memcpy(&hash, row.row, sizeof(hash));
      hash = (hash + row.expert) * 0xC2B2AE3D27D4EB4FULL;
      StoreResult(row, 0, std::as_bytes(std::span(&hash, 1)));
    }
    std::vector<const std::byte*> places;
    RETURN_IF_ERROR(transport_.BeginCombine(0));
    RETURN_IF_ERROR(transport_.FinishCombine(0, places));
    std::vector<uint64_t> combined(assignments.size());
    for (size_t i = 0; i < combined.size(); ++i) std::memcpy(&combined[i], places[i], sizeof(uint64_t));
    ForwardOutput output;
    logits_.clear();
    for (size_t i = 0; i < batch.chunks.size(); ++i) {
      if (batch.chunks[i].want_logits == WantLogits::kNone) continue;
      const uint64_t token = (combined[2 * i] + 3 * combined[2 * i + 1]) % kVocab;
      for (uint32_t v = 0; v < kVocab; ++v) logits_.push_back(v == token ? 1.0F : 0.0F);
      ++output.n_rows;
    }
    output.logits = logits_;
    return output;
  }

 private:
  ExpertTransport& transport_;
  std::vector<float> logits_;
};

std::unique_ptr<Executor> MakeExecutor(ExpertTransport& transport) {
  auto executor = Executor::Create(std::make_unique<HashModel>(transport), {.n_slots = 8, .n_blocks = 8});
  EXPECT_TRUE(executor.ok()) << executor.status();
  return *std::move(executor);
}

struct Driven {
  std::vector<StepResult> results;
  std::vector<std::vector<std::byte>> states;  // of every step, as they arrived on shard 0
  bool operator==(const Driven&) const = default;
};

constexpr int kSequences = 6;

StepPlan PlanOfStep(int step, int n_shards, const std::vector<std::vector<uint32_t>>& next) {
  StepPlan plan;
  plan.seq = static_cast<uint64_t>(step) + 1;
  for (int s = 0; s < kSequences; ++s) {
    const SlotId place{static_cast<uint16_t>(s % n_shards), static_cast<uint16_t>(s / n_shards)};
    if (step == 0) {
      StepPlan::OpenSlot open;
      open.slot = place;
      open.sampling.temperature = 0.0;
      plan.open_slots.push_back(open);
      plan.set_blocks.push_back({place, 0, static_cast<uint32_t>(s / n_shards)});
    }
    if (s == 4 && step % 3 == 1) continue;  // some shards have nothing to do now and then
    StepPlan::Row row;
    row.slot = place;
    row.n_past = step == 0 ? 0 : 1 + step;
    row.tokens = next[static_cast<size_t>(s)];
    row.sample = true;
    plan.rows.push_back(row);
    const auto number = static_cast<uint64_t>(100 * step + s + 1);
    plan.export_states.push_back({place, row.n_past + static_cast<int64_t>(row.tokens.size()), number, {}});
  }
  return plan;
}

// What the step before has exported comes to shard 0, from the shards that made it, and is dropped there.
constexpr uint64_t kMoved = 1'000'000;
void BringStates(const StepPlan& before, StepPlan& plan) {
  for (const StepPlan::ExportState& state : before.export_states) {
    const uint16_t shard = state.slot.shard;
    if (shard == 0) continue;
    plan.move_copies.push_back({shard, state.copy, 0, kMoved + state.copy, sizeof(uint64_t) + kStampBytes});
    plan.drop_copies.push_back({shard, state.copy});
  }
}

// Six sequences, home shard = sequence % n_shards, greedy. `own`: of the leader.
Driven Drive(StepRunner& runner, Executor& own) {
  const int n_shards = runner.shape().n_shards;
  std::vector<std::vector<uint32_t>> next;
  for (uint32_t s = 0; s < kSequences; ++s) next.push_back({1, s});
  Driven driven;
  StepPlan before;
  for (int step = 0; step < 21; ++step) {
    StepPlan plan = step < 20 ? PlanOfStep(step, n_shards, next) : StepPlan();
    BringStates(before, plan);
    auto result = runner.Run(plan);
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return driven;
    for (size_t i = 0; i < plan.rows.size(); ++i) {
      const SlotId& slot = plan.rows[i].slot;
      next[static_cast<size_t>(slot.slot) * static_cast<size_t>(n_shards) + slot.shard] = {
          result->rows[i].sampled.at(0).token};
    }
    for (const StepPlan::ExportState& state : before.export_states) {
      const auto bytes = own.copies().Find(state.slot.shard == 0 ? state.copy : kMoved + state.copy);
      driven.states.push_back(bytes == nullptr ? std::vector<std::byte>() : *bytes);
      EXPECT_NE(bytes, nullptr);
    }
    before = std::move(plan);
    driven.results.push_back(*std::move(result));
  }
  return driven;
}

Driven DriveGroup(int n_shards) {
  const std::string dir = testing::MakeTempDir("group").string();
  auto leader_bell = Doorbell::Create(dir, kGeneration);
  EXPECT_TRUE(leader_bell.ok()) << leader_bell.status();
  Driven driven;
  testing::ThreadGroup threads(n_shards);
  threads.Run([&](Communicator& communicator) {
    BaselineExpertTransport transport(communicator, kExperts, kGeneration);
    const auto executor = MakeExecutor(transport);
    if (communicator.rank() == 0) {
      ShardGroupRunner runner({communicator, **leader_bell, transport, nullptr, kGeneration}, *executor);
      driven = Drive(runner, *executor);
      EXPECT_TRUE(runner.Shutdown().ok());
      return;
    }
    auto bell = Doorbell::Open(dir, kGeneration);
    ASSERT_TRUE(bell.ok()) << bell.status();
    const absl::Status status = RunFollower({communicator, **bell, transport, nullptr, kGeneration}, *executor);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(executor->copies().size(), 0U);
  });
  return driven;
}

TEST(ShardGroup, AnyNumberOfShardsGivesTheResultsOfOne) {
  LocalExpertTransport transport;
  const auto executor = MakeExecutor(transport);
  LocalStepRunner local(*executor);
  const Driven expected = Drive(local, *executor);
  ASSERT_EQ(expected.results.size(), 21U);
  for (const int n_shards : {1, 2, 3, 4, 7}) {
    SCOPED_TRACE(std::to_string(n_shards) + " shards");
    const Driven driven = DriveGroup(n_shards);
    EXPECT_TRUE(driven.results == expected.results);
    EXPECT_TRUE(driven.states == expected.states);
  }
}

// What a follower of `follower_generation` says to a leader of kGeneration.
absl::Status FollowStranger(uint64_t follower_generation, std::string announced) {
  const std::string dir = testing::MakeTempDir("group").string();
  auto leader_bell = Doorbell::Create(dir, kGeneration);
  absl::Status status;
  testing::ThreadGroup threads(2);
  threads.Run([&](Communicator& communicator) {
    if (communicator.rank() == 0) {
      (*leader_bell)->Ring();
      EXPECT_TRUE(communicator.Broadcast(announced).ok());
      return;
    }
    auto bell = Doorbell::Open(dir, kGeneration);
    BaselineExpertTransport transport(communicator, kExperts, follower_generation);
    const auto executor = MakeExecutor(transport);
    status = RunFollower({communicator, **bell, transport, nullptr, follower_generation}, *executor);
  });
  return status;
}

TEST(ShardGroup, AFollowerRefusesAPlanOfAnotherGenerationWithBothValues) {
  std::string sealed(3 * sizeof(uint64_t), '\0');
  const uint64_t envelope[3] = {kGeneration, 1, 0};
  std::memcpy(sealed.data(), envelope, sizeof(envelope));
  sealed += StepPlan().Serialize();
  const absl::Status status = FollowStranger(12, sealed);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(status.message(),
            "the leader announces step 1 of generation 11; this shard expects step 1 of generation 12");
}

TEST(ShardGroup, AFollowerRefusesADamagedPlan) {
  std::string sealed(3 * sizeof(uint64_t), '\0');
  const uint64_t envelope[3] = {kGeneration, 1, 0};
  std::memcpy(sealed.data(), envelope, sizeof(envelope));
  sealed += StepPlan().Serialize();
  sealed.back() = static_cast<char>(sealed.back() ^ 1);
  EXPECT_EQ(FollowStranger(kGeneration, sealed).code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace longshelf::engine
