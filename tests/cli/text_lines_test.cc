#include "cli/text_lines.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "testing/fixtures.h"

namespace longshelf::cli {
namespace {

using Json = nlohmann::ordered_json;

class TextLines : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto loaded = tokenizer::Tokenizer::Load(testing::ModelPath("demo"));
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    tokenizer_ = *loaded;
  }

  static Json ReadFixture(const std::string& name) {
    std::ifstream in(testing::FixturePath(name));
    return Json::parse(in);
  }

  static std::vector<Json> Lines(const std::string& text) {
    std::vector<Json> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) lines.push_back(Json::parse(line));
    return lines;
  }

  std::shared_ptr<const tokenizer::Tokenizer> tokenizer_;
};

TEST_F(TextLines, TokenizeGoesToIdsAndBack) {
  const Json cases = ReadFixture("tokenizers/demo.json");
  std::stringstream texts;
  for (const auto& c : cases) texts << Json{{"text", c["text"]}} << '\n';
  std::stringstream ids;
  const LineCounts encoded = EncodeLines(*tokenizer_, texts, ids);
  EXPECT_EQ(encoded.lines, cases.size());
  EXPECT_EQ(encoded.failed, 0u);
  std::stringstream back;
  const LineCounts decoded = DecodeLines(*tokenizer_, ids, back);
  EXPECT_EQ(decoded.failed, 0u);
  const std::vector<Json> lines = Lines(back.str());
  ASSERT_EQ(lines.size(), cases.size());
  for (size_t i = 0; i < lines.size(); ++i) EXPECT_EQ(lines[i]["text"], cases[i]["decoded"]);
}

TEST_F(TextLines, RenderTakesTheFixtureCasesAsTheyAre) {
  const Json cases = ReadFixture("encoding/encode.json");
  std::stringstream in;
  for (const auto& c : cases) in << c << '\n';
  std::stringstream out;
  EXPECT_EQ(RenderLines(*tokenizer_, in, out).failed, 0u);
  const std::vector<Json> lines = Lines(out.str());
  ASSERT_EQ(lines.size(), cases.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i]["prompt"], cases[i]["prompt"]);
    EXPECT_EQ(lines[i]["ids"].get<std::vector<uint32_t>>(), *tokenizer_->Encode(cases[i]["prompt"].get<std::string>()));
  }
}

TEST_F(TextLines, ParseGivesTheReferencesMessageOrAnError) {
  const Json cases = ReadFixture("encoding/parse.json");
  std::stringstream in;
  size_t refused = 0;
  for (const auto& c : cases) {
    in << c << '\n';
    refused += c.contains("error") ? 1 : 0;
  }
  std::stringstream out;
  EXPECT_EQ(ParseLines(in, out).failed, refused);
  const std::vector<Json> lines = Lines(out.str());
  ASSERT_EQ(lines.size(), cases.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    if (cases[i].contains("error")) {
      EXPECT_TRUE(lines[i].contains("error"));
    } else {
      EXPECT_EQ(lines[i]["message"], cases[i]["message"]);
    }
  }
}

TEST_F(TextLines, ABadLineIsAnsweredWithAnErrorAndTheRestGoesOn) {
  std::stringstream in(
      "{\"text\": \"a\"}\n\nnot json\n[1]\n{\"text\": 7}\n{}\n{\"text\": \"\xFF\"}\n{\"text\": \"b\"}");
  std::stringstream out;
  const LineCounts counts = EncodeLines(*tokenizer_, in, out);
  EXPECT_EQ(counts.lines, 7u);
  EXPECT_EQ(counts.failed, 5u);
  const std::vector<Json> lines = Lines(out.str());
  ASSERT_EQ(lines.size(), 7u);
  EXPECT_TRUE(lines[0].contains("ids"));
  EXPECT_TRUE(lines[1].contains("error"));
  EXPECT_EQ(lines[3]["error"], "text: must be a string");
  EXPECT_EQ(lines[4]["error"], "text: is missing");
  EXPECT_TRUE(lines[6].contains("ids"));
}

TEST_F(TextLines, DecodeRefusesIdsThatTheVocabularyDoesNotHave) {
  std::stringstream in(
      "{\"ids\": [5, 4294967296]}\n{\"ids\": [-1]}\n{\"ids\": [1.5]}\n{\"ids\": \"5\"}\n{\"ids\": [1000000]}\n");
  std::stringstream out;
  EXPECT_EQ(DecodeLines(*tokenizer_, in, out).failed, 5u);
  EXPECT_NE(out.str().find("ids[1]: must be a token id from 0 to 4108"), std::string::npos) << out.str();
}

TEST_F(TextLines, RenderNamesTheFieldThatIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"messages": []})", "messages: must have at least one message"},
      {R"({"messages": [{"role": "user", "content": 5}]})", "messages[0].content: must be a string or a list of parts"},
      {R"({"messages": [{"role": "user", "content": "x"}], "thinking_mode": "deep"})",
       "thinking_mode: must be \"thinking\" or \"chat\""},
      {R"({"messages": [{"role": "user", "content": "x"}], "dialect": "v9"})",
       "dialect: must be \"preview\" or \"0731\""},
      {R"({"messages": [{"role": "user", "content": "x"}], "drop_thinking": 1})",
       "drop_thinking: must be true or false"},
      {R"({"messages": [{"role": "user", "content": "x"}], "reasoning_effort": "low"})",
       "reasoning_effort: \"low\" is unknown to this model revision, it has high and max"},
      {R"({"messages": [{"role": "alien", "content": "x"}]})", "messages[0].role: \"alien\" is unknown"},
      {R"({"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "x", "task": "cook"}]})",
       "messages[1].task: \"cook\" is unknown"},
      {R"({"messages": [{"role": "developer", "content": ""}]})",
       "messages[0].content: a developer message needs some"},
      {R"({"thinking_mode": "chat"})", "messages: is missing"},
  };
  for (const auto& [line, error] : cases) {
    std::stringstream in(line);
    std::stringstream out;
    EXPECT_EQ(RenderLines(*tokenizer_, in, out).failed, 1u);
    EXPECT_EQ(Lines(out.str()).at(0)["error"], error);
  }
}

TEST_F(TextLines, RenderPutsTheToolsOfARequestOnTheSystemMessage) {
  std::stringstream in(R"({"messages": [{"role": "user", "content": "é"}], "thinking_mode": "chat",)"
                       R"( "tools": [{"type": "function", "function": {"z": 1.50, "name": "f"}}]})");
  std::stringstream out;
  EXPECT_EQ(RenderLines(*tokenizer_, in, out).failed, 0u);
  const std::string prompt = Lines(out.str()).at(0)["prompt"];
  EXPECT_NE(prompt.find("\n{\"z\": 1.5, \"name\": \"f\"}\n"), std::string::npos) << prompt;
  EXPECT_NE(out.str().find("é"), std::string::npos) << "non-ASCII stays unescaped";
}

}  // namespace
}  // namespace longshelf::cli
