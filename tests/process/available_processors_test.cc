#include "process/available_processors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <string>

#include "fake_root.h"

namespace longshelf {
namespace {

using ::testing::HasSubstr;

// On a machine with 16 processors.
class AvailableProcessorsTest : public testing::FakeRootTest {
 protected:
  AvailableProcessors Find() const { return FindAvailableProcessors(root_, 16); }
};

TEST_F(AvailableProcessorsTest, AreTheMachinesWhereNoGroupAllowsLess) {
  EXPECT_EQ(Find().n, 16);
  EXPECT_EQ(Find().bound_by, "this machine");
  MountV2("/", "/a");
  Put("sys/fs/cgroup/a/cpu.max", "max 100000\n");
  EXPECT_EQ(Find().n, 16);
  Put("sys/fs/cgroup/a/cpu.max", "3200000 100000\n");
  EXPECT_EQ(Find().n, 16);
}

TEST_F(AvailableProcessorsTest, AreAsManyAsTheTimeOfItsGroupKeepsBusy) {
  MountV2("/", "/pod/worker");
  Put("sys/fs/cgroup/pod/worker/cpu.max", "250000 100000\n");
  EXPECT_EQ(Find().n, 3);
  EXPECT_THAT(Find().bound_by, HasSubstr("/sys/fs/cgroup/pod/worker (2.5 processors)"));
  Put("sys/fs/cgroup/pod/worker/cpu.max", "10000 100000\n");
  EXPECT_EQ(Find().n, 1);
}

TEST_F(AvailableProcessorsTest, AreBoundByAGroupAboveThatAllowsLess) {
  MountV2("/", "/pod/worker");
  Put("sys/fs/cgroup/pod/worker/cpu.max", "800000 100000\n");
  Put("sys/fs/cgroup/pod/cpu.max", "400000 200000\n");
  EXPECT_EQ(Find().n, 2);
}

TEST_F(AvailableProcessorsTest, AreBoundByAGroupOfVersion1) {
  Put("proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/other\n");
  Put("proc/self/mountinfo", "33 25 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n");
  Put("sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us", "400000\n");
  Put("sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Find().n, 4);
  Put("sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(Find().n, 16);
}

TEST_F(AvailableProcessorsTest, AreThoseThatTheProcessMayRunOn) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  EXPECT_EQ(FindAvailableProcessors(root_).n, CPU_COUNT(&before));
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  EXPECT_EQ(FindAvailableProcessors(root_).n, 1);
  EXPECT_EQ(sched_setaffinity(0, sizeof(before), &before), 0);
}

TEST_F(AvailableProcessorsTest, WhatMakesNoSenseIsNoBound) {
  MountV2("/", "/a");
  for (const char* text : {"", "\n", "max\n", "100000\n", "0 100000\n", "100000 0\n", "x y\n", "nan 1\n"}) {
    Put("sys/fs/cgroup/a/cpu.max", text);
    EXPECT_EQ(Find().n, 16) << text;
  }
}

TEST(AvailableProcessors, OfThisProcessAreAtLeastOne) { EXPECT_GE(FindAvailableProcessors().n, 1); }

}  // namespace
}  // namespace longshelf
