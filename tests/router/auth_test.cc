#include "router/auth.h"

#include <gtest/gtest.h>

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

TEST(NamespaceId, SeparatesTenantsAndTheirUsers) {
  EXPECT_EQ(NamespaceId({"alice"}, ""), "alice");
  EXPECT_NE(NamespaceId({"alice"}, "u1"), NamespaceId({"alice"}, "u2"));
  EXPECT_NE(NamespaceId({"alice"}, "u1"), NamespaceId({"bob"}, "u1"));
  EXPECT_EQ(NamespaceId({"alice"}, "u1"), NamespaceId({"alice"}, "u1"));
  EXPECT_LE(NamespaceId({std::string(40, 'x')}, std::string(512, 'y')).size(), 64u);
}

}  // namespace
}  // namespace longshelf::router
