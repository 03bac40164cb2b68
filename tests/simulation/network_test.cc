#include "simulation/network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace longshelf::simulation {
namespace {

using ::testing::HasSubstr;

TEST(ParseNetwork, ReadsBandwidthAndLatency) {
  const auto network = ParseNetwork("25Gbit,20us");
  ASSERT_TRUE(network.ok()) << network.status();
  EXPECT_DOUBLE_EQ(network->bytes_per_s, 3.125e9);
  EXPECT_DOUBLE_EQ(network->latency_s, 20e-6);
  EXPECT_FALSE(network->offloaded);
  EXPECT_TRUE(ParseNetwork("50GB/s,1500ns,rdma")->offloaded);
  EXPECT_DOUBLE_EQ(ParseNetwork("50GB/s,1500ns,rdma")->bytes_per_s, 50e9);
  EXPECT_DOUBLE_EQ(ParseNetwork("0.5Tbit,0.5ms,tcp")->latency_s, 0.5e-3);
}

TEST(ParseNetwork, KnowsItsPresets) {
  for (const Network& preset : NetworkPresets()) EXPECT_EQ(ParseNetwork(preset.name)->bytes_per_s, preset.bytes_per_s);
  EXPECT_DOUBLE_EQ(ParseNetwork("400g-rdma")->bytes_per_s, 50e9);
}

TEST(ParseNetwork, SaysWhatIsWrong) {
  for (const char* bad : {"",
                          "25",
                          "25g,20us",
                          "25Gbit",
                          "25Gbit,",
                          ",20us",
                          "25Gbit,20",
                          "-25Gbit,20us",
                          "25Gbit,-1us",
                          "25Gbit,0us",
                          "25Gbit,2000ms",
                          "1e3Gbit,20us",
                          "Gbit,us",
                          "25Gbit,20us,quic",
                          "25Gbit,20us,rdma,x",
                          "inf Gbit,20us",
                          "0Gbit,20us",
                          "900Tbit,20us",
                          "25 Gbit,20us",
                          "25Gbit;20us",
                          "nanGbit,1us"}) {
    const auto network = ParseNetwork(bad);
    ASSERT_FALSE(network.ok()) << bad;
    EXPECT_EQ(network.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(network.status().message()), HasSubstr("must be BANDWIDTH,LATENCY such as 25Gbit,20us"));
  }
  EXPECT_THAT(std::string(ParseNetwork("25Gbit,20").status().message()), HasSubstr("the latency \"20\""));
  EXPECT_THAT(std::string(ParseNetwork("25,20us").status().message()), HasSubstr("the bandwidth \"25\""));
}

}  // namespace
}  // namespace longshelf::simulation
