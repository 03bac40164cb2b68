#include "engine/comm/doorbell.h"

#include <gtest/gtest.h>

#include <thread>

#include "engine/comm/run_dir.h"
#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

constexpr absl::Duration kLong = absl::Seconds(60);

TEST(Doorbell, EveryRingIsAnsweredOnceInWhateverRhythm) {
  const std::string dir = testing::MakeTempDir("bell").string();
  auto leader = Doorbell::Create(dir, 4);
  ASSERT_TRUE(leader.ok()) << leader.status();
  auto follower = Doorbell::Open(dir, 4);
  ASSERT_TRUE(follower.ok()) << follower.status();
  for (int i = 0; i < 3; ++i) (*leader)->Ring();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE((*follower)->Wait(kLong));
  EXPECT_FALSE((*follower)->Wait(absl::Milliseconds(1)));

  constexpr int kRings = 2000;
  std::thread ringer([&] {
    for (int i = 0; i < kRings; ++i) {
      if (i % 100 == 0) std::this_thread::yield();
      (*leader)->Ring();
    }
  });
  for (int i = 0; i < kRings; ++i) ASSERT_TRUE((*follower)->Wait(kLong));
  ringer.join();
  EXPECT_FALSE((*follower)->Wait(absl::Milliseconds(1)));
}

TEST(Doorbell, APageOfAnotherGenerationIsRefusedWithBothNumbers) {
  const std::string dir = testing::MakeTempDir("bell").string();
  ASSERT_TRUE(Doorbell::Create(dir, 4).ok());
  const auto follower = Doorbell::Open(dir, 5);
  EXPECT_EQ(follower.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(follower.status().message().find("generation 4, this shard to 5"), absl::string_view::npos);
}

TEST(Doorbell, WithoutAPageOpeningFails) {
  EXPECT_FALSE(Doorbell::Open(testing::MakeTempDir("bell").string(), 1).ok());
}

}  // namespace
}  // namespace longshelf::engine
