#include "cli/chat_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace longshelf::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr char kAnswer[] =
    ": keep-alive\n\n"
    "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"reasoning_content\":\"\"}}]}\n\n"
    "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\r\n\r\n"
    "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n"
    "event: message\ndata: {\"choices\":[{\"delta\":{\"content\":\"lo\"},\"finish_reason\":null}]}\n\n"
    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3,\"prompt_cache_hit_tokens\":4}}\n\n"
    "data: [DONE]\n\n";

struct Heard {
  std::string reasoning;
  std::string content;
  AnswerStream stream{[this](AnswerStream::Kind kind, const std::string& text) {
    (kind == AnswerStream::Kind::kReasoning ? reasoning : content) += text;
  }};
};

TEST(AnswerStream, ReadsReasoningContentAndUsageFromPiecesOfAnySize) {
  const std::string all = kAnswer;
  for (const size_t n_piece : {size_t{1}, size_t{2}, size_t{7}, all.size()}) {
    Heard heard;
    for (size_t i = 0; i < all.size(); i += n_piece) heard.stream.Feed(absl::string_view(all).substr(i, n_piece));
    EXPECT_TRUE(heard.stream.status().ok()) << heard.stream.status();
    EXPECT_TRUE(heard.stream.done());
    EXPECT_EQ(heard.reasoning, "hm");
    EXPECT_EQ(heard.content, "Hello");
    EXPECT_EQ(heard.stream.content(), "Hello");
    EXPECT_EQ(heard.stream.finish_reason(), "stop");
    EXPECT_EQ(heard.stream.n_prompt_tokens(), 9);
    EXPECT_EQ(heard.stream.n_cached_tokens(), 4);
    EXPECT_EQ(heard.stream.n_completion_tokens(), 3);
  }
}

TEST(AnswerStream, ReportsAnErrorEvent) {
  Heard heard;
  heard.stream.Feed("data: {\"error\":{\"message\":\"worker lost\",\"type\":\"server_error\"}}\n\n");
  EXPECT_EQ(heard.stream.status().message(), "worker lost");
}

TEST(AnswerStream, ReportsEventsThatMakeNoSense) {
  for (const char* text : {"data: {\n\n", "data: 7\n\n", "data: []\n\n"}) {
    Heard heard;
    heard.stream.Feed(text);
    EXPECT_FALSE(heard.stream.status().ok()) << text;
  }
}

TEST(AnswerStream, SurvivesFieldsOfOtherTypes) {
  Heard heard;
  heard.stream.Feed(
      "data: {\"choices\":7}\n\ndata: {\"choices\":[7]}\n\ndata: {\"choices\":[{\"delta\":[]}]}\n\n"
      "data: {\"choices\":[{\"delta\":{\"content\":7}}],\"usage\":\"x\"}\n\n");
  EXPECT_TRUE(heard.stream.status().ok());
  EXPECT_EQ(heard.content, "");
}

TEST(AnswerStream, RefusesAnEventWithoutEnd) {
  Heard heard;
  const std::string piece(1 << 20, 'x');
  for (int i = 0; i < 5; ++i) heard.stream.Feed(piece);
  EXPECT_EQ(heard.stream.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(ChatSession, SendsTheWholeConversation) {
  ChatSession session({.model = "demo", .system = "be brief"});
  session.AddTurn("one", "1");
  const Json body = Json::parse(session.RequestBody("two"));
  EXPECT_EQ(body["model"], "demo");
  EXPECT_EQ(body["stream"], true);
  EXPECT_EQ(body["stream_options"]["include_usage"], true);
  std::vector<std::string> roles;
  for (const Json& message : body["messages"]) roles.push_back(message["role"]);
  EXPECT_THAT(roles, ElementsAre("system", "user", "assistant", "user"));
  EXPECT_EQ(body["messages"][3]["content"], "two");
}

TEST(ChatSession, LeavesUnsetFieldsToTheServer) {
  const Json bare = Json::parse(ChatSession({.model = "m"}).RequestBody("x"));
  for (const char* name : {"temperature", "top_p", "seed", "max_tokens", "thinking", "reasoning_effort"}) {
    EXPECT_FALSE(bare.contains(name)) << name;
  }
  ChatSettings settings = {.model = "m", .thinking = "disabled", .effort = "high"};
  settings.temperature = 0;
  settings.seed = 3;
  const Json full = Json::parse(ChatSession(settings).RequestBody("x"));
  EXPECT_EQ(full["thinking"]["type"], "disabled");
  EXPECT_EQ(full["reasoning_effort"], "high");
  EXPECT_EQ(full["temperature"], 0);
  EXPECT_EQ(full["seed"], 3);
}

TEST(ChatSession, ForgetsOnReset) {
  ChatSession session({.model = "m"});
  session.AddTurn("a", "b");
  session.Reset();
  EXPECT_EQ(Json::parse(session.RequestBody("c"))["messages"].size(), 1u);
}

TEST(ChatSession, ReplacesBytesThatAreNotUtf8) {
  EXPECT_THAT(ChatSession({.model = "m"})
                  .RequestBody("a\xFF"
                               "b"),
              HasSubstr("a\xEF\xBF\xBD"
                        "b"));
}

TEST(ErrorMessage, FindsTheMessageInEitherShape) {
  EXPECT_EQ(ErrorMessage("{\"error\":{\"message\":\"m\"}}"), "m");
  EXPECT_EQ(ErrorMessage("{\"error\":\"m\"}"), "m");
  EXPECT_EQ(ErrorMessage("Bad Gateway"), "Bad Gateway");
}

TEST(ModelNames, ListsIdsInOrder) {
  EXPECT_THAT(ModelNames("{\"data\":[{\"id\":\"a\"},{\"id\":\"b\"},{}]}"), ElementsAre("a", "b"));
  EXPECT_TRUE(ModelNames("x").empty());
}

TEST(ForTerminal, RemovesWhatWouldDriveATerminal) {
  EXPECT_EQ(ForTerminal("a\x1b[31mb\r\x07\n\tc\xC2\x9B"
                        "d \xE4\xBD\xA0 \xC3\xA4"),
            "a[31mb\n\tcd \xE4\xBD\xA0 \xC3\xA4");
}

}  // namespace
}  // namespace longshelf::cli
