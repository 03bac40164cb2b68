// A group over machines and a KV store: every shard reaches it by itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <memory>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "cluster_of_hosts.h"
#include "common/metrics.h"
#include "kvstore/server.h"
#include "kvstore/store.h"
#include "open_sockets.h"
#include "testing/fixtures.h"
#include "worker_stream.h"

namespace longshelf::worker {
namespace {

using std::chrono::seconds;
using testing::ClusterOfHosts;
using testing::kHostToken;
using testing::NetHosts;
using testing::Outcome;
using testing::Stream;

constexpr size_t kSessions = 4;
constexpr size_t kPromptTokens = 600;
// Of each: two blocks, the state behind them, and state and tail where the prompt and the answer ended.
constexpr uint64_t kObjectsPerSession = 7;

class HostsStoreTest : public ::testing::Test {
 protected:
  // A store on `address`, in this process.
  void StartStore(const std::string& address) {
    store_ = std::move(*kvstore::Store::Create({.capacity_bytes = uint64_t{256} << 20}));
    auto server = kvstore::Server::Start({.listen = address + ":0", .token = kHostToken}, *store_, clock_, metrics_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  // All sessions at once, so that every shard gets some.
  static std::vector<Outcome> Converse(const std::string& address) {
    std::vector<std::unique_ptr<Stream>> streams;
    for (size_t seed = 0; seed < kSessions; ++seed) {
      streams.push_back(std::make_unique<Stream>(address, kPromptTokens, 40, kHostToken, seed));
    }
    std::vector<Outcome> out;
    for (const auto& stream : streams) out.push_back(stream->Finish());
    return out;
  }

  bool WaitStored(uint64_t n_objects) const {
    const auto deadline = std::chrono::steady_clock::now() + seconds(60);
    while (std::chrono::steady_clock::now() < deadline) {
      if (store_->Stats(clock_.WallNow()).n_objects >= n_objects) return true;
      std::this_thread::yield();
    }
    return false;
  }

  SystemClock clock_;
  Metrics metrics_{"store"};
  std::unique_ptr<kvstore::Store> store_;
  std::unique_ptr<kvstore::Server> server_;
};

TEST_F(HostsStoreTest, EveryShardPutsWhatItComputedAndFetchesWhatItNeeds) {
  std::string why;
  auto hosts = NetHosts::Make(2, &why);
  if (hosts == nullptr) GTEST_SKIP() << why;
  const std::string own = hosts->own_address();
  const std::set<std::string> addresses = {hosts->address(0), hosts->address(1)};
  StartStore(own);
  ClusterOfHosts cluster(std::move(hosts), 1, {absl::StrCat("--kvstore=", own, ":", server_->port())});
  ASSERT_TRUE(cluster.WaitServing(1)) << cluster.Logs();
  const std::vector<Outcome> first = Converse(cluster.Address(1));
  for (const Outcome& outcome : first) ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  ASSERT_TRUE(WaitStored(kSessions * kObjectsPerSession)) << store_->Stats(clock_.WallNow()).n_objects;
  EXPECT_EQ(testing::PeersOf(static_cast<uint16_t>(server_->port())), addresses) << "both hosts talk to the store";

  // The next group has nothing of its own.
  for (const engine::ProcessId& id : cluster.Processes()) kill(id.pid, SIGKILL);
  ASSERT_TRUE(cluster.WaitServing(2)) << cluster.Logs();
  const std::vector<Outcome> second = Converse(cluster.Address(2));
  for (size_t i = 0; i < kSessions; ++i) {
    ASSERT_TRUE(second[i].status.ok()) << second[i].status.error_message() << cluster.Logs();
    EXPECT_EQ(second[i].tokens, first[i].tokens) << i;
    EXPECT_GE(second[i].n_cached_store, 512U) << i;
  }
}

}  // namespace
}  // namespace longshelf::worker
