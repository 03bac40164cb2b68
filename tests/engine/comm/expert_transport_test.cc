#include "engine/comm/expert_transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>

#include "common/status.h"
#include "engine/comm/baseline_expert_transport.h"
#include "engine/comm/direct_expert_transport.h"
#include "testing/fixtures.h"
#include "thread_group.h"
#include "transport_oracle.h"

namespace longshelf::engine {
namespace {

using ::testing::HasSubstr;

absl::Status Dispatch(ExpertTransport& transport, std::span<const std::byte> rows, size_t row_bytes,
                      std::span<const ExpertAssignment> assignments, std::vector<DispatchedRow>& received) {
  RETURN_IF_ERROR(transport.BeginDispatch(0, 0, rows, row_bytes, assignments));
  return transport.FinishDispatch(0, {}, received);
}

class EveryGroupSize : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Shards, EveryGroupSize, ::testing::Values(1, 2, 3, 4, 5));

TEST_P(EveryGroupSize, RandomRoutingsArriveInOrderAndSumToTheDirectSumBitForBit) {
  testing::ThreadGroup group(GetParam());
  group.Run(
      [](Communicator& communicator) { EXPECT_EQ(testing::CompareWithDirectSum(communicator, 20261122, 60), ""); });
}

// How the shards of a group lie on hosts, and whether they have shared memory.
struct Layout {
  std::string name;
  std::vector<std::string> host_of;
  bool shared_memory = true;
};

class EveryLayout : public ::testing::TestWithParam<Layout> {};
INSTANTIATE_TEST_SUITE_P(Hosts, EveryLayout,
                         ::testing::Values(Layout{"One", {"a"}}, Layout{"TwoOnOneHost", {"a", "a"}},
                                           Layout{"ThreeOnOneHost", {"a", "a", "a"}},
                                           Layout{"EightOnOneHost", std::vector<std::string>(8, "a")},
                                           Layout{"TwoHosts", {"a", "b"}}, Layout{"FourHosts", {"a", "b", "c", "d"}},
                                           Layout{"TwoHostsOfTwo", {"a", "a", "b", "b"}},
                                           Layout{"UnequalHosts", {"a", "a", "a", "b", "c", "c"}},
                                           Layout{"Messages", {"a", "a", "a"}, false}),
                         [](const auto& instance) { return instance.param.name; });

std::unique_ptr<DirectExpertTransport> MakeDirect(Communicator& communicator, const Layout& layout, uint32_t n_experts,
                                                  const std::string& dir, std::optional<RowWays> ways) {
  DirectTransportOptions options = testing::DirectOptionsForRounds(n_experts);
  const std::string& host = layout.host_of[static_cast<size_t>(communicator.rank())];
  if (layout.shared_memory) options.shm_dir = dir + "/" + host;
  options.ways = ways;
  auto transport = DirectExpertTransport::Create(communicator, HostMap(layout.host_of, layout.host_of), options);
  EXPECT_TRUE(transport.ok()) << transport.status();
  return transport.ok() ? *std::move(transport) : nullptr;
}

std::string MakeHostDirs(const Layout& layout) {
  const std::string dir = testing::MakeTempDir("shm").string();
  for (const std::string& host : layout.host_of) std::filesystem::create_directories(dir + "/" + host);
  return dir;
}

void ExpectNoFiles(const std::string& dir) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(dir)) {
    EXPECT_TRUE(entry.is_directory()) << entry.path() << " was left behind";
  }
}

// Of the mapping of a file with this name, or 0.
size_t MappedBytesOf(const std::string& name) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find(name) == std::string::npos) continue;
    const size_t dash = line.find('-');
    return std::stoul(line.substr(dash + 1), nullptr, 16) - std::stoul(line.substr(0, dash), nullptr, 16);
  }
  return 0;
}

TEST(DirectExpertTransport, SaysHowMuchMemoryItsBuffersTake) {
  const std::string dir = testing::MakeTempDir("shm").string();
  const Layout layout{"", {"a", "a"}};
  std::filesystem::create_directories(dir + "/a");
  constexpr uint32_t kExperts = 8;
  DirectTransportOptions options = testing::DirectOptionsForRounds(kExperts);
  options.shm_dir = dir;
  const uint64_t n_bytes_of_any_way = BytesOfBuffers(HostMap(layout.host_of, layout.host_of), 1, options);
  options.ways = RowWays{RowWay::kStream, RowWay::kStream};
  options.n_lanes = 1;
  const uint64_t n_bytes_of_one = BytesOfBuffers(HostMap(layout.host_of, layout.host_of), 1, options);
  options.n_lanes = kExchangeLanes;
  const uint64_t n_bytes = BytesOfBuffers(HostMap(layout.host_of, layout.host_of), 1, options);
  testing::ThreadGroup group(2);
  group.Run([&](Communicator& communicator) {
    const auto transport = MakeDirect(communicator, layout, kExperts, dir, options.ways);
    const size_t mapped = MappedBytesOf(dir + "/a/inbox-1") + MappedBytesOf(dir + "/a/second-inbox-1");
    EXPECT_GE(mapped, n_bytes);
    EXPECT_LT(mapped, n_bytes + 2 * 4096);
    EXPECT_TRUE(communicator.Barrier().ok());
  });
  EXPECT_GT(n_bytes, n_bytes_of_one) << "a second lane has buffers of its own";
  EXPECT_GT(n_bytes_of_any_way, n_bytes) << "what is pulled lies in memory of its own";
  // What crosses to another host waits in memory of its own at both ends.
  const std::vector<std::string> apart = {"a", "b"};
  EXPECT_GT(BytesOfBuffers(HostMap(apart, apart), 1, options), n_bytes);
}

TEST_P(EveryLayout, MessagesThatGoStraightToTheirShardsGiveTheDirectSumBitForBitByEveryWay) {
  const Layout& layout = GetParam();
  const std::string dir = MakeHostDirs(layout);
  const std::array<RowWays, 5> all = {RowWays{RowWay::kStream, RowWay::kStream}, RowWays{RowWay::kPush, RowWay::kPush},
                                      RowWays{RowWay::kPull, RowWay::kPull}, RowWays{RowWay::kPull, RowWay::kStream},
                                      RowWays{RowWay::kPush, RowWay::kPull}};
  testing::ThreadGroup group(static_cast<int>(layout.host_of.size()));
  for (const RowWays& ways : all) {
    group.Run([&](Communicator& communicator) {
      EXPECT_EQ(
          testing::CompareWithDirectSum(
              communicator,
              [&](Communicator& among, uint32_t n_experts) { return MakeDirect(among, layout, n_experts, dir, ways); },
              20261128, 20, HostMap(layout.host_of, layout.host_of)),
          "")
          << RowWayName(ways.dispatch) << ", " << RowWayName(ways.combine);
    });
  }
  ExpectNoFiles(dir);
}

TEST_P(EveryLayout, AllShardsChooseTheSameWaysByMeasuringAndStillExchangeExactly) {
  const Layout& layout = GetParam();
  const std::string dir = MakeHostDirs(layout);
  std::vector<std::optional<WayTable>> ways(layout.host_of.size());
  testing::ThreadGroup group(static_cast<int>(layout.host_of.size()));
  group.Run([&](Communicator& communicator) {
    const auto make = [&](Communicator& among, uint32_t n_experts) {
      auto transport = MakeDirect(among, layout, n_experts, dir, std::nullopt);
      ways[static_cast<size_t>(among.rank())] = transport->ways();
      EXPECT_EQ(transport->totals().n_layers, 0U) << "what was measured is not work";
      if (transport->ways().has_value()) {
        EXPECT_EQ(WayTable(transport->figures()), *transport->ways());
      }
      return transport;
    };
    EXPECT_EQ(testing::CompareWithDirectSum(communicator, make, 20261129, 2, HostMap(layout.host_of, layout.host_of)),
              "");
  });
  std::optional<WayTable> first;
  for (const std::optional<WayTable>& one : ways) {
    if (!one.has_value()) continue;
    if (!first.has_value()) first = one;
    EXPECT_EQ(one, first);
  }
  ExpectNoFiles(dir);
}

// A dispatch of n_tokens rows with six experts each, by both shards of a host whose inboxes are for 16.
std::vector<absl::Status> DispatchOf(size_t n_tokens, RowWay way) {
  const std::string dir = testing::MakeTempDir("shm").string();
  std::vector<absl::Status> statuses(2);
  testing::ThreadGroup group(2);
  group.Run([&](Communicator& communicator) {
    DirectTransportOptions options = testing::DirectOptionsForRounds(12);
    options.n_tokens_max = 16;
    options.shm_dir = dir;
    options.ways = RowWays{way, way};
    const auto transport = DirectExpertTransport::Create(communicator, HostMap(2), options);
    ASSERT_TRUE(transport.ok()) << transport.status();
    const std::vector<std::byte> rows(n_tokens * options.row_bytes_max, std::byte{7});
    std::vector<ExpertAssignment> assignments;
    for (uint32_t t = 0; t < n_tokens; ++t) {
      // All of them on the second shard.
      for (uint32_t e = 6; e < 12; ++e) assignments.push_back({t, e, 1.0F});
    }
    std::vector<DispatchedRow> received;
    const auto exchange = [&]() -> absl::Status {
      RETURN_IF_ERROR(Dispatch(**transport, rows, options.row_bytes_max, assignments, received));
      std::vector<std::byte> results(received.size() * options.result_bytes_max);
      RETURN_IF_ERROR((*transport)->PlaceResults(0, results, options.result_bytes_max, received));
      const std::vector<std::byte> result(options.result_bytes_max, std::byte{9});
      for (const DispatchedRow& row : received) StoreResult(row, 0, result);
      FenceResults();
      RETURN_IF_ERROR((*transport)->BeginCombine(0));
      std::vector<const std::byte*> combined;
      RETURN_IF_ERROR((*transport)->FinishCombine(0, combined));
      for (const std::byte* one : combined) {
        if (std::memcmp(one, result.data(), result.size()) != 0) return absl::DataLossError("a result differs");
      }
      return absl::OkStatus();
    };
    statuses[static_cast<size_t>(communicator.rank())] = exchange();
  });
  return statuses;
}

TEST(DirectExpertTransport, WhatFillsTheInboxesExactlyArrivesAndOneRowMoreIsRefusedBeforeAnythingIsSent) {
  for (const RowWay way : kRowWays) {
    for (const absl::Status& status : DispatchOf(16, way)) EXPECT_TRUE(status.ok()) << RowWayName(way) << status;
    for (const absl::Status& status : DispatchOf(17, way)) {
      EXPECT_THAT(std::string(status.message()), HasSubstr("the inboxes of lane 0 are for 16")) << RowWayName(way);
    }
  }
}

TEST(WayTable, TheFastestOfTheNearestSizeIsTakenForEachDirection) {
  const WayTable table(
      std::vector<WayFigures>{{8, {3.0, 1.0, 1.1}, {1.0, 2.0, 3.0}}, {128, {1.0, 3.0, 1.1}, {3.0, 2.0, 1.0}}});
  const RowWays few = {RowWay::kPush, RowWay::kStream};
  const RowWays many = {RowWay::kStream, RowWay::kPull};
  for (const size_t n : {0, 1, 8, 32}) EXPECT_EQ(table.Of(n), few) << n;
  for (const size_t n : {33, 128, 4096}) EXPECT_EQ(table.Of(n), many) << n;
  EXPECT_TRUE(table.any_pulled());
  EXPECT_FALSE(WayTable(few).any_pulled());
}

TEST(DirectExpertTransport, WhereOneHostHasNoRoomNobodyKeepsAnInbox) {
  const std::string dir = testing::MakeTempDir("shm").string();
  std::filesystem::create_directories(dir + "/a");  // and no "b"
  testing::ThreadGroup group(2);
  group.Run([&](Communicator& communicator) {
    DirectTransportOptions options = testing::DirectOptionsForRounds(4);
    const std::vector<std::string> hosts = {"a", "b"};
    options.shm_dir = dir + "/" + hosts[static_cast<size_t>(communicator.rank())];
    const auto transport = DirectExpertTransport::Create(communicator, HostMap(hosts, hosts), options);
    EXPECT_EQ(transport.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(transport.status().message()), HasSubstr("shard 1: inbox of a shard: cannot open"));
  });
  EXPECT_TRUE(std::filesystem::is_empty(dir + "/a"));
}

TEST_P(EveryGroupSize, EveryExpertHasOneOwnerAndSharesDifferByAtMostOne) {
  const int n = GetParam();
  for (const uint32_t n_experts : {1U, 3U, 7U, 64U, 256U}) {
    EXPECT_EQ(FirstExpertOf(0, n_experts, n), 0U);
    EXPECT_EQ(FirstExpertOf(n, n_experts, n), n_experts);
    for (int r = 0; r < n; ++r) {
      const uint32_t n_owned = FirstExpertOf(r + 1, n_experts, n) - FirstExpertOf(r, n_experts, n);
      EXPECT_GE(n_owned, n_experts / static_cast<uint32_t>(n));
      EXPECT_LE(n_owned, n_experts / static_cast<uint32_t>(n) + 1);
    }
  }
}

// Status of a dispatch in which shard 1 differs from shard 0 in one respect.
template <typename Prepare>
std::vector<absl::Status> DispatchOutOfStep(uint64_t generation_of_1, Prepare prepare) {
  std::vector<absl::Status> statuses(2);
  testing::ThreadGroup group(2);
  group.Run([&](Communicator& communicator) {
    const bool second = communicator.rank() == 1;
    BaselineExpertTransport transport(communicator, 4, second ? generation_of_1 : 5);
    transport.BeginStep(7);
    if (second) prepare(transport);
    const std::array<std::byte, 16> rows{};
    const std::array<ExpertAssignment, 1> assignments = {ExpertAssignment{0, 3, 1.0F}};
    std::vector<DispatchedRow> received;
    statuses[static_cast<size_t>(communicator.rank())] = Dispatch(transport, rows, rows.size(), assignments, received);
  });
  return statuses;
}

TEST(BaselineExpertTransport, AShardOfAnotherGenerationIsRefusedWithBothValues) {
  for (const absl::Status& status : DispatchOutOfStep(6, [](BaselineExpertTransport&) {})) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(status.message()), HasSubstr("generation"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("5"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("6"));
  }
}

TEST(BaselineExpertTransport, AShardAtAnotherStepIsRefusedWithBothValues) {
  for (const absl::Status& status :
       DispatchOutOfStep(5, [](BaselineExpertTransport& transport) { transport.BeginStep(8); })) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(status.message()), HasSubstr("step"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("7"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("8"));
  }
}

TEST(BaselineExpertTransport, AnAssignmentOutOfRangeIsRefusedBeforeAnythingIsSent) {
  testing::ThreadGroup group(1);
  group.Run([](Communicator& communicator) {
    BaselineExpertTransport transport(communicator, 4, 1);
    const std::array<std::byte, 16> rows{};
    std::vector<DispatchedRow> received;
    for (const ExpertAssignment& bad : {ExpertAssignment{0, 4, 1.0F}, ExpertAssignment{1, 0, 1.0F}}) {
      const std::array<ExpertAssignment, 1> assignments = {bad};
      EXPECT_FALSE(Dispatch(transport, rows, rows.size(), assignments, received).ok());
    }
  });
}

TEST(BaselineExpertTransport, OwnRowsAreNotCopied) {
  testing::ThreadGroup group(1);
  group.Run([](Communicator& communicator) {
    BaselineExpertTransport transport(communicator, 4, 1);
    const std::array<std::byte, 32> rows{};
    const std::array<ExpertAssignment, 2> assignments = {ExpertAssignment{0, 2, 0.5F}, ExpertAssignment{1, 1, 0.25F}};
    std::vector<DispatchedRow> received;
    ASSERT_TRUE(Dispatch(transport, rows, 16, assignments, received).ok());
    ASSERT_EQ(received.size(), 2U);
    EXPECT_EQ(received[0].row, rows.data() + 16);
    EXPECT_EQ(received[1].row, rows.data());
  });
}

TEST(LocalExpertTransport, GivesTheSameOrderAsAGroupOfOne) {
  const std::array<std::byte, 48> rows{};
  const std::array<ExpertAssignment, 4> assignments = {ExpertAssignment{0, 1, 0.1F}, ExpertAssignment{0, 3, 0.2F},
                                                       ExpertAssignment{1, 0, 0.3F}, ExpertAssignment{2, 1, 0.4F}};
  LocalExpertTransport local;
  std::vector<DispatchedRow> expected;
  ASSERT_TRUE(Dispatch(local, rows, 16, assignments, expected).ok());
  testing::ThreadGroup group(1);
  group.Run([&](Communicator& communicator) {
    BaselineExpertTransport transport(communicator, 4, 1);
    std::vector<DispatchedRow> received;
    ASSERT_TRUE(Dispatch(transport, rows, 16, assignments, received).ok());
    ASSERT_EQ(received.size(), expected.size());
    for (size_t i = 0; i < received.size(); ++i) {
      EXPECT_EQ(received[i].expert, expected[i].expert);
      EXPECT_EQ(received[i].weight, expected[i].weight);
      EXPECT_EQ(received[i].row, expected[i].row);
    }
  });
}

std::vector<absl::Status> AgreeWith(const std::vector<std::vector<IdentityField>>& fields) {
  std::vector<absl::Status> statuses(fields.size());
  testing::ThreadGroup group(static_cast<int>(fields.size()));
  group.Run([&](Communicator& communicator) {
    const auto rank = static_cast<size_t>(communicator.rank());
    statuses[rank] = AgreeOnIdentity(communicator, fields[rank]);
  });
  return statuses;
}

TEST(AgreeOnIdentity, EqualShardsFormAGroup) {
  const std::vector<IdentityField> fields = {{"weights digest", "abc"}, {"kernel isa", "avx512"}};
  for (const absl::Status& status : AgreeWith({fields, fields, fields})) EXPECT_TRUE(status.ok()) << status;
}

TEST(AgreeOnIdentity, ADifferenceIsRefusedEverywhereNamingTheFieldAndBothValues) {
  const std::vector<IdentityField> fields = {{"weights digest", "abc"}, {"kernel isa", "avx512"}};
  const std::vector<IdentityField> other = {{"weights digest", "abc"}, {"kernel isa", "avx2"}};
  for (const absl::Status& status : AgreeWith({fields, fields, other})) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(status.message(),
              "shards 0 and 2 cannot form a group: kernel isa is \"avx512\" on shard 0 and \"avx2\" on shard 2");
  }
}

}  // namespace
}  // namespace longshelf::engine
