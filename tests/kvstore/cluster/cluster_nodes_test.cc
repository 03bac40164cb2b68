// Eight real store processes: one is killed, one stops, one leaves, one comes back empty, and nothing that was parked
// is lost.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "common/clock.h"
#include "connection.h"
#include "kvstore/blocking_client.h"
#include "kvstore/cluster_client.h"
#include "node_process.h"
#include "simulated_cluster.h"

namespace longshelf::kvstore {
namespace {

constexpr size_t kNodes = 8;
constexpr absl::Duration kTimeout = absl::Seconds(20);

// Ports that were free a moment ago, all held until each is known.
std::vector<int> FreePorts(size_t n) {
  std::vector<int> sockets;
  std::vector<int> ports;
  for (size_t i = 0; i < n; ++i) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    sockets.push_back(socket(AF_INET, SOCK_STREAM, 0));
    EXPECT_EQ(bind(sockets.back(), reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(getsockname(sockets.back(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    ports.push_back(ntohs(address.sin_port));
  }
  for (const int each : sockets) close(each);
  return ports;
}

class ClusterNodes : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const int port : FreePorts(kNodes)) addresses_.push_back(absl::StrCat("127.0.0.1:", port));
    nodes_.resize(kNodes);
    for (size_t i = 0; i < kNodes; ++i) Start(i);
    auto client = MakeClusterClient({.stores = absl::StrJoin(addresses_, ",")}, clock_, nullptr);
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    blocking_ = std::make_unique<BlockingClient>(*client_);
    for (size_t i = 0; i < kNodes; ++i) direct_.emplace_back(ClientOptions{.address = addresses_[i]});
  }

  void Start(size_t i) {
    nodes_[i] = std::make_unique<NodeProcess>(std::vector<std::string>{
        "--listen", addresses_[i], "--admin-listen", "127.0.0.1:0", "--memory", "64MiB", "--peers",
        absl::StrJoin(addresses_, ","), "--down-after", "2s", "--handoff-timeout", "30s", "--log-level", "info"});
    ASSERT_TRUE(nodes_[i]->WaitFor("serving on port ")) << nodes_[i]->log();
  }

  // Where a block belongs, best first.
  std::vector<size_t> HoldersOf(size_t block) const {
    std::vector<Member> members;
    for (const std::string& address : addresses_) members.push_back({.address = address});
    return Placement(members).Candidates(chain_.blocks[block].head.extent, 4);
  }

  // On how many nodes that are up an object is.
  size_t CopiesOf(const Object& object, const std::vector<size_t>& without) {
    size_t n = 0;
    for (size_t i = 0; i < kNodes; ++i) {
      if (std::find(without.begin(), without.end(), i) != without.end()) continue;
      const auto touched = direct_[i]->Touch({.keys = {{object.head.key, object.head.extent}}}, kTimeout);
      n += touched.ok() && touched->n_present == 1;
    }
    return n;
  }
  // Waits until every tenth block, those of all extents, has two copies.
  void WaitForCopies(const std::vector<size_t>& without) {
    const absl::Time deadline = absl::Now() + absl::Seconds(60);
    for (size_t i = 0; i < chain_.blocks.size(); i += 10) {
      while (CopiesOf(chain_.blocks[i], without) < 2) ASSERT_LT(absl::Now(), deadline) << "block " << i;
    }
  }
  bool IsWhole() {
    const auto found =
        blocking_->Lookup({.fingerprint = FingerprintOf(1), .root = chain_.root, .chain = chain_.keys}, kTimeout);
    if (!found.ok() || found->n_present != chain_.blocks.size()) return false;
    std::vector<GetItem> wants;
    for (const Object& block : chain_.blocks) wants.push_back(WantOf(block));
    const auto got = blocking_->GetMany(FingerprintOf(1), wants, kTimeout);
    for (size_t i = 0; i < got.size(); ++i) {
      if (!got[i].ok()) return false;
      EXPECT_EQ(*got[i], chain_.blocks[i].payload) << i;
    }
    return true;
  }
  // A client asks a store that was down again after some time only, and not again while it looks for one thing.
  void WaitUntilWhole(const char* when) {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (!IsWhole()) ASSERT_LT(absl::Now(), deadline) << when;
  }

  SystemClock clock_;
  const ChainObjects chain_ = MakeChain(3, 1000, 2000);
  std::vector<std::string> addresses_;
  std::vector<std::unique_ptr<NodeProcess>> nodes_;
  std::vector<Connection> direct_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<BlockingClient> blocking_;
};

TEST_F(ClusterNodes, AParkedSessionOutlivesThemOneAfterAnother) {
  std::vector<PutItem> puts;
  for (const Object& block : chain_.blocks) {
    puts.push_back(ItemOf(Parked(block, absl::Now() + absl::Hours(1)), 2, Ack::kMemoryAll));
  }
  for (const auto& outcome : blocking_->PutMany(puts, kTimeout)) ASSERT_TRUE(outcome.ok()) << outcome.status();
  ASSERT_TRUE(IsWhole()) << "healthy";

  // Always those that matter.
  const size_t killed = HoldersOf(0)[0];
  nodes_[killed]->Signal(SIGKILL);
  EXPECT_TRUE(IsWhole()) << "killed";
  WaitForCopies({killed});

  const size_t stopped = HoldersOf(0)[1];
  nodes_[stopped]->Signal(SIGSTOP);
  EXPECT_TRUE(IsWhole()) << "stopped";
  nodes_[stopped]->Signal(SIGCONT);

  const size_t left = HoldersOf(0)[2];
  nodes_[left]->Signal(SIGTERM);
  EXPECT_EQ(nodes_[left]->ExitCode(), 0);
  EXPECT_NE(nodes_[left]->log().find("what is parked is on other stores"), std::string::npos) << nodes_[left]->log();
  WaitForCopies({killed, left});
  EXPECT_TRUE(IsWhole()) << "left";

  nodes_[killed].reset();
  Start(killed);
  Start(left);
  WaitForCopies({});
  for (size_t i = 0; i < 2; ++i) {
    const size_t lost = HoldersOf(600)[i];
    nodes_[lost]->Signal(SIGKILL);
    WaitUntilWhole("lost after it had been filled again");
    if (i == 0) WaitForCopies({lost});
  }
}

TEST_F(ClusterNodes, WhatIsWrongWithTheListIsSaid) {
  NodeProcess stranger(
      {"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--peers", "127.0.0.1:1,127.0.0.1:2"});
  EXPECT_EQ(stranger.ExitCode(), 78);
  EXPECT_NE(stranger.log().find("does not name this node"), std::string::npos) << stranger.log();
  NodeProcess misspelt({"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--peers", "a:1;wieght=2"});
  EXPECT_EQ(misspelt.ExitCode(), 78);
  EXPECT_NE(misspelt.log().find("wieght"), std::string::npos) << misspelt.log();
}

}  // namespace
}  // namespace longshelf::kvstore
