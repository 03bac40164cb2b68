#include "common/ids.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

namespace longshelf {
namespace {

TEST(RandomId, IsThirtyTwoHexDigitsAndNeverRepeats) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = RandomId();
    EXPECT_THAT(id, ::testing::MatchesRegex("[0-9a-f]{32}"));
    EXPECT_TRUE(seen.insert(id).second);
  }
}

TEST(RequestId, PassesItsOwnCheck) { EXPECT_TRUE(IsUsableRequestId(RequestId())); }

TEST(IsUsableRequestId, RefusesWhatCouldForgeALogLineOrAHeader) {
  EXPECT_TRUE(IsUsableRequestId("a-B_3.x"));
  EXPECT_TRUE(IsUsableRequestId(std::string(128, 'a')));
  for (const std::string& id : {std::string(), std::string(129, 'a'), std::string("a b"), std::string("a\nb"),
                                std::string("a\r\nx: y"), std::string("\xC3\xA4"), std::string("a\0b", 3)}) {
    EXPECT_FALSE(IsUsableRequestId(id)) << id;
  }
}

TEST(SameSecret, ComparesAllBytesAndTheLength) {
  EXPECT_TRUE(SameSecret("", ""));
  EXPECT_TRUE(SameSecret(std::string("a\0b", 3), std::string("a\0b", 3)));
  EXPECT_FALSE(SameSecret(std::string("a\0b", 3), std::string("a\0c", 3)));
  EXPECT_FALSE(SameSecret("abc", "bbc"));
  EXPECT_FALSE(SameSecret("abc", "ab"));
}

}  // namespace
}  // namespace longshelf
