#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "random_text.h"
#include "testing/fixtures.h"
#include "tokenizer/tokenizer.h"

namespace longshelf::tokenizer {
namespace {

using Json = nlohmann::ordered_json;

Json DemoJson() {
  std::ifstream in(longshelf::testing::ModelPath("demo") / "tokenizer.json");
  return Json::parse(in);
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> LoadText(const std::string& text) {
  const auto dir = longshelf::testing::MakeTempDir("tokenizer");
  std::ofstream(dir / "tokenizer.json") << text;
  return Tokenizer::Load(dir);
}

TEST(TokenizerFile, WhatDeepSeekV4DoesNotHaveIsRefusedByName) {
  struct Case {
    const char* pointer;
    Json value;
    const char* message;
  };
  const Case cases[] = {
      {"/normalizer", {{"type", "NFC"}}, "normalizer: must be empty"},
      {"/normalizer", {{"type", "Sequence"}, {"normalizers", Json::array({Json{{"type", "NFC"}}})}}, "normalizer"},
      {"/pre_tokenizer", nullptr, "pre_tokenizer: must be an object"},
      {"/pre_tokenizer/type", "Whitespace", "pre_tokenizer.type: is \"Whitespace\""},
      {"/pre_tokenizer/pretokenizers", Json::array(), "four stages"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "\\p{N}", "pretokenizers[0].pattern.Regex"},
      {"/pre_tokenizer/pretokenizers/2/pattern/Regex", "(a+)+", "pretokenizers[2].pattern.Regex"},
      {"/pre_tokenizer/pretokenizers/2/behavior", "Removed", "pretokenizers[2].behavior"},
      {"/pre_tokenizer/pretokenizers/1/invert", true, "pretokenizers[1].invert"},
      {"/pre_tokenizer/pretokenizers/3/use_regex", true, "use_regex"},
      {"/pre_tokenizer/pretokenizers/3/add_prefix_space", true, "add_prefix_space"},
      {"/decoder/type", "Metaspace", "decoder.type"},
      {"/model/type", "Unigram", "model.type: is \"Unigram\""},
      {"/model/dropout", 0.1, "model.dropout"},
      {"/model/unk_token", "<unk>", "model.unk_token"},
      {"/model/byte_fallback", true, "model.byte_fallback"},
      {"/model/ignore_merges", true, "model.ignore_merges"},
      {"/model/end_of_word_suffix", "</w>", "model.end_of_word_suffix"},
      {"/model/vocab", Json::object(), "has no piece for byte 0"},
      {"/model/vocab/!", -1, "model.vocab[\"!\"]: must be a non-negative integer"},
      {"/model/vocab/!", 1u << 20, "id 1048576 is out of range"},
      {"/model/vocab/!", 18446744073709551615u, "out of range"},
      {"/model/vocab/!", 4, "id 4 is used twice"},
      {"/model/vocab/!", "3", "must be a non-negative integer"},
      {"/model/merges/0", {"e", "nowhere"}, "model.merges[0]: names \"nowhere\""},
      {"/model/merges/0", "e r x", "model.merges[0]: must be two pieces"},
      {"/model/merges/0", {"e"}, "model.merges[0]: must be two pieces"},
      {"/model/merges/1", {"e", "r"}, "model.merges[1]: repeats"},
      {"/model/merges", 7, "model.merges: must be an array"},
      {"/added_tokens/0/content", "", "added_tokens[0].content"},
      {"/added_tokens/0/content", std::string(300, 'x'), "added_tokens[0].content"},
      {"/added_tokens/1/content", "<｜begin▁of▁sentence｜>", "appears twice"},
      {"/added_tokens/3/id", 100, "id 100 is used twice"},
      {"/added_tokens/0/id", 77, "but model.vocab says 0"},
      {"/added_tokens/0/lstrip", true, "added_tokens[0].lstrip"},
      {"/added_tokens/0/special", 1, "added_tokens[0].special"},
      {"/added_tokens/0", "x", "added_tokens[0]"},
  };
  const Json demo = DemoJson();
  for (const Case& c : cases) {
    Json json = demo;
    json[Json::json_pointer(c.pointer)] = c.value;
    const auto tokenizer = LoadText(json.dump());
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument) << c.pointer;
    EXPECT_NE(tokenizer.status().message().find(c.message), std::string::npos) << tokenizer.status();
    EXPECT_NE(tokenizer.status().message().find("tokenizer.json"), std::string::npos) << tokenizer.status();
  }
}

TEST(TokenizerFile, BrokenFilesAreRefused) {
  EXPECT_EQ(Tokenizer::Load("/nonexistent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Tokenizer::Load(longshelf::testing::FixturePath("")).status().code(), absl::StatusCode::kNotFound);
  std::mt19937_64 rng(6);
  const std::string good = DemoJson().dump();
  EXPECT_TRUE(LoadText(good).ok());
  const std::string bad[] = {"",
                             "{",
                             "[]",
                             "null",
                             std::string(100'000, '['),
                             std::string(100'000, '{'),
                             "{\"model\": " + std::string(1000, '[') + std::string(1000, ']') + "}",
                             "\xFF\xFE",
                             good.substr(0, good.size() / 2),
                             testing::RandomBytes(rng, 10'000)};
  for (const std::string& text : bad) {
    EXPECT_EQ(LoadText(text).status().code(), absl::StatusCode::kInvalidArgument) << text.substr(0, 40);
  }
}

TEST(TokenizerFile, AByteOrderMarkIsPassedOver) { EXPECT_TRUE(LoadText("\xEF\xBB\xBF" + DemoJson().dump()).ok()); }

TEST(TokenizerFile, APointerOfGitLfsIsCalledByItsName) {
  const auto loaded = LoadText("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 7847652\n");
  EXPECT_NE(loaded.status().message().find("tokenizer.json: is a Git LFS pointer"), std::string::npos)
      << loaded.status();
}

TEST(TokenizerFile, MutatedFilesAreRefusedOrWork) {
  std::mt19937_64 rng(7);
  const std::string good = DemoJson().dump();
  for (int round = 0; round < 150; ++round) {
    std::string text = good;
    for (size_t n = 1 + testing::Below(rng, 3); n > 0; --n) {
      const size_t pos = testing::Below(rng, text.size());
      switch (testing::Below(rng, 3)) {
        case 0:
          text[pos] = testing::Pick(rng, std::string_view("0129\"[]{},: x\\"));
          break;
        case 1:
          text.erase(pos, 1 + testing::Below(rng, 8));
          break;
        default:
          text.insert(pos, 1, testing::Pick(rng, std::string_view("09\"[]{},:")));
      }
    }
    const auto tokenizer = LoadText(text);
    if (!tokenizer.ok()) continue;
    const auto ids = (*tokenizer)->Encode("fixed text 12 東京 <think>\n");
    ASSERT_TRUE(ids.ok());
    for (const uint32_t id : *ids) EXPECT_LT(id, (*tokenizer)->vocab_size());
  }
}

// Contents that overlap, in both rounds of matching.
TEST(TokenizerFile, AddedTokensMatchLeftmostAndLongestAndNormalizedOnesAfterTheOthers) {
  Json json = DemoJson();
  const auto add = [&json](uint32_t id, const char* content, bool normalized) {
    json["added_tokens"].push_back({{"id", id}, {"content", content}, {"special", false}, {"normalized", normalized}});
  };
  add(5000, "[[ab", false);
  add(5001, "[[abc]]", false);
  add(5002, "c]]", false);
  add(5003, "b[[", true);
  add(5004, "東京", false);
  const auto loaded = LoadText(json.dump());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Tokenizer& tokenizer = **loaded;
  using Ids = std::vector<uint32_t>;
  EXPECT_EQ(*tokenizer.Encode("[[abc]]"), Ids{5001});
  EXPECT_EQ(*tokenizer.Encode("[[abc]"), (Ids{5000, *tokenizer.TokenId("c"), *tokenizer.TokenId("]")}));
  EXPECT_EQ(*tokenizer.Encode("c]][[abc]]"), (Ids{5002, 5001}));
  EXPECT_EQ(*tokenizer.Encode("b[[abc]]"), (Ids{*tokenizer.TokenId("b"), 5001}));
  EXPECT_EQ(*tokenizer.Encode("b[[x"), (Ids{5003, *tokenizer.TokenId("x")}));
  EXPECT_EQ(*tokenizer.Encode("東京東京"), (Ids{5004, 5004}));
  EXPECT_EQ(tokenizer.vocab_size(), 5005u);
  EXPECT_EQ(tokenizer.TokenBytes(4999), "");
  EXPECT_FALSE(tokenizer.IsSpecial(5000));
  EXPECT_EQ(tokenizer.Decode(Ids{5000, 4999, 5004}), "[[ab東京");
}

TEST(TokenizerFile, PatternsMaySpellNewlinesAndQuotesEitherWay) {
  Json json = DemoJson();
  auto& regex = json["pre_tokenizer"]["pretokenizers"][2]["pattern"]["Regex"];
  std::string text = regex.get<std::string>();
  for (const auto& [from, to] : {std::pair{"\\r\\n", "\r\n"}, std::pair{"\\\"", "\""}}) {
    for (size_t at = text.find(from); at != std::string::npos; at = text.find(from)) {
      text.replace(at, std::string_view(from).size(), to);
    }
  }
  ASSERT_NE(text, regex.get<std::string>());
  regex = text;
  EXPECT_TRUE(LoadText(json.dump()).ok());
}

}  // namespace
}  // namespace longshelf::tokenizer
