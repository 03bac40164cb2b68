#include "liveness.h"

#include <gtest/gtest.h>

namespace longshelf::worker {
namespace {

constexpr absl::Duration kBit = absl::Seconds(1);

TEST(Liveness, EndsWithTheLoop) {
  const absl::Time begin = absl::UnixEpoch();
  Liveness liveness(begin);
  EXPECT_TRUE(liveness.live(begin + Liveness::kLoopLimit));
  EXPECT_FALSE(liveness.live(begin + Liveness::kLoopLimit + kBit));
  liveness.LoopTurns(begin + Liveness::kLoopLimit);
  EXPECT_TRUE(liveness.live(begin + Liveness::kLoopLimit + kBit));
}

TEST(Liveness, EndsWithTheEngineOfAGroupThatServes) {
  absl::Time now = absl::UnixEpoch();
  Liveness liveness(now);
  const auto after = [&](absl::Duration time, bool serves, std::optional<uint64_t> n_turns) {
    now += time;
    liveness.LoopTurns(now);
    liveness.EngineTurns(serves, n_turns, now);
    return liveness.live(now);
  };
  EXPECT_TRUE(after(2 * Liveness::kEngineLimit, false, std::nullopt)) << "a start may take as long as it likes";
  EXPECT_TRUE(after(kBit, true, 1));
  EXPECT_TRUE(after(Liveness::kEngineLimit, true, 2)) << "one long step";
  EXPECT_TRUE(after(Liveness::kEngineLimit, true, 2));
  EXPECT_FALSE(after(kBit, true, 2));
  EXPECT_TRUE(after(kBit, false, std::nullopt)) << "the group was ended for it";
  EXPECT_TRUE(after(kBit, true, 2)) << "the next one, which has turned as often";
}

TEST(Liveness, EndsWhenItGivesUp) {
  Liveness liveness(absl::UnixEpoch());
  liveness.GiveUp();
  EXPECT_FALSE(liveness.live(absl::UnixEpoch()));
}

}  // namespace
}  // namespace longshelf::worker
