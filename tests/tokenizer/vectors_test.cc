#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>

#include "testing/fixtures.h"
#include "tokenizer/tokenizer.h"

namespace longshelf::tokenizer {
namespace {

struct VectorFile {
  const char* name;
  std::filesystem::path model_dir;
  size_t cases;
};

std::vector<VectorFile> VectorFiles() {
  return {{"demo", testing::ModelPath("demo"), 500},
          {"deepseek-v4", testing::FixturePath("tokenizers/deepseek-v4"), 1500}};
}

std::shared_ptr<const Tokenizer> LoadOrDie(const std::filesystem::path& dir) {
  auto tokenizer = Tokenizer::Load(dir);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *tokenizer : nullptr;
}

TEST(TokenizerVectors, EveryTextEncodesToTheReferenceIdsAndDecodesToTheReferenceText) {
  for (const VectorFile& file : VectorFiles()) {
    const auto tokenizer = LoadOrDie(file.model_dir);
    ASSERT_NE(tokenizer, nullptr);
    std::ifstream in(testing::FixturePath(std::string("tokenizers/") + file.name + ".json"));
    const nlohmann::json cases = nlohmann::json::parse(in);
    ASSERT_EQ(cases.size(), file.cases);
    for (const auto& c : cases) {
      const auto text = c.at("text").get<std::string>();
      const auto expected = c.at("ids").get<std::vector<uint32_t>>();
      const auto ids = tokenizer->Encode(text);
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ(*ids, expected) << file.name << ": " << text;
      EXPECT_EQ(tokenizer->Decode(expected), c.at("decoded").get<std::string>());
    }
  }
}

TEST(TokenizerVectors, TheFullVocabularyLoads) {
  const auto tokenizer = LoadOrDie(testing::FixturePath("tokenizers/deepseek-v4"));
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), 129280u);
  EXPECT_EQ(tokenizer->TokenId("<\xEF\xBD\x9CUser\xEF\xBD\x9C>"), 128803u);
}

}  // namespace
}  // namespace longshelf::tokenizer
