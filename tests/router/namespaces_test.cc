#include "router/namespaces.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "fake_stores.h"
#include "kvstore/client.h"
#include "kvstore/keys.h"
#include "kvstore/namespace_id.h"
#include "sessions/manifests.h"
#include "sessions/session_errors.h"

namespace longshelf::router {
namespace {

using kvstore::BlockKey;
using kvstore::NamespaceDrop;
using kvstore::ObjectHead;
using testing::FakeStores;

constexpr char kSecret[] = "secret";

// One router's.
struct Router {
  Router(FakeStores& fake, Clock& clock)
      : stores(fake),
        namespaces(fake, kSecret, clock, [this](std::function<void()> task) { tasks.push_back(std::move(task)); }) {}

  void Settle() {
    while (!tasks.empty() || stores.Run()) {
      if (tasks.empty()) continue;
      const auto task = std::move(tasks.front());
      tasks.pop_front();
      task();
      if (namespaces.ids().get() != last_ids) ++n_ids;
      last_ids = namespaces.ids().get();
    }
  }
  void Poll() {
    namespaces.Tick();
    Settle();
  }
  // 200, or the status of the error.
  int Delete(const std::string& name) {
    int status = 0;
    namespaces.Delete(name, [&](const std::variant<Namespaces::Deleted, ApiError>& result) {
      const auto* error = std::get_if<ApiError>(&result);
      status = error == nullptr ? 200 : error->http_status;
    });
    Settle();
    return status;
  }
  std::string IdOf(const std::string& name) const { return namespaces.ids()->Of(name); }

  FakeStores& stores;
  std::deque<std::function<void()>> tasks;
  Namespaces namespaces;
  const NamespaceIds* last_ids = namespaces.ids().get();
  size_t n_ids = 0;  // how often the ids were copied
};

class NamespacesTest : public ::testing::Test {
 protected:
  // As another router writes it.
  void AddRecord(const std::string& name, absl::Time generation) {
    ObjectHead head;
    head.key.kind = kvstore::ObjectKind::kManifest;
    head.parent = kvstore::NamespaceSalt(kSecret, "namespaces/1");
    BlockKey& hash = hashes_[name];
    if (hash == BlockKey{}) hash = kvstore::NamespaceSalt(kSecret, "namespace/1/" + name);
    head.key.hash = VersionKey(hash, generation);
    const std::string bytes = name + "\n" + name;
    head.payload_bytes = bytes.size();
    stores_.records[head.key.hash] = {head, bytes};
  }
  static std::string User(const std::string& tenant, int i) { return absl::StrCat(tenant, ":u", i); }
  void Pass(absl::Duration time, Router& router) {
    for (; time > absl::ZeroDuration(); time -= absl::Milliseconds(50)) {
      clock_.Advance(absl::Milliseconds(50));
      router.Poll();
    }
  }

  ManualClock clock_;
  FakeStores stores_{clock_};
  std::map<std::string, BlockKey> hashes_;
};

TEST_F(NamespacesTest, ATenantsDeletionIsOneOfItsUsersToo) {
  Router router(stores_, clock_);
  router.Poll();
  const std::string user = User("alice", 1);
  EXPECT_EQ(router.Delete(user), 200);
  const std::string first = router.IdOf(user);
  EXPECT_NE(first, user);
  EXPECT_EQ(router.IdOf("alice"), "alice");
  EXPECT_EQ(router.Delete("alice"), 200);
  EXPECT_NE(router.IdOf(user), first);
  EXPECT_NE(router.IdOf(User("alice", 2)), User("alice", 2)) << "one that was never deleted";
  EXPECT_EQ(router.IdOf("alice2"), "alice2");
  EXPECT_EQ(router.IdOf(User("alice2", 1)), User("alice2", 1));
  EXPECT_EQ(stores_.records.size(), 1u) << "the tenant's takes the place of its users'";
  // What the stores are told covers all earlier ids, and not the new ones.
  const NamespaceDrop& drop = stores_.drops.back();
  EXPECT_TRUE(drop.retire);
  for (const std::string& id : {std::string("alice"), user, first}) {
    EXPECT_TRUE(kvstore::IsBefore(id, drop.id, drop.before_generation)) << id;
  }
  for (const std::string& id : {router.IdOf("alice"), router.IdOf(user), std::string("alice2"), User("alice2", 1)}) {
    EXPECT_FALSE(kvstore::IsBefore(id, drop.id, drop.before_generation)) << id;
  }
  const std::string second = router.IdOf(user);
  EXPECT_EQ(router.Delete(user), 200);
  EXPECT_NE(router.IdOf(user), second);
  Router other(stores_, clock_);
  other.Poll();
  EXPECT_EQ(other.IdOf(user), router.IdOf(user));
  EXPECT_EQ(other.IdOf("alice"), router.IdOf("alice"));
}

TEST_F(NamespacesTest, ATenantIsDeletedBehindItsUsersWhateverTheClockSays) {
  const std::string user = User("alice", 1);
  AddRecord(user, clock_.WallNow() + absl::Hours(1));
  Router router(stores_, clock_);
  router.Poll();
  const std::string before = router.IdOf(user);
  EXPECT_EQ(router.Delete("alice"), 200);
  EXPECT_NE(router.IdOf(user), before);
}

TEST_F(NamespacesTest, WhatWasDeletedIsDroppedAgainForAnHourOneNameOnce) {
  Router router(stores_, clock_);
  router.Poll();
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(router.Delete(User("alice", i % 10)), 200);
    clock_.Advance(absl::Milliseconds(5));
  }
  stores_.drops.clear();
  clock_.Advance(absl::Minutes(1));
  router.Poll();
  EXPECT_EQ(stores_.drops.size(), 10u);
  EXPECT_EQ(router.Delete("alice"), 200);
  stores_.drops.clear();
  clock_.Advance(absl::Minutes(1));
  router.Poll();
  EXPECT_EQ(stores_.drops.size(), 1u);
  Router later(stores_, clock_);
  later.Poll();
  clock_.Advance(absl::Minutes(1));
  later.Poll();
  EXPECT_EQ(stores_.drops.size(), 2u);
  clock_.Advance(absl::Hours(1));
  later.Poll();
  EXPECT_EQ(stores_.drops.size(), 2u);
}

TEST_F(NamespacesTest, WhatIsDeletedMakesTheRoomForSayingSo) {
  Router router(stores_, clock_);
  router.Poll();
  stores_.is_full = true;
  EXPECT_EQ(router.Delete("alice"), 200);
  ASSERT_EQ(stores_.drops.size(), 2u);
  EXPECT_FALSE(stores_.drops[0].retire) << "the name might have had to go on";
  EXPECT_TRUE(stores_.drops[1].retire);
  EXPECT_NE(router.IdOf("alice"), "alice");
  // Others hold the room.
  stores_.is_full = stores_.stays_full = true;
  EXPECT_EQ(router.Delete("bob"), 507);
  EXPECT_FALSE(stores_.drops.back().retire);
  EXPECT_EQ(router.IdOf("bob"), "bob");
}

TEST_F(NamespacesTest, ASessionThatIsParkedIntoADeletedNamespaceIsGoneAndNoStoreIsFull) {
  EXPECT_EQ(SessionStoreError(kvstore::NamespaceDeleted()).http_status, 404);
  EXPECT_EQ(SessionStoreError(absl::FailedPreconditionError("the store has no disk")).http_status, 507);
}

// ---- many of them

TEST_F(NamespacesTest, RecordsThatComeAndGoNeverKeepLaterOnesOut) {
  constexpr int kUsers = 1000;
  Router reader(stores_, clock_);
  absl::Time generation = clock_.WallNow();
  for (int round = 0; round < 210; ++round) {
    stores_.records.clear();
    generation += absl::Milliseconds(1);
    for (int i = 0; i < kUsers; ++i) AddRecord(User("alice", i), generation);
    clock_.Advance(absl::Seconds(2));
    reader.Poll();
  }
  AddRecord("bob", generation);
  clock_.Advance(absl::Seconds(2));
  reader.Poll();
  EXPECT_NE(reader.IdOf("bob"), "bob");
  EXPECT_EQ(reader.namespaces.ids()->GenerationOf(User("alice", kUsers - 1)), generation);
}

TEST_F(NamespacesTest, ATenantCanUseUpNobodysDeletionsButItsOwn) {
  Router router(stores_, clock_);
  router.Poll();
  for (size_t i = 0; i < Namespaces::kTenantUsersMax; ++i) {
    ASSERT_EQ(router.Delete(User("alice", static_cast<int>(i))), 200) << i;
  }
  EXPECT_EQ(router.Delete(User("alice", 1'000'000)), 409);
  EXPECT_EQ(router.Delete(User("alice", 0)), 200) << "again";
  EXPECT_EQ(router.Delete("bob"), 200);
  EXPECT_EQ(router.Delete(User("bob", 1)), 200);
  EXPECT_EQ(router.Delete("alice"), 200);
  EXPECT_EQ(router.Delete(User("alice", 1'000'000)), 200);
  EXPECT_EQ(stores_.records.size(), 4u);
}

TEST_F(NamespacesTest, FiftyThousandRecordsAreLearnedAtOnce) {
  for (int i = 0; i < 50'000; ++i) AddRecord(User(absl::StrCat("t", i / 1000), i), clock_.WallNow());
  Router router(stores_, clock_);
  router.Poll();
  EXPECT_TRUE(router.namespaces.is_ready());
  EXPECT_EQ(router.namespaces.ids()->n_users(), 50'000u);
  EXPECT_NE(router.IdOf(User("t49", 49'999)), User("t49", 49'999));
  EXPECT_LE(router.n_ids, 2u);
}

// ---- a router that has just started

TEST_F(NamespacesTest, ARouterIsReadyWhenAllRecordsWereRead) {
  AddRecord("alice", clock_.WallNow());
  stores_.latency = absl::Seconds(3);
  Router router(stores_, clock_);
  router.Poll();
  EXPECT_FALSE(router.namespaces.is_ready());
  Pass(absl::Seconds(5), router);
  EXPECT_FALSE(router.namespaces.is_ready()) << "listed, and not read";
  EXPECT_EQ(router.IdOf("alice"), "alice");
  Pass(absl::Seconds(2), router);
  EXPECT_TRUE(router.namespaces.has_read());
  EXPECT_NE(router.IdOf("alice"), "alice");
}

TEST_F(NamespacesTest, AnErrorIsNoAnswer) {
  AddRecord("alice", clock_.WallNow());
  const auto stays_unready = [&] {
    Router router(stores_, clock_);
    router.Poll();
    Pass(absl::Seconds(20), router);
    EXPECT_FALSE(router.namespaces.is_ready());
    stores_.down = stores_.unreadable = absl::OkStatus();
    stores_.n_nodes_missed = 0;
    Pass(absl::Milliseconds(300), router);
    EXPECT_TRUE(router.namespaces.has_read()) << "it asks again soon";
    EXPECT_NE(router.IdOf("alice"), "alice");
  };
  stores_.down = absl::UnavailableError("no address yet");
  stays_unready();
  stores_.unreadable = absl::UnavailableError("its stores are down");
  stays_unready();
  // As many as may be all that have a record.
  stores_.n_nodes_missed = 2;
  stays_unready();
  stores_.n_nodes_missed = 1;
  Router router(stores_, clock_);
  router.Poll();
  EXPECT_TRUE(router.namespaces.has_read());
}

TEST_F(NamespacesTest, ARouterWhoseStoresStayAwayServesAfterAllAndSaysSo) {
  stores_.down = absl::UnavailableError("down");
  Router router(stores_, clock_);
  router.Poll();
  Pass(absl::Seconds(29), router);
  EXPECT_FALSE(router.namespaces.is_ready());
  Pass(absl::Seconds(2), router);
  EXPECT_TRUE(router.namespaces.is_ready());
  EXPECT_FALSE(router.namespaces.has_read());
  stores_.down = absl::OkStatus();
  Pass(absl::Seconds(1), router);
  EXPECT_TRUE(router.namespaces.has_read());
}

}  // namespace
}  // namespace longshelf::router
