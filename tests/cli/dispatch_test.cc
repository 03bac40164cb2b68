#include "cli/dispatch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "common/config.h"

namespace longshelf::cli {
namespace {

using ::testing::HasSubstr;

// Echoes what it got as its exit code: 10 per argument, plus 1 when argv[0] is the full name.
int CountArguments(int argc, const char* const* argv) {
  return 10 * (argc - 1) + (std::string(argv[0]).starts_with("longshelf ") ? 1 : 0);
}
int Fail(int, const char* const*) { return 99; }

struct Result {
  int code;
  std::string out;
  std::string err;
};

Result RunTool(std::vector<const char*> args) {
  const std::vector<Command> commands = {{"up", "starts a cluster", CountArguments},
                                         {"model info", "prints shapes", CountArguments},
                                         {"verify", "checks", Fail}};
  args.insert(args.begin(), "longshelf");
  std::ostringstream out;
  std::ostringstream err;
  const int code = Dispatch(commands, static_cast<int>(args.size()), args.data(), out, err);
  return {code, out.str(), err.str()};
}

TEST(Dispatch, RunsTheNamedCommandWithTheRemainingArguments) {
  EXPECT_EQ(RunTool({"up", "--workers", "2"}).code, 21);
  EXPECT_EQ(RunTool({"up"}).code, 1);
  EXPECT_EQ(RunTool({"verify"}).code, 99);
}

TEST(Dispatch, MatchesNamesOfTwoWords) { EXPECT_EQ(RunTool({"model", "info", "dir"}).code, 11); }

TEST(Dispatch, AsksForTheSecondWordOfATwoWordName) {
  const Result result = RunTool({"model"});
  EXPECT_EQ(result.code, kExitUsage);
  EXPECT_THAT(result.err, HasSubstr("did you mean longshelf model info?"));
}

TEST(Dispatch, SuggestsTheNearestCommand) {
  const Result result = RunTool({"verfiy"});
  EXPECT_EQ(result.code, kExitUsage);
  EXPECT_THAT(result.err, HasSubstr("unknown command verfiy; did you mean verify?"));
}

TEST(Dispatch, ListsEveryCommandInHelp) {
  for (const char* flag : {"help", "--help", "-h"}) {
    const Result result = RunTool({flag});
    EXPECT_EQ(result.code, 0);
    EXPECT_THAT(result.out, HasSubstr("starts a cluster"));
    EXPECT_THAT(result.out, HasSubstr("model info"));
  }
}

TEST(Dispatch, IsAMistakeWithoutAnyArgument) {
  const Result result = RunTool({});
  EXPECT_EQ(result.code, kExitUsage);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr("Usage:"));
}

}  // namespace
}  // namespace longshelf::cli
