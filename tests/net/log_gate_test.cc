#include "net/log_gate.h"

#include <gtest/gtest.h>

namespace longshelf::net {
namespace {

TEST(LogGate, OpensOnceASecondAndTellsHowManyItKeptOut) {
  LogGate gate;
  const absl::Time start = absl::FromUnixSeconds(1'000'000);
  EXPECT_EQ(gate.Open(start), 0u);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(gate.Open(start + absl::Milliseconds(100 * i)), std::nullopt);
  EXPECT_EQ(gate.Open(start + absl::Seconds(1)), 5u);
  EXPECT_EQ(gate.Open(start + absl::Seconds(2)), 0u);
}

TEST(LogGate, OpensForTheFirstAtAnyTime) { EXPECT_EQ(LogGate().Open(absl::UnixEpoch()), 0u); }

}  // namespace
}  // namespace longshelf::net
