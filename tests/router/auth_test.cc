#include "router/auth.h"

#include <gtest/gtest.h>

#include "router/namespace_ids.h"

namespace longshelf::router {
namespace {

TEST(KeyRing, WithoutAFileEverybodyIsTheAnonymousTenant) {
  const KeyRing ring = KeyRing::Anonymous();
  ASSERT_NE(ring.Authenticate("", ""), nullptr);
  EXPECT_EQ(ring.Authenticate("", "")->name, "anonymous");
}

TEST(KeyRing, MapsKeysToTenants) {
  const auto ring = KeyRing::Parse("# people\n\nalice: sk-one \nbob:sk-two\nalice:sk-three\r\n");
  ASSERT_TRUE(ring.ok()) << ring.status();
  EXPECT_EQ(ring->Authenticate("Bearer sk-one", "")->name, "alice");
  EXPECT_EQ(ring->Authenticate("bearer sk-three", "")->name, "alice");
  EXPECT_EQ(ring->Authenticate("", "sk-two")->name, "bob");
}

TEST(KeyRing, DeniesByDefault) {
  const auto ring = KeyRing::Parse("alice:sk-one\n");
  ASSERT_TRUE(ring.ok());
  for (const char* value : {"", "Bearer", "Bearer ", "Bearer sk-on", "Bearer sk-one2", "Basic sk-one", "sk-one",
                            "Bearer alice", "Bearer alice:sk-one"}) {
    EXPECT_EQ(ring->Authenticate(value, ""), nullptr) << value;
  }
  EXPECT_EQ(ring->Authenticate("", "sk-two"), nullptr);
  // A wrong Authorization is not rescued by another header.
  EXPECT_EQ(ring->Authenticate("Bearer wrong", "sk-one"), nullptr);
}

TEST(KeyRing, AFileWithoutAKeyIsAnErrorAndNeverOpensTheDoor) {
  for (const char* text : {"", "\n\n", "# nothing\n", "   \n\t\n", "alice:\n", "alice:   \n", ":sk\n", "alice\n",
                           "a b:sk\n", "alice:one\nbob:one\n"}) {
    EXPECT_FALSE(KeyRing::Parse(text).ok()) << text;
  }
  EXPECT_FALSE(KeyRing::Load("/nonexistent/keys").ok());
}

TEST(NamespaceIds, SeparateTenantsTheirUsersAndGenerations) {
  EXPECT_EQ(NamespaceName({"alice"}, ""), "alice");
  EXPECT_NE(NamespaceName({"alice"}, "u1"), NamespaceName({"alice"}, "u2"));
  EXPECT_NE(NamespaceName({"alice"}, "u1"), NamespaceName({"bob"}, "u1"));
  EXPECT_EQ(NamespaceName({"alice"}, "u1"), NamespaceName({"alice"}, "u1"));
  const absl::Time first = absl::FromUnixMillis(1'795'000'000'000);
  const NamespaceIds none;
  const NamespaceIds ids = none.With({{"alice", first}, {"alice", first - absl::Hours(1)}}).With({{"bob", first}});
  EXPECT_EQ(none.Of("alice"), "alice");
  EXPECT_EQ(ids.GenerationOf("alice"), first) << "never back";
  EXPECT_NE(ids.Of("alice"), "alice");
  EXPECT_NE(ids.Of("alice"), ids.With({{"alice", first + absl::Milliseconds(1)}}).Of("alice"));
  EXPECT_EQ(ids.Of("carol"), "carol");
  const std::string longest = NamespaceName({std::string(40, 'x')}, std::string(512, 'y'));
  EXPECT_LE(none.With({{longest, absl::FromUnixSeconds(2'800'000'000)}}).Of(longest).size(), 64u);
}

}  // namespace
}  // namespace longshelf::router
