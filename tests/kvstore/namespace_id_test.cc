#include "kvstore/namespace_id.h"

#include <gtest/gtest.h>

#include <limits>

namespace longshelf::kvstore {
namespace {

TEST(NamespaceId, IsReadAsItIsWritten) {
  for (const uint64_t generation :
       {uint64_t{1}, uint64_t{35}, uint64_t{36}, uint64_t{1'700'000'000'000}, std::numeric_limits<uint64_t>::max()}) {
    const std::string id = NamespaceIdOf("alice:u1", generation);
    EXPECT_EQ(ParseNamespaceId(id).name, "alice:u1") << id;
    EXPECT_EQ(ParseNamespaceId(id).generation, generation) << id;
  }
  EXPECT_EQ(NamespaceIdOf("alice", 0), "alice");
}

TEST(NamespaceId, WhatNoGenerationEndsIsANameAsAWhole) {
  // Empty, a leading zero, other digits, too large, no name.
  for (const char* id : {"alice#", "alice#0", "alice#01", "alice#A", "alice#zzzzzzzzzzzzzzzzz", "#namespaces", ""}) {
    EXPECT_EQ(ParseNamespaceId(id).name, id);
    EXPECT_EQ(ParseNamespaceId(id).generation, 0u) << id;
  }
}

TEST(NamespaceId, EarlierGenerationsAreOfTheNameAndItsUsersAndOfNobodyElse) {
  const uint64_t now = 1'700'000'000'000;
  for (const std::string& id : {std::string("alice"), std::string("alice:u1"), NamespaceIdOf("alice", now - 1),
                                NamespaceIdOf("alice:u1", now - 1)}) {
    EXPECT_TRUE(IsBefore(id, "alice", now)) << id;
  }
  for (const std::string& id :
       {std::string("alice2"), std::string("alice2:u1"), std::string("alic"), std::string("bob:alice"),
        std::string("alice-b"), std::string("#namespaces"), NamespaceIdOf("alice", now), NamespaceIdOf("alice:u1", now),
        NamespaceIdOf("alice:u1", now + 1), NamespaceIdOf("alice2", 5)}) {
    EXPECT_FALSE(IsBefore(id, "alice", now)) << id;
  }
  EXPECT_TRUE(IsBefore("alice:u1", "alice:u1", now));
  EXPECT_FALSE(IsBefore("alice", "alice:u1", now)) << "a user's deletion is not the tenant's";
  EXPECT_FALSE(IsBefore("alice:u2", "alice:u1", now));
}

TEST(NamespaceId, ADeletedOneIsToldFromOtherFailedPreconditions) {
  EXPECT_TRUE(IsNamespaceDeleted(NamespaceDeleted()));
  EXPECT_TRUE(IsNamespaceDeleted(absl::FailedPreconditionError("0 of 1 took it: namespace_id: deleted")));
  EXPECT_FALSE(IsNamespaceDeleted(absl::FailedPreconditionError("the store has no disk")));
  EXPECT_FALSE(IsNamespaceDeleted(absl::NotFoundError("namespace_id: deleted")));
}

}  // namespace
}  // namespace longshelf::kvstore
