// Links with TLS: who is let in, and whom a shard believes.
#include <gmock/gmock.h>

#include "link_fixture.h"
#include "test_authority.h"

namespace longshelf::worker {
namespace {

using net::Role;
using ::testing::HasSubstr;

class LinkTlsTest : public LinkFixture {
 protected:
  void StartLeaderAs(Role role) {
    leader_identity_ = authority_.Identity("leader", role, nullptr, {"leader.example", "127.0.0.1"});
    options_.tls = leader_identity_;
    StartLeader(3);
  }
  StoreLinkClientOptions OptionsAs(const std::shared_ptr<net::TlsIdentity>& identity, int rank = 1) const {
    StoreLinkClientOptions options = ClientOptions(rank);
    options.tls = identity;
    return options;
  }
  absl::Status LossAs(const StoreLinkClientOptions& options) { return Attach(options)->WaitForLoss(); }

  net::TestAuthority authority_;
  std::shared_ptr<net::TlsIdentity> leader_identity_;
};

TEST_F(LinkTlsTest, WorkersOfOneAuthorityAreLinked) {
  StartLeaderAs(Role::kWorker);
  const auto identity = authority_.Identity("shard", Role::kWorker);
  const auto first = Attach(OptionsAs(identity, 1));
  StoreLinkClientOptions by_name = OptionsAs(identity, 2);
  by_name.tls_name = "leader.example";
  const auto second = Attach(by_name);
  for (const auto& [rank, shard] : {std::pair(1, first.get()), std::pair(2, second.get())}) {
    const auto [record, call] = Get(RequestFor(1), rank);
    shard->store.get(0)->Answer(StampOf(1));
    shard->store.get(0)->End(absl::OkStatus());
    EXPECT_TRUE(record->WaitForEnd().ok());
    EXPECT_EQ(record->answer(0), StampOf(1));
  }
  server_.reset();
  first->client.reset();
  second->client.reset();
  EXPECT_EQ(first->n_lost() + second->n_lost(), 0u);
}

TEST_F(LinkTlsTest, NoOtherRoleIsLetIn) {
  StartLeaderAs(Role::kWorker);
  for (const Role role : {Role::kRouter, Role::kKvstore, Role::kOperator, Role::kClient}) {
    const absl::Status status = LossAs(OptionsAs(authority_.Identity("caller", role)));
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << net::RoleName(role);
    EXPECT_THAT(std::string(status.message()), HasSubstr("for the certificate of a worker"));
  }
}

TEST_F(LinkTlsTest, ACertificateIsNotEnoughWithoutTheKey) {
  StartLeaderAs(Role::kWorker);
  StoreLinkClientOptions options = OptionsAs(authority_.Identity("shard", Role::kWorker));
  options.key = RandomId();
  EXPECT_EQ(LossAs(options).code(), absl::StatusCode::kUnauthenticated);
}

TEST_F(LinkTlsTest, TheKeyIsNotEnoughWithoutACertificateOfTheAuthority) {
  StartLeaderAs(Role::kWorker);
  EXPECT_EQ(LossAs(OptionsAs(nullptr)).code(), absl::StatusCode::kUnavailable);
  net::TestAuthority stranger;
  EXPECT_EQ(LossAs(OptionsAs(stranger.Identity("shard", Role::kWorker))).code(), absl::StatusCode::kUnavailable);
}

TEST_F(LinkTlsTest, AShardBelievesOnlyAWorkerOfThatName) {
  StartLeaderAs(Role::kWorker);
  const auto identity = authority_.Identity("shard", Role::kWorker);
  StoreLinkClientOptions options = OptionsAs(identity);
  options.tls_name = "another.example";
  const absl::Status other_name = LossAs(options);
  EXPECT_EQ(other_name.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(other_name.message()), HasSubstr("another.example is not for that name or address"));
  StartLeaderAs(Role::kKvstore);
  const absl::Status other_role = LossAs(OptionsAs(identity));
  EXPECT_EQ(other_role.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(other_role.message()), HasSubstr("is not that of a worker"));
}

}  // namespace
}  // namespace longshelf::worker
