#include "core_queue.h"

#include <gtest/gtest.h>

namespace longshelf::simulation {
namespace {

TEST(CoreQueue, GivesEachAQuantumAtATimeAndChargesForChanges) {
  CoreQueue queue(/*n_here=*/2, /*quantum_s=*/3, /*switch_s=*/0.5);
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
  EXPECT_EQ(slice->seconds, 1 + 0.5);
  EXPECT_TRUE(slice->is_last);
  queue.End(*slice);
  EXPECT_FALSE(queue.Start().has_value());
}

TEST(CoreQueue, WhoeverRanLastGoesOnForNothingUnlessOthersHadTheirTurn) {
  CoreQueue queue(/*n_here=*/4, 3, 0.5);
  queue.Submit(0, 1);
  queue.End(*queue.Start());
  queue.Submit(0, 1);
  EXPECT_EQ(queue.Start()->seconds, 1);
  queue.End({0, 1, true});
  EXPECT_FALSE(queue.Start().has_value());
  queue.Submit(0, 1);
  // Half of those that wait look whether they have to, and it is its turn then.
  EXPECT_EQ(queue.Start()->seconds, 1 + 2 * 0.5);
}

TEST(CoreQueue, WhoeverHasMoreWorkKeepsTheCore) {
  CoreQueue queue(/*n_here=*/2, 3, 0.5);
  queue.Submit(0, 1);
  queue.Submit(1, 1);
  queue.End(*queue.Start());
  queue.Submit(0, 2);
  EXPECT_EQ(queue.Start()->rank, 0);
  queue.End({0, 2, true});
  EXPECT_EQ(queue.Start()->rank, 1);
}

TEST(CoreQueue, NobodyHasToGoOverWhereOnlyOneLives) {
  CoreQueue queue(/*n_here=*/1, 3, 0.5);
  EXPECT_FALSE(queue.Start().has_value());
  queue.Submit(0, 1);
  EXPECT_EQ(queue.Start()->seconds, 1);
}

}  // namespace
}  // namespace longshelf::simulation
