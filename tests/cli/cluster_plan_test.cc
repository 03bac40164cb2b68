#include "cli/cluster_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace longshelf::cli {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

ClusterPlan PlanOfTwo() {
  ClusterOptions options;
  options.model = "/models/demo/";
  options.program_dir = "/bin";
  options.shards = {1, 2};
  options.kv_memory_bytes = 1 << 20;
  options.store_memory_bytes = 2 << 20;
  options.worker_flags = {"--extra=1"};
  return PlanCluster(options, {.http = 80, .grpc = 81, .others = {1, 2, 3, 4, 5, 6, 7, 8, 9}});
}

TEST(PlanCluster, StartsTheStoreFirstAndTheRouterLast) {
  std::vector<std::string> names;
  for (const Member& member : PlanOfTwo().members) names.push_back(member.name);
  EXPECT_THAT(names, ElementsAre("kvstore", "worker-1", "worker-2", "router"));
}

TEST(PlanCluster, TellsWorkersTheStoreAndTheRouterTheWorkers) {
  const ClusterPlan plan = PlanOfTwo();
  const auto& store = plan.members[0];
  const auto& second = plan.members[2];
  const auto& router = plan.members[3];
  EXPECT_THAT(store.args, Contains("--listen=127.0.0.1:1"));
  EXPECT_THAT(second.args, Contains("--kvstore=127.0.0.1:1"));
  EXPECT_THAT(second.args, Contains("--shards=2"));
  EXPECT_THAT(second.args, Contains("--listen=127.0.0.1:6"));
  EXPECT_EQ(second.args.back(), "--extra=1");
  EXPECT_THAT(router.args, Contains("--workers=127.0.0.1:3,127.0.0.1:6"));
  EXPECT_THAT(router.args, Contains("--listen=127.0.0.1:80"));
  EXPECT_EQ(plan.model_name, "demo");
  EXPECT_EQ(plan.http_url, "http://127.0.0.1:80");
}

TEST(PlanCluster, GivesEveryoneHisOwnCertificateWhenThereAreSome) {
  ClusterOptions options;
  options.model = "/models/demo";
  options.shards = {1};
  options.certificates = "/c";
  const ClusterPlan plan = PlanCluster(options, {.http = 80, .grpc = 81, .others = {1, 2, 3, 4, 5, 6}});
  const char* const roles[] = {"kvstore", "worker", "router"};
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_THAT(plan.members[i].args, Contains(std::string("--tls-cert=/c/") + roles[i] + ".crt"));
    EXPECT_THAT(plan.members[i].args, Contains(std::string("--tls-key=/c/") + roles[i] + ".key"));
    EXPECT_THAT(plan.members[i].args, Contains("--tls-ca=/c/ca.crt"));
  }
  EXPECT_THAT(plan.members[2].args, Contains("--public-tls-cert=/c/router.crt"));
  EXPECT_EQ(plan.http_url, "https://127.0.0.1:80");
  EXPECT_EQ(plan.ca_file, "/c/ca.crt");
  for (const Member& member : PlanOfTwo().members) {
    for (const std::string& arg : member.args) EXPECT_EQ(arg.find("tls"), std::string::npos) << arg;
  }
}

TEST(PlanCluster, GivesEveryListenerItsOwnLoopbackPort) {
  std::set<std::string> seen;
  size_t n_listeners = 0;
  for (const Member& member : PlanOfTwo().members) {
    for (const std::string& arg : member.args) {
      if (arg.find("listen=") == std::string::npos) continue;
      EXPECT_THAT(arg, HasSubstr("=127.0.0.1:"));
      ++n_listeners;
      seen.insert(arg.substr(arg.rfind(':')));
    }
  }
  EXPECT_EQ(n_listeners, 2 + ClusterPlan::n_other_ports(1, 2));
  EXPECT_EQ(seen.size(), n_listeners);
}

TEST(PlanCluster, TellsSeveralStoresOfEachOtherAndWorkersOfAll) {
  ClusterOptions options;
  options.model = "/models/demo/";
  options.program_dir = "/bin";
  options.shards = {1};
  options.n_stores = 3;
  ClusterPorts ports{.http = 80, .grpc = 81, .others = {}};
  for (uint16_t i = 1; i <= ClusterPlan::n_other_ports(3, 1); ++i) ports.others.push_back(i);
  const ClusterPlan plan = PlanCluster(options, ports);
  ASSERT_EQ(plan.members.size(), 5U);
  const std::string stores = "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3";
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(plan.members[i].name, "kvstore-" + std::to_string(i + 1));
    EXPECT_THAT(plan.members[i].args, Contains("--listen=127.0.0.1:" + std::to_string(i + 1)));
    EXPECT_THAT(plan.members[i].args, Contains("--peers=" + stores));
  }
  EXPECT_THAT(plan.members[3].args, Contains("--kvstore=" + stores));
}

TEST(PlanCluster, GivesEachOfSeveralStoresADirectoryOfItsOwn) {
  ClusterOptions options;
  options.shards = {1};
  ClusterPorts ports{.http = 80, .grpc = 81, .others = {}};
  for (uint16_t i = 1; i <= ClusterPlan::n_other_ports(2, 1); ++i) ports.others.push_back(i);
  for (const std::vector<std::string>& flags :
       {std::vector<std::string>{"--disk=/d", "--x=--disk=/d"}, std::vector<std::string>{"--disk", "/d"}}) {
    options.kvstore_flags = flags;
    options.n_stores = 1;
    EXPECT_EQ(PlanCluster(options, ports).members[0].args.back(), flags.back());
    options.n_stores = 2;
    const ClusterPlan plan = PlanCluster(options, ports);
    for (size_t i : {0u, 1u}) {
      const std::string name = "/d/kvstore-" + std::to_string(i + 1);
      if (flags[0] == "--disk") {
        EXPECT_EQ(plan.members[i].args.back(), name);
      } else {
        EXPECT_THAT(plan.members[i].args, Contains("--disk=" + name));
        EXPECT_EQ(plan.members[i].args.back(), flags.back()) << "is another flag's";
      }
    }
  }
}

TEST(PlanCluster, TheRouterHasDrainedBeforeItIsKilled) {
  ClusterOptions options;
  options.shards = {1};
  const ClusterPorts ports{.http = 80, .grpc = 81, .others = {1, 2, 3, 4, 5, 6}};
  EXPECT_THAT(PlanCluster(options, ports).members.back().args, Contains("--drain-timeout=14s"));
  options.stop_timeout = absl::Seconds(2);
  options.router_flags = {"--drain-timeout=9s"};
  const std::vector<std::string> args = PlanCluster(options, ports).members.back().args;
  EXPECT_THAT(args, Contains("--drain-timeout=0"));
  EXPECT_EQ(args.back(), "--drain-timeout=9s") << "who says so has the last word";
}

TEST(ShardsOfWorkers, GivesTheSecondWorkerTwoShardsUnlessTold) {
  EXPECT_THAT(*ShardsOfWorkers(0, {}), ElementsAre(1, 2));
  EXPECT_THAT(*ShardsOfWorkers(1, {}), ElementsAre(1));
  EXPECT_THAT(*ShardsOfWorkers(3, {}), ElementsAre(1, 2, 1));
  EXPECT_THAT(*ShardsOfWorkers(3, {"2"}), ElementsAre(2, 2, 2));
  EXPECT_THAT(*ShardsOfWorkers(0, {"2"}), ElementsAre(2, 2));
  EXPECT_THAT(*ShardsOfWorkers(0, {"4", "1", "1"}), ElementsAre(4, 1, 1));
}

TEST(ShardsOfWorkers, RefusesWhatDoesNotFit) {
  EXPECT_THAT(std::string(ShardsOfWorkers(3, {"1", "2"}).status().message()),
              HasSubstr("shards names 2 workers, but workers is 3"));
  for (const char* bad : {"0", "-1", "17", "x", ""}) EXPECT_FALSE(ShardsOfWorkers(0, {bad}).ok()) << bad;
  EXPECT_FALSE(ShardsOfWorkers(17, {}).ok());
}

TEST(FindDemoModel, LooksAboveThePrograms) {
  namespace fs = std::filesystem;
  const fs::path root = fs::path(::testing::TempDir()) / "find_demo_model";
  fs::create_directories(root / "build/release/bin");
  EXPECT_FALSE(FindDemoModel((root / "build/release/bin").string()).ok());
  fs::create_directories(root / "models/demo");
  std::ofstream(root / "models/demo/config.json") << "{}";
  EXPECT_EQ(*FindDemoModel((root / "build/release/bin").string()), (root / "models/demo").string());
  fs::remove_all(root);
}

TEST(ChoosePorts, ChoosesDifferentFreePorts) {
  std::mt19937 random(7);
  const ClusterPorts ports = *ChoosePorts(0, 0, false, 20, [&] { return random(); });
  std::set<uint16_t> seen(ports.others.begin(), ports.others.end());
  seen.insert({ports.http, ports.grpc});
  EXPECT_EQ(seen.size(), 22u);
}

TEST(ChoosePorts, RefusesOrReplacesATakenPort) {
  std::mt19937 random(8);
  const auto next = [&] { return random(); };
  const uint16_t port = ChoosePorts(0, 0, false, 0, next)->http;
  EXPECT_EQ(ChoosePorts(port, 0, false, 0, next)->http, port);
  // The same port twice: the second time it is held by the first.
  EXPECT_EQ(ChoosePorts(port, port, false, 0, next).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(ChoosePorts(port, port, true, 0, next)->grpc, port);
}

}  // namespace
}  // namespace longshelf::cli
