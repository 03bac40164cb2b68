// A group of a LeaderWorkerSet: pods with names, each in a network of its own, that are all told to leave at once.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "cluster_of_hosts.h"
#include "testing/fixtures.h"
#include "worker_stream.h"

namespace longshelf::worker {
namespace {

using std::chrono::seconds;
using testing::Generate;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::NetHosts;
using testing::Outcome;
using testing::SupervisedWorker;

TEST(Pods, OfALeaderWorkerSetFormAGroupAcrossNetworksAndDrainTogether) {
  std::string why;
  const auto hosts = NetHosts::Make(2, &why);
  if (hosts == nullptr) GTEST_SKIP() << why;
  const auto dir = testing::MakeTempDir("pods");
  std::ofstream(dir / "token") << testing::kHostToken;
  std::ofstream(dir / "hosts") << hosts->address(0) << " w-0.w.default\n";
  // As network plugins do: an address that is its whole network, and a route to all others.
  for (const int h : {0, 1}) {
    const std::string steps = "ip addr flush dev eth0 && ip addr add " + hosts->address(h) +
                              "/32 dev eth0 && ip route add " + hosts->network() + " dev eth0";
    ASSERT_EQ(hosts->RunOn(h, {"sh", "-c", steps}), 0);
  }
  const std::vector<std::string> pod = {"sh", "-c",
                                        "mount --bind " + (dir / "hosts").string() +
                                            " /etc/hosts; export LWS_LEADER_ADDRESS=w-0.w.default "
                                            "LWS_GROUP_SIZE=2; exec \"$@\"",
                                        "sh"};
  const auto start = [&](int h, std::vector<std::string> program) {
    program.insert(program.begin(), pod.begin(), pod.end());
    program.push_back("--token-file=" + (dir / "token").string());
    return std::make_unique<SupervisedWorker>(dir / std::to_string(h), hosts->On(h, program));
  };
  const auto worker = start(
      0, testing::WorkerCommand(LONGSHELF_TEST_SHARD,
                                {"--model=" + testing::ModelPath("demo").string(), "--hosts=lws",
                                 "--listen=0.0.0.0:7300", "--kv-memory=32MiB", "--drain-timeout=60s",
                                 "--restart-delay-min=50ms", "--restart-delay-max=100ms", "--failed-starts-max=1000"}));
  // A pod's name is known a while after the first pod has started.
  const auto deadline = std::chrono::steady_clock::now() + seconds(20);
  while (worker->log().find("w-0-1.w.default has no IPv4 address") == std::string::npos) {
    ASSERT_LT(std::chrono::steady_clock::now(), deadline) << worker->log();
    std::this_thread::yield();
  }
  std::ofstream(dir / "hosts", std::ios::app) << hosts->address(1) << " w-0-1.w.default\n";
  const auto agent = start(1, {LONGSHELF_TEST_HOST, "--listen=0.0.0.0:7310", "--drain-timeout=60s"});
  const auto logs = [&] { return worker->log() + "host 1:\n" + agent->log(); };
  ASSERT_TRUE(worker->WaitServing(1, 1, seconds(60)).has_value()) << logs();
  const std::string address = testing::ServingAddress(*worker, 1, hosts->address(0));
  const Outcome expected = Generate(address, testing::kHostToken);
  ASSERT_TRUE(expected.status.ok()) << expected.status.error_message() << logs();

  testing::Stream stream(address, 1000, 40, testing::kHostToken);
  ASSERT_TRUE(stream.WaitBegun());
  agent->Signal(SIGTERM);
  worker->Signal(SIGTERM);
  const Outcome drained = stream.Finish();
  EXPECT_TRUE(drained.finished) << drained.status.error_message() << logs();
  EXPECT_EQ(worker->WaitExit(seconds(15)), 0) << logs();
  EXPECT_EQ(agent->WaitExit(seconds(10)), 0) << logs();
  EXPECT_THAT(agent->log(), HasSubstr("stopping when generation"));
  EXPECT_THAT(worker->Leftovers(), IsEmpty());
  EXPECT_THAT(agent->Leftovers(), IsEmpty());
}

}  // namespace
}  // namespace longshelf::worker
