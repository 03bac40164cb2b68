#include "dns_watcher.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <string>
#include <vector>

#include "simulated_cluster.h"

namespace longshelf::kvstore {
namespace {

using Answer = absl::StatusOr<std::vector<Member>>;

std::vector<Member> MembersOf(const std::vector<std::string>& addresses) {
  std::vector<Member> members;
  for (const std::string& address : addresses) members.push_back({.address = address});
  return members;
}

// What a watcher tells when its name resolves to one answer after the other.
std::vector<std::vector<Member>> ToldOf(const std::vector<Answer>& answers) {
  std::vector<std::vector<Member>> told;
  std::promise<void> is_over;
  size_t n_asked = 0;
  {
    DnsWatcher watcher(
        "stores:7400", absl::ZeroDuration(), [&](std::vector<Member> members) { told.push_back(std::move(members)); },
        [&](const std::string& host_port) {
          EXPECT_EQ(host_port, "stores:7400");
          // Whoever asks again has done with the answer before.
          if (n_asked == answers.size()) is_over.set_value();
          return answers[std::min(n_asked++, answers.size() - 1)];
        });
    is_over.get_future().wait();
  }
  return told;
}

TEST(DnsWatcher, TellsMembersThatComeAndGo) {
  const auto told = ToldOf({MembersOf({"a:1", "b:1"}), MembersOf({"a:1", "b:1", "c:1"}), MembersOf({"b:1"})});
  ASSERT_EQ(told.size(), 3u);
  EXPECT_EQ(told[0], MembersOf({"a:1", "b:1"}));
  EXPECT_EQ(told[1], MembersOf({"a:1", "b:1", "c:1"}));
  EXPECT_EQ(told[2], MembersOf({"b:1"}));
}

TEST(DnsWatcher, KeepsWhomItKnowsWhenANameFailsOrIsEmpty) {
  const auto told = ToldOf({absl::UnavailableError("no server"), MembersOf({"a:1", "b:1"}), MembersOf({}),
                            absl::UnavailableError("no server"), MembersOf({"a:1", "b:1"})});
  ASSERT_EQ(told.size(), 1u) << "and nothing is told when they are back as they were";
  EXPECT_EQ(told[0], MembersOf({"a:1", "b:1"}));
}

TEST(DnsWatcher, AnotherOrderIsNoChangeAndTwiceIsOnce) {
  const auto told = ToldOf({MembersOf({"b:1", "a:1", "b:1"}), MembersOf({"a:1", "b:1"}),
                            MembersOf({"a:1", "b:1", "a:1"}), MembersOf({"b:1", "a:1"})});
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0], MembersOf({"a:1", "b:1"}));
}

TEST(DnsWatcher, IsAskedOncePerIntervalAndGoesAwayAtOnce) {
  std::atomic<int> n_asked = 0;
  std::promise<void> is_told;
  {
    DnsWatcher watcher(
        "stores:7400", absl::Hours(1), [&](const std::vector<Member>&) { is_told.set_value(); },
        [&](const std::string&) -> Answer {
          ++n_asked;
          return MembersOf({"a:1"});
        });
    is_told.get_future().wait();
  }
  EXPECT_EQ(n_asked, 1);
}

// What no client can be made of is nobody.
TEST(ClusterMembers, GarbageIsPassedOverAndGarbageAloneChangesNothing) {
  ManualClock clock;
  SimulatedStore store(clock);
  std::vector<std::string> made;
  ClusterClient client(clock, 2, nullptr, [&](const Member& member) -> absl::StatusOr<std::unique_ptr<Client>> {
    if (member.address.starts_with("?")) return absl::InvalidArgumentError("no address");
    made.push_back(member.address);
    return std::make_unique<Link>(store);
  });
  const auto n_asked = [&] {
    store.n_lookups = 0;
    client.Lookup({.fingerprint = FingerprintOf(1), .root = Hash(1), .chain = {}}, absl::Seconds(1),
                  [](const auto&) {});
    client.RunReady();
    while (store.Run()) client.RunReady();
    return store.n_lookups;
  };
  client.SetMembers(MembersOf({"?", "b:1", "c:1"}));
  EXPECT_EQ(n_asked(), 2);
  EXPECT_EQ(made, (std::vector<std::string>{"b:1", "c:1"}));
  client.SetMembers(MembersOf({"?", "?!"}));
  EXPECT_EQ(n_asked(), 2);
  client.SetMembers({});
  EXPECT_EQ(n_asked(), 2);
  client.SetMembers(MembersOf({"c:1"}));
  EXPECT_EQ(n_asked(), 1);
}

}  // namespace
}  // namespace longshelf::kvstore
