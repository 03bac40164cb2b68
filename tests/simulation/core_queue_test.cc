#include "core_queue.h"

#include <gtest/gtest.h>

namespace longshelf::simulation {
namespace {

TEST(CoreQueue, GivesEachAQuantumAtATimeAndChargesForChanges) {
  CoreQueue queue(/*n_at_once=*/1, /*n_here=*/2, /*n_ranks=*/2, /*quantum_s=*/3, /*switch_s=*/0.5);
  queue.Submit(0, 4);
  queue.Submit(1, 2);
  auto slice = queue.Start();
  ASSERT_TRUE(slice.has_value());
  EXPECT_EQ(slice->rank, 0);
  EXPECT_EQ(slice->seconds, 3.5);
  EXPECT_FALSE(slice->is_last);
  EXPECT_FALSE(queue.Start().has_value());
  queue.End(*slice);
  slice = queue.Start();
  EXPECT_EQ(slice->rank, 1);
  EXPECT_EQ(slice->seconds, 2.5);
  EXPECT_TRUE(slice->is_last);
  queue.End(*slice);
  slice = queue.Start();
  EXPECT_EQ(slice->rank, 0);
  // The other one waits, and looks whether it has to.
  EXPECT_EQ(slice->seconds, 1 + 2 * 0.5);
  EXPECT_TRUE(slice->is_last);
  queue.End(*slice);
  EXPECT_FALSE(queue.Start().has_value());
}

TEST(CoreQueue, WhoeverRanLastOnACoreGoesOnForNothing) {
  CoreQueue queue(1, 1, 1, 3, 0.5);
  queue.Submit(0, 1);
  queue.End(*queue.Start());
  queue.Submit(0, 1);
  EXPECT_EQ(queue.Start()->seconds, 1);
}

}  // namespace
}  // namespace longshelf::simulation
