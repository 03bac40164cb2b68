#include "placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvstore/members.h"
#include "objects.h"

namespace longshelf::kvstore {
namespace {

constexpr uint64_t kExtents = 20'000;

std::vector<Member> Nodes(size_t n) {
  std::vector<Member> members;
  for (size_t i = 0; i < n; ++i) members.push_back({.address = absl::StrCat("kv-", i, ".kv:7400")});
  return members;
}

TEST(Placement, SharesFollowTheWeights) {
  std::vector<Member> members = Nodes(4);
  members[3].weight = 3.0;
  const Placement placement(members);
  std::map<size_t, double> n_extents;
  for (uint64_t id = 0; id < kExtents; ++id) ++n_extents[placement.Candidates(Hash(id), 1)[0]];
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(n_extents[i] / kExtents, 1.0 / 6, 0.01) << i;
  EXPECT_NEAR(n_extents[3] / kExtents, 0.5, 0.015);
}

TEST(Placement, AMemberThatGoesMovesItsOwnShareOnly) {
  const std::vector<Member> all = Nodes(8);
  std::vector<Member> fewer = all;
  fewer.erase(fewer.begin() + 2);
  const Placement before(all);
  const Placement after(fewer);
  std::map<std::string, int> inherited;
  for (uint64_t id = 0; id < kExtents; ++id) {
    const auto first = before.Candidates(Hash(id), 2);
    const std::string now = fewer[after.Candidates(Hash(id), 1)[0]].address;
    // Whoever was second takes over, so that what it holds as a replica is found at once.
    EXPECT_EQ(now, all[first[0] == 2 ? first[1] : first[0]].address);
    if (first[0] == 2) ++inherited[now];
  }
  EXPECT_EQ(inherited.size(), 7u) << "its load is spread over all others";
}

TEST(Placement, CandidatesAreDifferentNodesInDifferentZonesFirst) {
  std::vector<Member> members = Nodes(6);
  for (size_t i = 0; i < 6; ++i) members[i].zone = i < 4 ? "a" : "b";
  const Placement placement(members);
  for (uint64_t id = 0; id < 2000; ++id) {
    const std::vector<size_t> chosen = placement.Candidates(Hash(id), 10);
    ASSERT_EQ(chosen.size(), 6u);
    EXPECT_EQ(std::set<size_t>(chosen.begin(), chosen.end()).size(), 6u);
    EXPECT_NE(chosen[0] < 4, chosen[1] < 4) << "two zones, so one replica in each";
    EXPECT_NE(chosen[2] < 4, chosen[3] < 4);
  }
}

// A change here makes a cluster look for its objects where they are not.
TEST(Placement, IsTheSameEverywhereForEver) {
  const Placement placement(Nodes(8));
  EXPECT_EQ(placement.Candidates(Hash(0), 4), (std::vector<size_t>{3, 6, 2, 7}));
  EXPECT_EQ(placement.Candidates(Hash(1), 4), (std::vector<size_t>{7, 2, 0, 3}));
  EXPECT_EQ(placement.Candidates(Hash(12345), 4), (std::vector<size_t>{6, 4, 7, 3}));
}

TEST(Members, AreReadFromAList) {
  const auto members = ParseMembers("b:2;weight=2.5;zone=east, a:1");
  ASSERT_TRUE(members.ok()) << members.status();
  EXPECT_EQ(*members, (std::vector<Member>{{.address = "a:1"}, {.address = "b:2", .weight = 2.5, .zone = "east"}}));
  EXPECT_TRUE(ParseMembers("[::1]:7400").ok());
}

TEST(Members, WhatIsWrongIsNamed) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "HOST:PORT"},           {"a", "\"a\""},
      {"a:1,,b:2", "HOST:PORT"},   {"a:0", "HOST:PORT"},
      {"a:65536", "HOST:PORT"},    {":7400", "HOST:PORT"},
      {"a:1,b:2,a:1", "twice"},    {"a:1;weight=0", "weight=0"},
      {"a:1;weight=-1", "weight"}, {"a:1;weight=nan", "weight"},
      {"a:1;zone=", "zone="},      {"a:1;colour=red", "colour=red"},
  };
  for (const auto& [text, says] : cases) {
    const auto members = ParseMembers(text);
    EXPECT_EQ(members.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(members.status().message()), ::testing::HasSubstr(says)) << text;
  }
}

TEST(Members, AStoreHasOneSpelling) {
  for (const char* text : {"a:+1", "a: 1", "a:01", "a b:1", "a\t:1", "a\n:1", "\xc3\xa4:1", "dns:a:+1", "dns:a b:1",
                           "dns:a:1,b:1", "dns:a;b:1"}) {
    EXPECT_EQ(CheckStores(text).code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_FALSE(ParseMembers(std::string("a\0:1", 4)).ok());
  EXPECT_FALSE(ParseMembers(std::string_view()).ok());
}

TEST(Members, AreResolvedFromAName) {
  EXPECT_EQ(DnsName("dns:kv.default:7400"), "kv.default:7400");
  EXPECT_EQ(DnsName("kv:7400"), "");
  const auto members = ResolveMembers("localhost:7400");
  ASSERT_TRUE(members.ok()) << members.status();
  EXPECT_TRUE(std::any_of(members->begin(), members->end(),
                          [](const Member& member) { return member.address == "127.0.0.1:7400"; }));
  const auto six = ResolveMembers("::1:7400");
  ASSERT_TRUE(six.ok()) << six.status();
  ASSERT_EQ(six->size(), 1u);
  EXPECT_EQ(six->front().address, "[::1]:7400");
  EXPECT_EQ(ResolveMembers("no-such-host.invalid:7400").status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace longshelf::kvstore
