#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/mailbox.h"
#include "common/metrics.h"
#include "engine/messages.h"
#include "kv_objects.h"
#include "simulated_store.h"
#include "worker/bridge/kv_bridge.h"
#include "worker/metrics.h"

namespace longshelf::worker {

// Answers the bridge as an engine would that holds what the test gave it, when the test says Run().
class FakeEngine {
 public:
  // What it holds lies on `n_shards` shards, block by block in turn.
  FakeEngine(Mailbox<engine::EngineMessage>& inbox, const engine::TestCopies& copies)
      : inbox_(inbox), copies_(copies) {}

  void Hold(const std::vector<engine::KvObject>& objects);
  engine::ParkedObject Name(const engine::KvObject& object) const;
  // True when there was anything to do.
  bool Run();

  std::map<engine::PrefixKey, engine::ParkedObject> blocks;
  std::map<engine::PrefixKey, engine::FoundPrefix> checkpoints;
  // What FindPrefix answers.
  absl::StatusOr<engine::FoundPrefix> found = absl::NotFoundError("not held");
  int64_t n_blocks_sent = 0;
  bool is_asleep = false;  // answers nothing
  bool is_export_stuck = false;
  int n_shards = 1;

 private:
  bool Export(engine::ExportBlocks& job);  // true when something was sent or it ended

  Mailbox<engine::EngineMessage>& inbox_;
  const engine::TestCopies& copies_;
  std::deque<engine::EngineMessage> waiting_;
  std::deque<engine::ExportBlocks> exports_;
};

// A bridge, a store and an engine, all turned by the test, on a clock of its own.
class BridgeHarness : public ::testing::Test {
 protected:
  static constexpr uint64_t kBlockBytes = engine::kStampBytes + 640;
  static uint64_t StateBytes(int64_t n_tokens) {
    return engine::kStampBytes + 100 + static_cast<uint64_t>(n_tokens % 128);
  }
  static constexpr int kShards = 2;

  BridgeHarness();
  void Start();
  void TearDown() override;
  // One store, unless a test has others.
  virtual kvstore::Client& client() { return store_; }
  virtual bool RunStores() { return store_.Run(); }  // true when there was anything to do
  virtual void Advance(absl::Duration time) { clock_.Advance(time); }

  // Lets everything go on that can without time passing.
  void Settle();
  // In steps of 10 ms.
  void Pass(absl::Duration time);

  static std::vector<uint32_t> Tokens(size_t n, uint32_t seed = 0);
  static std::vector<std::byte> Filled(uint64_t n_bytes, uint64_t seed);
  // What a worker that computed these tokens has: all full blocks, and state (and tail) at each of `checkpoints`.
  std::vector<engine::KvObject> Objects(const std::vector<uint32_t>& tokens,
                                        const std::vector<int64_t>& checkpoints) const;
  engine::FoundPrefix FoundAt(const std::vector<uint32_t>& tokens, int64_t n_tokens) const;
  kvstore::ObjectKey KeyOf(const std::vector<uint32_t>& tokens, int64_t n, kvstore::ObjectKind kind) const;
  // As the engine does it: blocks one by one, then each checkpoint.
  void Offload(const std::vector<uint32_t>& tokens, const std::vector<int64_t>& checkpoints);
  // Straight into the store.
  void Put(const std::vector<engine::KvObject>& objects);
  // As the engine names them.
  std::vector<engine::ParkedObject> Named(const std::vector<engine::KvObject>& objects) const;
  void Spoil(const kvstore::ObjectKey& key);  // a bit flips
  void Remove(const kvstore::ObjectKey& key) { store_.store().Drop(std::vector{key}); }
  void Resize(const kvstore::ObjectKey& key);  // the same name with a byte more
  bool IsStored(const kvstore::ObjectKey& key) { return store_.Read(key, options_.fingerprint) != nullptr; }

  // One request, from the lookup on; the test is its engine.
  struct Request {
    std::optional<RestoreOutcome> outcome;
    std::shared_ptr<std::atomic<bool>> cancelled = std::make_shared<std::atomic<bool>>(false);
    std::vector<std::vector<std::byte>> blocks;
    struct End {  // as PrefixFeed's, with the bytes
      int64_t n_tokens = 0;
      std::vector<std::byte> state;
      std::vector<std::byte> tail;
      std::string miss_reason;
    };
    std::optional<End> end;
  };
  std::shared_ptr<Request> Ask(const std::vector<uint32_t>& tokens);
  // Admits it: takes at most n_blocks at a time whenever something may have come, until it has ended or time is up.
  void Take(Request& request, int64_t n_blocks_held = 0, int64_t n_blocks = 100,
            absl::Duration patience = absl::Seconds(30));
  void Keep(engine::PrefixFeed::Arrived arrived, Request& request) const;
  std::shared_ptr<Request> Restore(const std::vector<uint32_t>& tokens, int64_t n_blocks_held = 0);

  kvstore::Ack park_ack_ = kvstore::Ack::kMemoryAll;
  absl::Duration park_timeout_ = absl::Minutes(2);
  std::shared_ptr<std::optional<absl::StatusOr<ParkOutcome>>> AskToPark(const std::vector<uint32_t>& tokens);
  absl::StatusOr<ParkOutcome> Park(const std::vector<uint32_t>& tokens);

  // Whether /metrics has such a line.
  bool Shows(const std::string& line) { return metrics_.Serialize().find("\n" + line + "\n") != std::string::npos; }

  ManualClock clock_;
  Metrics metrics_{"bridge_test"};
  WorkerMetrics worker_metrics_{metrics_};
  Mailbox<engine::EngineMessage> inbox_{100};
  kvstore::SimulatedStore store_{clock_};
  std::array<engine::KvCopies, kShards> of_shards_;
  const engine::TestCopies copies_{std::make_shared<engine::KvCopyLedger>(),
                                   [this](uint16_t shard) -> engine::KvCopies& { return of_shards_.at(shard); }};
  FakeEngine engine_{inbox_, copies_};
  std::vector<std::unique_ptr<HomeStore>> homes_;
  uint16_t home_ = 0;  // of what is restored
  KvBridgeOptions options_;
  std::string salt_ = std::string(32, 's');
  std::unique_ptr<KvBridge> bridge_;
};

}  // namespace longshelf::worker
