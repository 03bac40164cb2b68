#include "hosts/host_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "testing/fixtures.h"

namespace longshelf::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

absl::StatusOr<std::vector<std::string>> Resolve(const std::vector<std::string>& given,
                                                 const std::map<std::string, std::string>& variables = {}) {
  return ResolveHosts(
      given,
      [&](const std::string& name) -> std::optional<std::string> {
        const auto it = variables.find(name);
        return it == variables.end() ? std::nullopt : std::optional(it->second);
      },
      [] { return std::string("node7,node8"); });
}

TEST(HostList, NamesAreTakenAsTheyAre) {
  EXPECT_THAT(*Resolve({"a", "b.example.org", "10.0.0.3"}), ElementsAre("a", "b.example.org", "10.0.0.3"));
  EXPECT_THAT(*Resolve({}), IsEmpty());
}

TEST(HostList, AHostFileHasOneInEachLine) {
  const std::string file = testing::MakeTempDir("hosts") / "file";
  std::ofstream(file) << "# machines\na slots=4\n\n  b\n";
  EXPECT_THAT(*Resolve({"@" + file}), ElementsAre("a", "b"));
  EXPECT_THAT(std::string(Resolve({"@/nonexistent"}).status().message()), HasSubstr("cannot read /nonexistent"));
}

TEST(HostList, SlurmsListIsExpanded) {
  EXPECT_THAT(*Resolve({"slurm"}, {{"SLURM_JOB_NODELIST", "n[08-10,3],login,r1-n[2]"}}),
              ElementsAre("n08", "n09", "n10", "n3", "login", "r1-n2"));
  EXPECT_THAT(std::string(Resolve({"slurm"}).status().message()), HasSubstr("SLURM_JOB_NODELIST is not set"));
  for (const char* bad : {"n[1-", "n[3-1]", "n[a]", "n[1]x", "n[1-999999999]", "n[1-2-3]", "n[]"}) {
    EXPECT_FALSE(ExpandNodeList(bad).ok()) << bad;
  }
}

TEST(HostList, APmixServerIsAskedOnlyWhenItIsMeant) {
  EXPECT_THAT(*Resolve({"pmix"}), ElementsAre("node7", "node8"));
  EXPECT_THAT(*Resolve({"pmix", "b"}), ElementsAre("pmix", "b"));
  const auto refusing = [] { return absl::StatusOr<std::string>(absl::FailedPreconditionError("no server")); };
  const auto read = [](const std::string&) { return std::optional<std::string>(); };
  EXPECT_EQ(ResolveHosts({"pmix"}, read, refusing).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(*ResolveHosts({"a"}, read, refusing), ElementsAre("a"));
}

TEST(HostList, ALeaderWorkerSetNamesItsPods) {
  EXPECT_THAT(*Resolve({"lws"}, {{"LWS_LEADER_ADDRESS", "w-1.w.default"}, {"LWS_GROUP_SIZE", "3"}}),
              ElementsAre("w-1.w.default", "w-1-1.w.default", "w-1-2.w.default"));
  EXPECT_THAT(std::string(Resolve({"lws"}).status().message()), HasSubstr("LWS_LEADER_ADDRESS is not set"));
  EXPECT_FALSE(Resolve({"lws"}, {{"LWS_LEADER_ADDRESS", "w"}, {"LWS_GROUP_SIZE", "many"}}).ok());
}

TEST(HostList, WhatIsNoNameIsRefused) {
  for (const char* bad : {"a b", "a;rm", "-oProxyCommand=x", "", "$(x)"}) {
    EXPECT_FALSE(Resolve({"ok", bad}).ok()) << bad;
  }
  for (const char* bad : {"fd00::1", "[fd00::1]", "10.0.0.1:7310"}) {
    EXPECT_THAT(std::string(Resolve({"a", bad}).status().message()), HasSubstr("needs IPv4 between them")) << bad;
  }
  EXPECT_THAT(std::string(Resolve({"a", "b", "a"}).status().message()), HasSubstr("a is there twice"));
}

}  // namespace
}  // namespace longshelf::worker
