#include "hosts/daemon_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace longshelf::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(DaemonCommand, IsReadAsAShellWould) {
  const auto args = ParseDaemonCommand({" orted", "-mca", "ess \"env\"", "--mca orte_node_regex 'a[1:1],b@0(2)'"});
  ASSERT_TRUE(args.ok()) << args.status();
  EXPECT_THAT(*args, ElementsAre("-mca", "ess", "env", "--mca", "orte_node_regex", "a[1:1],b@0(2)"));
}

TEST(DaemonCommand, NothingButTheDaemonIsStarted) {
  EXPECT_THAT(std::string(ParseDaemonCommand({"sh", "-c", "x"}).status().message()), HasSubstr("not \"sh\""));
  for (const char* bad : {"", "orted; sh", "orted -mca a `sh`", "orted -mca a $(sh)", "orted | sh", "orted -mca a \"b",
                          "/tmp/orted -mca a b", "orted -mca a", "orted --prefix x y", "orted -mca a=b c"}) {
    EXPECT_FALSE(ParseDaemonCommand({bad}).ok()) << bad;
  }
}

TEST(DaemonCommand, SettingsAreBounded) {
  EXPECT_FALSE(CheckDaemonArgs(std::vector<std::string>(3000, "-mca")).ok());
  EXPECT_FALSE(CheckDaemonArgs({"-mca", "a", std::string(100'000, 'x')}).ok());
}

}  // namespace
}  // namespace longshelf::worker
