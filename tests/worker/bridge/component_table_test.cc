// What a block is made of is data: layouts with ratios and components that no model has go from one shard's arena
// through the bridge and the store into another's, and neither of them knows.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "bridge_harness.h"
#include "common/check.h"
#include "engine/executor.h"
#include "engine/model/kv_layout.h"
#include "engine/token_stamp.h"
#include "worker/prefix_hasher.h"

namespace longshelf::worker {
namespace {

using engine::kBlockTokens;
using engine::KvComponent;
using engine::KvTable;
using engine::ParkedObject;
using engine::StepPlan;

constexpr int64_t kTokens = 3 * kBlockTokens - 57;  // two blocks and a tail that ends inside groups of every ratio

// Bytes of one layout; computes nothing.
class TableModel final : public engine::SequenceModel {
 public:
  explicit TableModel(KvTable table) : table_(std::move(table)) {}
  uint32_t vocab_size() const override { return 8; }
  size_t block_bytes() const override { return table_.block_bytes(); }
  size_t state_bytes() const override { return kState; }
  double position_cost() const override { return 0.0; }
  void ResetState(std::byte* slot) const override { std::memset(slot, 0, kState); }
  size_t StateExportBytes(int64_t) const override { return kState; }
  void ExportState(const std::byte* slot, int64_t, std::span<std::byte> out) const override {
    std::memcpy(out.data(), slot, kState);
  }
  absl::Status ImportState(std::span<const std::byte> bytes, int64_t, std::byte* slot) const override {
    std::memcpy(slot, bytes.data(), kState);
    return absl::OkStatus();
  }
  void ClearTail(std::byte* block, int64_t n_tokens_in_block) const override {
    table_.ClearTail(block, n_tokens_in_block);
  }
  absl::StatusOr<engine::ForwardOutput> Forward(const engine::ForwardBatch&) override {
    return absl::UnimplementedError("bytes only");
  }
  int64_t n_draft_max() const override { return 0; }
  int64_t n_draft() const override { return 0; }
  absl::StatusOr<engine::DraftOutput> Draft(std::span<const engine::DraftRequest>, int64_t) override {
    return absl::UnimplementedError("bytes only");
  }

  static constexpr size_t kState = 77;

 private:
  const KvTable table_;
};

std::vector<std::byte> Plain(const std::vector<std::byte>& payload) {
  const auto bytes = engine::WithoutStamp(payload);
  return {bytes.begin(), bytes.end()};
}

// A shard's arena with the blocks and the state of one sequence.
class Arena {
 public:
  explicit Arena(const KvTable& table)
      : executor_(
            std::move(*engine::Executor::Create(std::make_unique<TableModel>(table), {.n_slots = 1, .n_blocks = 3}))) {}

  void Import(const std::vector<std::vector<std::byte>>& blocks, const std::vector<std::byte>& state) {
    StepPlan plan;
    plan.open_slots.push_back({.slot = {}, .sampling = {}, .prior_output = {}});
    for (uint32_t i = 0; i < blocks.size(); ++i) {
      Add(i + 1, blocks[i]);
      plan.import_blocks.push_back({0, i, i + 1});
    }
    Add(9, state);
    plan.import_states.push_back({{}, kTokens, 9});
    const auto result = executor_->Execute(plan, 0);
    ASSERT_TRUE(result.ok()) << result.status();
  }
  struct Exported {  // without stamps
    std::vector<std::vector<std::byte>> blocks;
    std::vector<std::byte> state;
  };
  // The last block as a tail.
  Exported Export() {
    StepPlan plan;
    plan.export_blocks = {
        {0, 0, kBlockTokens, 11, {}}, {0, 1, kBlockTokens, 12, {}}, {0, 2, kTokens % kBlockTokens, 13, {}}};
    plan.export_states = {{{}, kTokens, 14, {}}};
    LONGSHELF_CHECK(executor_->Execute(plan, 0).ok());
    return {{Plain(*executor_->copies().Find(11)), Plain(*executor_->copies().Find(12)),
             Plain(*executor_->copies().Find(13))},
            Plain(*executor_->copies().Find(14))};
  }

 private:
  void Add(uint64_t number, std::vector<std::byte> bytes) {
    bytes.resize(bytes.size() + engine::kStampBytes);
    executor_->copies().Add(number, std::make_shared<const std::vector<std::byte>>(std::move(bytes)));
  }

  const std::unique_ptr<engine::Executor> executor_;
};

class ComponentTableTest : public BridgeHarness {
 protected:
  void Start(const KvTable& table) {
    options_.block_bytes = table.block_bytes() + engine::kStampBytes;
    options_.state_bytes = [](int64_t) { return TableModel::kState + engine::kStampBytes; };
    options_.state_bytes_max = TableModel::kState + engine::kStampBytes;
    options_.memory_bytes = 32 * options_.block_bytes;
    BridgeHarness::Start();
  }

  static std::vector<std::byte> Noise(size_t n) {
    static std::mt19937_64 random(5);
    std::vector<std::byte> out(n);
    for (std::byte& byte : out) byte = static_cast<std::byte>(1 + random() % 255);  // never zero
    return out;
  }

  // What the engine hands to the bridge, as it names and stamps it.
  void Offload(const std::vector<uint32_t>& tokens, const Arena::Exported& exported) {
    const KvPrefixHasher hasher(options_.fingerprint);
    const std::span<const uint32_t> all(tokens);
    const engine::PrefixKey root = hasher.Root(salt_);
    const auto keys = engine::FullBlockKeys(hasher, salt_, tokens, {});
    const engine::PrefixKey tail = hasher.Next(keys.back(), all.subspan(2 * kBlockTokens));
    engine::TokenDigest digest = engine::DigestOfSalt(salt_);
    const auto stamped = [&](std::vector<std::byte> bytes, std::span<const uint32_t> of) {
      const engine::EncodedStamp stamp = engine::EncodeStamp({digest, of});
      bytes.insert(bytes.end(), stamp.begin(), stamp.end());
      return copies_.Add(0, bytes);
    };
    std::vector<ParkedObject> objects;
    for (size_t i = 0; i < 2; ++i) {
      const auto of = all.subspan(i * kBlockTokens, kBlockTokens);
      objects.push_back({ParkedObject::Kind::kBlock, keys[i], i == 0 ? root : keys[0],
                         static_cast<int64_t>(i + 1) * kBlockTokens, stamped(exported.blocks[i], of)});
      digest = engine::ExtendDigest(digest, of);
    }
    const auto of = all.subspan(2 * kBlockTokens);
    objects.push_back({ParkedObject::Kind::kTail, tail, keys[1], kTokens, stamped(exported.blocks[2], of)});
    objects.push_back({ParkedObject::Kind::kCheckpoint, tail, keys[1], kTokens, stamped(exported.state, of)});
    bridge_->Offload({"tenant", root, keys}, std::move(objects));
    Settle();
  }

  void GoThrough(const KvTable& table);
};

// Every byte of a record that is live, and none of one that is not.
void ExpectTail(const KvTable& table, const std::vector<std::byte>& before, const std::vector<std::byte>& tail) {
  size_t n_bytes = 0;
  for (const KvComponent& c : table.components()) {
    for (int64_t row = 0; row < c.rows; ++row) {
      const bool is_live = (row + 1) * c.ratio <= kTokens % kBlockTokens;
      const size_t at = c.offset + static_cast<size_t>(row * c.row_bytes);
      const auto n = static_cast<size_t>(c.row_bytes);
      const std::vector<std::byte> zeros(n);
      ASSERT_EQ(std::memcmp(tail.data() + at, is_live ? before.data() + at : zeros.data(), n), 0) << c.id << row;
      n_bytes += n;
    }
  }
  ASSERT_EQ(n_bytes, tail.size());
}

void ComponentTableTest::GoThrough(const KvTable& table) {
  Start(table);
  const auto tokens = Tokens(static_cast<size_t>(kTokens));
  std::vector<std::vector<std::byte>> written;
  for (int i = 0; i < 3; ++i) written.push_back(Noise(table.block_bytes()));
  const std::vector<std::byte> state = Noise(TableModel::kState);

  Arena from(table);
  from.Import(written, state);
  const Arena::Exported exported = from.Export();
  ASSERT_EQ(exported.blocks[0], written[0]);
  ASSERT_EQ(exported.blocks[1], written[1]);
  ASSERT_NO_FATAL_FAILURE(ExpectTail(table, written[2], exported.blocks[2]));
  Offload(tokens, exported);
  EXPECT_EQ(store_.n_objects(), 4U);

  auto longer = tokens;
  longer.push_back(1);
  const auto request = Restore(longer);
  ASSERT_TRUE(request->end.has_value());
  ASSERT_EQ(request->end->n_tokens, kTokens);
  ASSERT_EQ(request->blocks.size(), 2U);
  Arena to(table);
  to.Import({Plain(request->blocks[0]), Plain(request->blocks[1]), Plain(request->end->tail)},
            Plain(request->end->state));
  const Arena::Exported arrived = to.Export();
  for (size_t i = 0; i < 3; ++i) {
    ASSERT_EQ(arrived.blocks[i].size(), exported.blocks[i].size());
    EXPECT_EQ(std::memcmp(arrived.blocks[i].data(), exported.blocks[i].data(), table.block_bytes()), 0) << i;
  }
  EXPECT_EQ(std::memcmp(arrived.state.data(), state.data(), state.size()), 0);
}

TEST_F(ComponentTableTest, AMadeUpComponentAndMadeUpRatiosGoThroughBitExactly) {
  KvTable table;
  ASSERT_TRUE(table.Add("entries", 0, 4, 584, "fp8+bf16+ue8m0").ok());
  ASSERT_TRUE(table.Add("sketch", 0, 8, 33, "int3").ok());
  ASSERT_TRUE(table.Add("entries", 1, 2, 40, "f32").ok());
  ASSERT_TRUE(table.Add("sums", 1, 256, 1000, "f32").ok());
  ASSERT_TRUE(table.Add("raw", 2, 1, 7, "u8").ok());
  GoThrough(table);
}

TEST_F(ComponentTableTest, AModelWithOtherRatiosGoesThroughBitExactly) {
  engine::ModelConfig config = engine::FlashConfig();
  config.n_layers = 5;
  config.compress_ratios = {0, 2, 4, 8, 128};
  const engine::KvLayout layout(config, engine::Numerics::kNative);
  std::vector<std::pair<std::string, int>> made;
  for (const KvComponent& c : layout.components()) made.emplace_back(c.id, c.ratio);
  EXPECT_EQ(made, (std::vector<std::pair<std::string, int>>{
                      {"entries", 2}, {"entries", 4}, {"index_keys", 4}, {"entries", 8}, {"entries", 128}}));
  KvTable table = layout.table();
  ASSERT_TRUE(table.Add("sketch", 3, 8, 33, "int3").ok());
  GoThrough(table);
}

TEST(KvTable, IsReadBackFromItsTextAndRefusesEveryOther) {
  const engine::KvLayout layout(engine::FlashConfig(), engine::Numerics::kNative);
  const std::string text = layout.table().Serialize();
  const auto read = KvTable::Parse(text);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, layout.table());
  EXPECT_EQ(read->block_bytes(), layout.block_bytes());
  EXPECT_NE(layout.Describe().find(text), std::string::npos) << "the fingerprint is of it";

  KvTable small;
  ASSERT_TRUE(small.Add("entries", 0, 8, 33, "int3").ok());
  ASSERT_TRUE(small.Add("sketch", 0, 2, 5, "u8").ok());
  const std::string good = small.Serialize();
  ASSERT_TRUE(KvTable::Parse(good).ok());
  for (size_t i = 0; i < good.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      const auto other = KvTable::Parse(bad);
      // Another table, then, and it says so.
      EXPECT_TRUE(!other.ok() || *other != small) << bad;
    }
    EXPECT_TRUE(i == 0 || !KvTable::Parse(good.substr(0, i)).ok() || good[i - 1] == '\n') << i;
  }
}

TEST(KvTable, RefusesWhatABlockCannotHave) {
  KvTable table;
  EXPECT_FALSE(table.Add("entries", 0, 3, 8, "u8").ok());
  EXPECT_FALSE(table.Add("entries", 0, 0, 8, "u8").ok());
  EXPECT_FALSE(table.Add("entries", 0, 512, 8, "u8").ok());
  EXPECT_FALSE(table.Add("entries", -1, 4, 8, "u8").ok());
  EXPECT_FALSE(table.Add("entries", 0, 4, 0, "u8").ok());
  EXPECT_FALSE(table.Add("entries", 0, 4, KvTable::kRowBytesMax + 1, "u8").ok());
  EXPECT_FALSE(table.Add("two words", 0, 4, 8, "u8").ok());
  EXPECT_FALSE(table.Add("entries", 0, 4, 8, "").ok());
  EXPECT_TRUE(table.Add("entries", 0, 4, 8, "u8").ok());
  EXPECT_FALSE(table.Add("entries", 0, 8, 8, "u8").ok()) << "twice";
}

}  // namespace
}  // namespace longshelf::worker
