#include "common/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

namespace longshelf {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

template <typename Body>
std::string Logged(const LogConfig& config, Body body) {
  std::ostringstream out;
  {
    Logging logging(config, "demo", std::make_shared<spdlog::sinks::ostream_sink_mt>(out));
    body();
  }
  return out.str();
}

TEST(Logging, WritesOneTextLineWithTimeLevelAndProgram) {
  const std::string text = Logged({}, [] { spdlog::info("started {}", 7); });
  EXPECT_THAT(text, ::testing::MatchesRegex("....-..-..T..:..:..\\....Z info +demo started 7\n"));
}

TEST(Logging, LeavesOutWhatIsBelowTheLevel) {
  const std::string text = Logged({.format = "text", .level = "warning"}, [] {
    spdlog::info("small");
    spdlog::warn("large");
  });
  EXPECT_THAT(text, HasSubstr("large"));
  EXPECT_THAT(text, Not(HasSubstr("small")));
}

TEST(Logging, KeepsOneMessageOnOneLineWhateverItHolds) {
  const std::string hostile = "a\nb\r\x1b[31mc\x7f\xC2\x85\xE2\x80\xA8 d";
  for (const char* format : {"text", "json"}) {
    const std::string text = Logged({.format = format, .level = "info"}, [&] { spdlog::info("{}", hostile); });
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
    for (const char* piece : {"\r", "\x1b", "\x7f", "\xC2\x85", "\xE2\x80\xA8"}) {
      EXPECT_THAT(text, Not(HasSubstr(piece))) << format;
    }
  }
}

TEST(Logging, WritesJsonThatParsesBackToTheMessage) {
  const std::string message = "quote \" backslash \\ \xE4\xBD\xA0\xF0\x9F\x98\x80 tab\t\",\"level\":\"fake";
  const std::string text = Logged({.format = "json", .level = "info"}, [&] { spdlog::error("{}", message); });
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json["message"], message);
  EXPECT_EQ(json["level"], "error");
  EXPECT_EQ(json["program"], "demo");
}

TEST(Logging, ReplacesBytesThatAreNotUtf8) {
  const std::string text = Logged({.format = "json", .level = "info"},
                                  [] { spdlog::info("{}", "\x80 \xC0\xAF \xED\xA0\x80 \xF5 \xE4\xBD"); });
  EXPECT_TRUE(nlohmann::json::accept(text)) << text;
  EXPECT_THAT(text, HasSubstr("\xEF\xBF\xBD"));
}

}  // namespace
}  // namespace longshelf
