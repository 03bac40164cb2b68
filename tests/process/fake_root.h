#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "testing/fixtures.h"

namespace longshelf::testing {

// A file system in which this process lives as the files say.
class FakeRootTest : public ::testing::Test {
 protected:
  void Put(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  // In `group`, where version 2 is mounted from `mounted` on.
  void MountV2(const std::string& mounted, const std::string& group) {
    Put("proc/self/cgroup", "0::" + group + "\n");
    Put("proc/self/mountinfo", "22 1 0:5 / /proc rw - proc proc rw\n29 22 0:26 " + mounted +
                                   " /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n");
  }

  const std::filesystem::path root_ = MakeTempDir("root");
};

}  // namespace longshelf::testing
