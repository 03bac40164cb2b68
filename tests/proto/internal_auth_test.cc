#include "proto/internal_auth.h"

#include <gtest/gtest.h>

#include <string>

#include "proto/grpc_status.h"

namespace longshelf::proto {
namespace {

TEST(SharedToken, MatchesOnlyItself) {
  const auto token = SharedToken::FromString("0123456789abcdef");
  ASSERT_TRUE(token.ok());
  EXPECT_TRUE(token->Matches("0123456789abcdef"));
  for (const char* wrong : {"", "0123456789abcdeg", "1123456789abcdef", "0123456789abcde", "0123456789abcdef0"}) {
    EXPECT_FALSE(token->Matches(wrong)) << wrong;
  }
}

TEST(SharedToken, RefusesShortLongAndUnprintableTokens) {
  EXPECT_FALSE(SharedToken::FromString("").ok());
  EXPECT_FALSE(SharedToken::FromString("fifteen-chars-x").ok());
  EXPECT_FALSE(SharedToken::FromString(std::string(4097, 'x')).ok());
  EXPECT_FALSE(SharedToken::FromString("0123456789 abcdef").ok());
  EXPECT_FALSE(SharedToken::FromString("0123456789abcde\n").ok());
}

TEST(ListenAddress, OnlyLoopbackIsOpenWithoutAToken) {
  for (const char* loopback :
       {"127.0.0.1:1", "127.8.9.1:0", "[::1]:50051", "localhost:80", "unix:/run/x", "[::ffff:127.0.0.1]:9"}) {
    EXPECT_TRUE(CheckListenAddress(loopback, false, false).ok()) << loopback;
  }
  for (const char* open : {"0.0.0.0:1", "10.0.0.1:1", "[::]:1", "*:1", "example.org:1", "128.0.0.1:1", "",
                           "127.0.0.1.example.org:1", "[::ffff:10.0.0.1]:9"}) {
    EXPECT_FALSE(CheckListenAddress(open, false, false).ok()) << open;
    EXPECT_TRUE(CheckListenAddress(open, true, false).ok()) << open;
    EXPECT_TRUE(CheckListenAddress(open, false, true).ok()) << open;
  }
}

TEST(GrpcStatus, GoesThereAndBack) {
  const absl::Status status = absl::DataLossError("object 7");
  EXPECT_EQ(ToGrpc(status).error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
}

}  // namespace
}  // namespace longshelf::proto
