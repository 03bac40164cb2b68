#include "router/served_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "testing/fixtures.h"

namespace longshelf::router {
namespace {

TEST(Prepare, KeepsTheTokensAndNotTheText) {
  ServedModel model;
  model.name = "demo";
  model.n_context_max = 100;
  const PrepareContext context{{"alice"}, "secret", std::make_shared<const NamespaceIds>(), std::nullopt};
  const std::vector<uint32_t> tokens = {5, 6, 7};
  ApiRequest request;
  request.api = Api::kCompletions;
  request.prompts = {tokens};
  request.messages.resize(1);
  const auto prepared = Prepare(model, context, request);
  ASSERT_TRUE(std::holds_alternative<PreparedRequest>(prepared));
  const auto& [kept, prompt] =
      std::pair(std::get<PreparedRequest>(prepared).request, *std::get<PreparedRequest>(prepared).first().tokens);
  EXPECT_EQ(prompt, tokens);
  EXPECT_TRUE(kept.messages.empty());
  EXPECT_TRUE(kept.prompts.empty());
}

// The demo model with another config.json.
absl::StatusOr<ServedModel> LoadWith(const std::string& config) {
  const std::filesystem::path dir = testing::MakeTempDir("served");
  std::filesystem::copy(testing::ModelPath("demo") / "tokenizer.json", dir);
  std::ofstream(dir / "config.json") << config;
  return ServedModel::Load(dir, "", tokenizer::ChatDialect::kPreview);
}

TEST(ServedModel, TakesAByteOrderMarkAndWholeNumbersThatAreWrittenAsFractions) {
  const std::string fields = R"({"vocab_size": 8000.0, "max_position_embeddings": 65536.0, "eos_token_id": [1.0]})";
  const auto model = LoadWith("\xEF\xBB\xBF" + fields);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->n_context_max, 65536U);
  EXPECT_EQ(model->stop_token_ids, std::vector<uint32_t>({1}));
  const auto refused = LoadWith(R"({"vocab_size": 8000, "max_position_embeddings": 65536.5, "eos_token_id": 1})");
  EXPECT_NE(refused.status().message().find("max_position_embeddings must be a whole number"), std::string::npos)
      << refused.status();
}

TEST(ServedModel, EndsWithWhatGenerationConfigSaysBeforeConfig) {
  const std::string fields = R"({"vocab_size": 8000, "max_position_embeddings": 65536, "eos_token_id": 1})";
  const auto load = [&](const std::string& generation, const std::string& config) {
    const std::filesystem::path dir = testing::MakeTempDir("served");
    std::filesystem::copy(testing::ModelPath("demo") / "tokenizer.json", dir);
    std::ofstream(dir / "config.json") << config;
    std::ofstream(dir / "generation_config.json") << generation;
    return ServedModel::Load(dir, "", tokenizer::ChatDialect::kPreview);
  };
  using Ids = std::vector<uint32_t>;
  EXPECT_EQ(load(R"({"eos_token_id": [1, 7]})", fields)->stop_token_ids, (Ids{1, 7}));
  EXPECT_EQ(load(R"({"eos_token_id": 9})", fields)->stop_token_ids, Ids{9});
  EXPECT_EQ(load(R"({"eos_token_id": null})", fields)->stop_token_ids, Ids{1});
  EXPECT_EQ(load(R"({"temperature": 1.0})", fields)->stop_token_ids, Ids{1});
  const std::string without = R"({"vocab_size": 8000, "max_position_embeddings": 65536})";
  EXPECT_EQ(load(R"({"eos_token_id": 9})", without)->stop_token_ids, Ids{9});
  for (const auto& [generation, config, part] :
       {std::tuple(R"({"eos_token_id": [1, 8000]})", fields, "generation_config.json: eos_token_id must be a token id"),
        std::tuple(R"({"eos_token_id": []})", fields, "generation_config.json: eos_token_id"),
        std::tuple(R"({"eos_token_id": "1"})", fields, "generation_config.json: eos_token_id"),
        std::tuple("[]", fields, "generation_config.json is not a JSON object"),
        std::tuple("{}", without, "config.json: eos_token_id")}) {
    const auto refused = load(generation, config);
    EXPECT_NE(refused.status().message().find(part), std::string::npos) << refused.status();
  }
}

// What stands in a text is text, unless the router is told to do as DeepSeek does.
TEST(Prepare, ControlTokensInTheTextsOfAChatAreTextOrTokens) {
  auto model = ServedModel::Load(testing::ModelPath("demo"), "", tokenizer::ChatDialect::kPreview);
  ASSERT_TRUE(model.ok()) << model.status();
  const PrepareContext context{{"alice"}, "secret", std::make_shared<const NamespaceIds>(), std::nullopt};
  const auto tokens = [&](Api api) {
    ApiRequest request;
    request.api = api;
    request.messages.resize(1);
    request.messages[0].role = "user";
    request.messages[0].content = "hi<｜end▁of▁sentence｜>";
    request.prompts = {"hi<｜end▁of▁sentence｜>"};
    auto prepared = Prepare(*model, context, std::move(request));
    return *std::get<PreparedRequest>(prepared).first().tokens;
  };
  const auto n_ends = [&](Api api) {
    const std::vector<uint32_t> ids = tokens(api);
    return std::count(ids.begin(), ids.end(), 1U);
  };
  EXPECT_EQ(n_ends(Api::kChat), 0);
  EXPECT_EQ(n_ends(Api::kCompletions), 1) << "a raw prompt is the client's own encoding";
  model->control_tokens_in_text = true;
  EXPECT_EQ(n_ends(Api::kChat), 1);
}

TEST(ServedModel, CallsAPointerOfGitLfsByItsName) {
  const auto refused = LoadWith("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1234\n");
  EXPECT_NE(refused.status().message().find("config.json: is a Git LFS pointer"), std::string::npos)
      << refused.status();
}

}  // namespace
}  // namespace longshelf::router
